"""What a partial file has, as the files beside it tell."""

from __future__ import annotations

from pathlib import Path

from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine import piece_map


def test_of_what_was_told_while_the_process_lived_the_last_counts(tmp_path: Path) -> None:
    partial = tmp_path / "data"
    for size in (10, 20, 15):
        piece_map.keep(partial, "a", ByteRanges.first(size), durable=False)
    assert piece_map.kept(partial, "a") == ByteRanges.first(15)


def test_a_line_that_a_kill_tore_leaves_the_one_before_it(tmp_path: Path) -> None:
    partial = tmp_path / "data"
    piece_map.keep(partial, "a", ByteRanges.first(10), durable=False)
    with (tmp_path / "data.pieces.live").open("a") as live:
        live.write('{"object": "a", "boo')
    assert piece_map.kept(partial, "a") == ByteRanges.first(10)


def test_a_long_history_is_begun_anew(tmp_path: Path) -> None:
    partial, live = tmp_path / "data", tmp_path / "data.pieces.live"
    piece_map.keep(partial, "a", ByteRanges.first(1), durable=False)
    line = live.read_bytes()
    live.write_bytes(line * (300_000 // len(line)))
    piece_map.keep(partial, "a", ByteRanges.first(2), durable=False)
    assert live.stat().st_size < 1000
    assert piece_map.kept(partial, "a") == ByteRanges.first(2)


def test_what_is_durable_counts_besides_and_is_one_line(tmp_path: Path) -> None:
    partial = tmp_path / "data"
    piece_map.keep(partial, "a", ByteRanges.of([(20, 30)]), durable=False)
    for size in (5, 10):
        piece_map.keep(partial, "a", ByteRanges.first(size), durable=True)
    assert (tmp_path / "data.pieces").read_text().count("\n") == 1
    assert piece_map.kept(partial, "a") == ByteRanges.of([(0, 10), (20, 30)])
    assert piece_map.kept(partial, "b") is None
