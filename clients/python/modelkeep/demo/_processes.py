"""The demo's child processes, and what they answer."""

from __future__ import annotations

import importlib.util
import json
import select
from pathlib import Path
from typing import Any

from modelkeep import processes
from modelkeep.exceptions import ModelkeepError

#: Seconds that one answer may take; the first includes importing torch and diffusers.
_ANSWER_TIMEOUT_S = 240.0
_END_TIMEOUT_S = 20.0
_NEEDED = ("torch", "diffusers", "transformers", "PIL")


class DemoFailed(ModelkeepError):
    """Something that the demo needs did not work."""


def check_requirements() -> None:
    """See whether this environment has what the children import.

    Raises:
        DemoFailed: It has not.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoFailed(f"The demo needs {', '.join(missing)}: pip install 'modelkeep[all]'.")


def temporary_files_in(folder: Path) -> dict[str, str]:
    """Settings for processes that leave things behind when they are killed: these go with the folder."""
    return {"TMPDIR": str(folder)}


class Child:
    """A module of the demo as a process of its own, started at once.

    It answers with lines of JSON, and its input is a pipe from here: it ends when this process does.

    Args:
        module: Name of the module in this package.
        arguments: Its command line.
        folder: For its log and its temporary files.
    """

    def __init__(self, module: str, *arguments: str, folder: Path) -> None:
        self.name = f"{module.strip('_')} process"
        log, number = folder / f"{module.strip('_')}.log", 1
        while log.exists():
            number += 1
            log = folder / f"{module.strip('_')}-{number}.log"
        self._log = log
        # Byte code that is not kept costs each child seconds.
        environment = {**temporary_files_in(folder), "PYTHONDONTWRITEBYTECODE": None}
        with log.open("wb") as errors:
            self._process = processes.start(
                f"modelkeep.demo.{module}",
                *arguments,
                environment=environment,
                stdin=processes.PIPE,
                stdout=processes.PIPE,
                stderr=errors,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, **order: Any) -> None:
        """Give it an order."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> dict[str, Any]:
        """Wait for its next answer.

        Raises:
            DemoFailed: It could not do it, or has ended.
        """
        stream = self._process.stdout
        assert stream is not None
        if not select.select([stream], [], [], _ANSWER_TIMEOUT_S)[0]:
            raise DemoFailed(f"The {self.name} {self.pid} did not answer for {_ANSWER_TIMEOUT_S:g} s.")
        line = stream.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DemoFailed(f"The {self.name} {self.pid} could not do it: {answer['error']}")
        return answer

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give it an order, and wait for the answer."""
        self.tell(**order)
        return self.answer()

    def kill(self) -> None:
        """Send SIGKILL; returns at once."""
        self._process.kill()

    def close(self, *, at_once: bool = False) -> None:
        """End its input and wait until it has ended; `at_once` does not let it finish."""
        if at_once:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        if self._process.wait(_END_TIMEOUT_S) is None:
            self._process.end()

    def _ended(self) -> DemoFailed:
        code = self._process.wait()
        said = self._log.read_text(errors="replace").splitlines()[-15:]
        lines = "\n".join(f"  {line}" for line in said)
        return DemoFailed(f"The {self.name} {self.pid} ended ({code}); it said:\n{lines}")
