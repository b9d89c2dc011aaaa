"""The README's tour: every block below a ``<!-- tour -->`` line is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep.client import Client
from support.suite import service_suite

README = Path(__file__).resolve().parents[2] / "README.md"
_BLOCK = re.compile(r"^<!-- tour -->\n+```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(text: str) -> list[tuple[str, str]]:
    """(language, source) of each marked block, in order."""
    return [(match[1], match[2]) for match in _BLOCK.finditer(text)]


def as_one_script(blocks: list[tuple[str, str]], folder: Path) -> str:
    """The tour as one bash script: a variable or a background server of one block is there in the next."""
    script = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, (language, source) in enumerate(blocks):
        if language == "python":
            (folder / f"tour_{number}.py").write_text(source)
            script.append(f"python tour_{number}.py")
        else:
            script.append(source)
    return "\n".join(script)


def test_marked_blocks_are_found_and_others_are_not() -> None:
    first, other, second = "```sh\none\n```\n", "```sh\nnot this\n```\n", "```python\ntwo()\n```\n"
    text = f"<!-- tour -->\n{first}\n{other}\n<!-- tour -->\n\n{second}"
    assert blocks_of(text) == [("sh", "one\n"), ("python", "two()\n")]


@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_tour_of_the_readme_works_as_it_stands_there(data_dir: Path) -> None:
    blocks = blocks_of(README.read_text())
    assert blocks, "the README has no tour"
    # The folder and the lookup of run/suite.json are those of somebody who typed `make run` here.
    # The loader's helper imports its libraries while the first command builds the model.
    with service_suite(data_dir / "modelkeep-data", env={"MODELKEEP_LOADER_WARM_HELPER": "true"}):
        run = subprocess.run(
            ["bash", "-c", as_one_script(blocks, data_dir)],
            cwd=data_dir,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "NO_COLOR": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
        with Client(data_dir=data_dir / "modelkeep-data") as client:
            names = [model.name for model in client.model_record_store.all_models()]
    assert len(names) == len(set(names)) > 1, "a command of the tour that names a model would be ambiguous"
