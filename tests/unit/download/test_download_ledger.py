"""What tells which small files of a download are whole."""

from __future__ import annotations

import json
from pathlib import Path

from modelkeep_download.engine.ledger import Ledger


def test_what_is_noted_is_told_to_the_next_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "whole")
    ledger.note(0, '5 "a"', 5)
    ledger.note(7, '0 "b"', 0)
    assert Ledger(tmp_path / "whole").told == {0: ('5 "a"', 5), 7: ('0 "b"', 0)}


def test_a_line_that_a_kill_tore_counts_as_none(tmp_path: Path) -> None:
    Ledger(tmp_path / "whole").note(0, '5 "a"', 5)
    with (tmp_path / "whole").open("a") as file:
        file.write('["x", 1, "6')
    assert Ledger(tmp_path / "whole").told == {0: ('5 "a"', 5)}


def test_what_was_forgotten_has_no_bytes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "whole")
    ledger.note(0, '5 "a"', 5)
    ledger.forget(0)
    ledger.forget(1)
    assert Ledger(tmp_path / "whole").told == {0: ("", 0)}


def test_after_the_machine_started_anew_nothing_counts(tmp_path: Path) -> None:
    (tmp_path / "whole").write_text(json.dumps(["another boot", 0, '5 "a"', 5]) + "\n")
    assert Ledger(tmp_path / "whole").told == {}
