"""The command line's first moments, and what it does before any service is asked."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from modelkeep.cli import _complete, _jobs, _places
from modelkeep.cli._options import chosen, forget
from modelkeep.cli._verbs import PLACE
from modelkeep.cli.main import app

#: Sends Ctrl-C to the process itself as soon as a module is looked for.
_INTERRUPTED = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {signal})
sys.meta_path.insert(0, Finder())
sys.argv = ["modelkeep", "list"]
from modelkeep.cli import start
start()
"""


@pytest.mark.parametrize(
    "module", ["modelkeep.cli.main", "typer", "modelkeep.cli._cache", "modelkeep.client", "grpc"]
)
def test_ctrl_c_while_it_is_being_imported_is_no_traceback(module: str, tmp_path: Path) -> None:
    code = _INTERRUPTED.format(module=module, signal=int(signal.SIGINT))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_little_is_imported_before_ctrl_c_is_taken_care_of() -> None:
    code = "import sys; before = set(sys.modules); import modelkeep.cli; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {
        "modelkeep",
        "modelkeep.cli",
        "modelkeep.cli._interrupts",
        "__future__",
    }


def verbs() -> list[list[str]]:
    """Every command, as it is typed."""
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [[name, below] for below in getattr(command, "commands", {})] or [[name]]
    return found


@functools.cache
def asked_for_help(*verb: str) -> Result:
    """What a command says of itself; it takes a tenth of a second, and several tests read it."""
    return CliRunner().invoke(app, [*verb, "--help"])


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_every_verb_has_examples_and_says_which_suite_it_talks_to(verb: list[str]) -> None:
    result = asked_for_help(*verb)
    assert result.exit_code == 0
    assert f"modelkeep {' '.join(verb)}" in result.stdout.partition("Examples:")[2]
    for option in PLACE:
        assert f"--{option.replace('_', '-')}" in result.stdout, option


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_every_answer_that_is_a_list_can_be_watched_filtered_and_written_otherwise(verb: list[str]) -> None:
    text = asked_for_help(*verb).stdout
    if "--quiet" in text:
        for option in (
            "--output",
            "--json",
            "--no-trunc",
            "--filter",
            "--sort",
            "--reverse",
            "--limit",
            "--watch",
        ):
            assert option in text, option


def test_the_help_of_a_list_tells_what_it_is_filtered_and_sorted_by() -> None:
    for verb in (
        ["list"],
        ["installs", "list"],
        ["downloads", "list"],
        ["cache", "residents"],
        ["cache", "leases"],
    ):
        text = " ".join(asked_for_help(*verb).stdout.split())
        assert re.search(r"Filters: \w+, .*state.*\. Columns: \w+, .*\.", text), verb


@pytest.mark.parametrize("arguments", [["lst"], ["downloads", "ad"]])
def test_of_a_verb_that_there_is_not_the_near_one_is_told(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "Did you mean" in result.stderr


def test_nothing_of_one_command_stays_for_the_next(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["list", "--data-dir", str(tmp_path), "--json", "--filter", "type=lora"])
    CliRunner().invoke(app, ["context", "ls"])
    assert (chosen().data_dir, chosen().as_data, chosen().filters) == (None, False, ())


@pytest.mark.parametrize("text", ["", "record", "record=", "=x:1", "recorder=x:1"])
def test_an_address_without_a_service_is_refused(text: str) -> None:
    result = CliRunner().invoke(app, ["list", "--address", text])
    assert (result.exit_code, "SERVICE=ADDRESS" in result.stderr) == (2, True)


def test_the_environment_wins_over_the_context_in_use_and_options_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELKEEP_CONFIG", str(tmp_path / "config.json"))
    here = _places.Place(data_dir="/here", addresses={"loader": "far:1"}, token_file="/token")
    _places.write(_places.Config(current="lab", contexts={"lab": here}))
    forget()
    assert _places.place() == here
    _places.choose_place(address=["record=near:1"])
    assert _places.place().addresses == {"loader": "far:1", "record": "near:1"}
    forget()
    monkeypatch.setenv("MODELKEEP_DATA_DIR", "/there")
    assert _places.place() == _places.Place()
    _places.choose_place(context="lab")
    assert _places.place() == here
    forget()
    _places.choose_place(data_dir=Path("/other"))
    assert _places.place() == _places.Place(data_dir="/other")
    forget()


def test_the_shell_completes_what_the_api_lists_also_after_a_comma() -> None:
    assert _complete.types("lo") == ["lora"]
    assert _complete.types("vae,lo") == ["vae,lora"]
    assert "sdxl" in _complete.bases("sdx")


def test_a_completion_without_a_suite_is_empty_and_silent(tmp_path: Path) -> None:
    words = f"modelkeep show --data-dir {tmp_path} ab"
    done = subprocess.run(
        [sys.executable, "-m", "modelkeep.cli"],
        env={**os.environ, "_MODELKEEP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_with_json_wrong_usage_is_one_object() -> None:
    for arguments in (["lst", "--json"], ["list", "--limit", "x", "-o", "json"]):
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, json.loads(result.stderr)["reason"]) == (2, "USAGE")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, 0.0), ("90s", 90.0), ("15 MIN", 900.0), ("1.5h", 5400.0), ("7", 604_800.0), ("7d", 604_800.0)],
)
def test_ages_have_units_and_a_number_alone_is_days(text: str | None, seconds: float) -> None:
    assert _jobs.age_s(text) == seconds


@pytest.mark.parametrize("arguments", [["--older-than", "soon"], ["--state", "running"], ["--state", "err"]])
@pytest.mark.parametrize("kind", ["installs", "downloads"])
def test_what_has_not_ended_is_not_pruned_by_a_slip(kind: str, arguments: list[str]) -> None:
    assert CliRunner().invoke(app, [kind, "prune", *arguments]).exit_code == 2


@pytest.mark.parametrize("option", [["--address", "record=x:1"], ["--token-file", "/x"], ["--context", "x"]])
@pytest.mark.parametrize("verb", ["up", "demo"])
def test_what_starts_a_suite_of_its_own_calls_no_other(verb: str, option: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [verb, *option, "--data-dir", str(tmp_path / "none")])
    assert (result.exit_code, (tmp_path / "none").exists()) == (2, False)
    assert option[0] in result.stderr


def test_a_configuration_file_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODELKEEP_CONFIG", str(tmp_path / "file" / "config.json"))
    result = CliRunner().invoke(app, ["context", "add", "x", "--data-dir", "/x"])
    assert (result.exit_code, "config.json" in result.stderr) == (2, True)
