"""Processes that tests fork are as much apart as others."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from support.forked import DRAWN, stem

ROOT = Path(__file__).resolve().parents[3]
_AS_IT_IMPORTS = re.compile(r"^(\w+)[^=\n]* = (?:secrets|random|uuid\.uuid\d)\b", re.MULTILINE)


def told(program: str, into: Path) -> str:
    """What a forked process prints when it runs some lines, once."""
    with into.open("w+b") as out:
        # A module of Python's own that runs what its command line says.
        arguments = ("-n", "1", "-r", "1", "-s", program)
        started = stem().start("timeit", *arguments, environment=os.environ, stdout=out, stderr=out)
        assert started.wait(20) == 0, into.read_text()
    return into.read_text().partition("\n")[0]


def test_what_a_process_draws_by_lot_is_its_own(tmp_path: Path) -> None:
    for place, name in DRAWN:
        program = f"from importlib import import_module as get; print(repr(get({place!r}).{name}))"
        first, second = (told(program, tmp_path / "said") for _ in range(2))
        assert first != second, (place, name)


def test_all_that_processes_draw_by_lot_as_they_import_is_known() -> None:
    found = set()
    for base in (ROOT / "services", ROOT / "clients" / "python"):
        for path in base.rglob("*.py"):
            for name in _AS_IT_IMPORTS.findall(path.read_text("utf-8")):
                found.add((".".join(path.relative_to(base).with_suffix("").parts), name))
    assert found == set(DRAWN)


def test_a_test_that_is_interrupted_leaves_no_answer_to_the_next(tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise InterruptedError

    main, origin = threading.main_thread().ident, stem()._process
    assert main is not None
    before = signal.signal(signal.SIGUSR1, interrupt)
    origin.send_signal(signal.SIGSTOP)
    try:
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        with pytest.raises(InterruptedError):
            told("print('first')", tmp_path / "first")
    finally:
        origin.send_signal(signal.SIGCONT)
        signal.signal(signal.SIGUSR1, before)
    assert told("print('second')", tmp_path / "second") == "second"
