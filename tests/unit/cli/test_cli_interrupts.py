"""Ctrl-C while the program starts and ends: the exit code of an interrupt, and not a word."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Runs the program as its console script does, and presses Ctrl-C at a moment of it.
_SCRIPT = """
import _signal, os, sys
moment, *arguments = sys.argv[1:]
sys.argv[1:] = arguments

class Press:
    def find_spec(self, name, path, target=None):
        if name == moment:
            os.kill(os.getpid(), _signal.SIGINT)

sys.meta_path.insert(0, Press())
if moment == "the end":
    import atexit
    atexit.register(os.kill, os.getpid(), _signal.SIGINT)
from modelkeep.cli import start
sys.exit(start())
"""


def interrupted(moment: str, *arguments: str, ignored: bool = False) -> subprocess.CompletedProcess[str]:
    trap = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if ignored else []
    return subprocess.run(
        [*trap, sys.executable, "-c", _SCRIPT, moment, *arguments],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )


@pytest.mark.parametrize("moment", ["modelkeep.cli.main", "typer", "modelkeep.supervisor", "the end"])
def test_ctrl_c_before_and_after_a_commands_work_ends_the_program_quietly(moment: str) -> None:
    ended = interrupted(moment, "up", "--host", "no.such.host.invalid", "--data-dir", "/proc/none")
    assert (ended.returncode, ended.stderr) == (130, "")


def test_ctrl_c_that_is_ignored_in_the_background_stays_ignored() -> None:
    ended = interrupted("typer", "--version", ignored=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("modelkeep ")
