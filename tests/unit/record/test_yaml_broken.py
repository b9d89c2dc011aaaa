"""A YAML file of records that cannot be read: the mistake is told with its place, and nothing changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    DiskFullException,
    StoreFileBrokenException,
)
from modelkeep_record.stores.yaml import (
    BrokenFileError,
    WrongFileError,
    file,
)
from modelkeep_record.stores.yaml.state import Change
from support.records import vae
from support.yamlfile import MINE, add, by_name, create, opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models.yaml"


@pytest.mark.parametrize(
    ("make", "place", "what"),
    [
        (lambda text: text + "x:\n  name: [a\n", (2, 9), "flow sequence"),
        (lambda text: text + "日本: [\n\n", (1, 5), "flow node"),
        (lambda text: text + MINE + MINE, (11, 1), "the entry my-vae is there already"),
        (
            lambda text: text + MINE + MINE.replace("my-vae", "two"),
            (13, 9),
            "path of two is that of my-vae: /mine",
        ),
        (lambda text: text + MINE.replace("vae\n", "vea\n"), (6, 15), "vae is meant, perhaps"),
        (lambda text: text + "---\nx: 1\n", (1, 1), "one file is one document"),
        (lambda text: text + "... # end\n", (1, 1), "one file is one document"),
        (lambda text: text + "x:\n  labels: [a]\n", (2, 11), "labels must have"),
        (lambda text: " x: 1\n" + text, (-1, 2), "an entry must begin at the first column"),
        (lambda text: text.replace("__metadata__", "metadata"), (-1, 1), "no entry __metadata__"),
        (lambda text: text.replace("__metadata__:", "__metadata__::"), (-1, 1), "no entry __metadata__"),
        (lambda text: text.replace("version: 3.2.0", "version: 3.3.0"), (-5, 12), "newer than this program"),
        (lambda text: text.replace("version: 3.2.0", "version: new"), (-5, 12), "such as 3.2.0, not 'new'"),
        (lambda text: text + "x: \x07", (1, 4), r"has the character U\+0007"),
        (lambda text: text + "x: {a: 1, a: 2}\n", (1, 11), "a is there already, in the same line"),
    ],
    ids=[
        "syntax",
        "open",
        "twice",
        "path",
        "value",
        "document",
        "end",
        "odd",
        "column",
        "marker",
        "colons",
        "newer",
        "version",
        "control",
        "pair",
    ],
)
def test_a_broken_hand_edit_changes_nothing_until_it_is_mended(
    path: Path, make: Callable[[str], str], place: tuple[int, int], what: str
) -> None:
    changes: list[Change] = []
    records = opened(path, changes)
    create(records, vae("one"))
    changes.clear()
    good, broken = path.read_text(), make(path.read_text())
    path.write_text(broken)
    line = good.count("\n") + place[0] if place[0] > 0 else -place[0]
    with pytest.raises(BrokenFileError, match=what) as told:
        opened(path)
    assert (told.value.line, told.value.column) == (line, place[1])
    assert f"line {line}, column {place[1]}" in str(told.value)
    with pytest.raises(StoreFileBrokenException, match=what) as refused:
        create(records, vae("two"))
    assert refused.value.metadata == {"path": str(path), "line": str(line), "column": str(place[1])}
    assert set(by_name(records.state)) == {"one"}
    assert (path.read_text(), changes) == (broken, [])
    path.write_text(good + MINE)
    create(records, vae("two"))
    assert set(by_name(records.state)) == {"one", "mine", "two"}


def test_what_a_person_wrote_while_no_program_ran_is_held_to_the_rules_too(path: Path) -> None:
    create(opened(path), vae("one", labels={"a": "b"}))
    good = path.read_text()
    path.write_text(good.replace("    a: b", "    A B: c"))
    with pytest.raises(BrokenFileError, match="its key must be") as told:
        opened(path)
    assert told.value.line == good[: good.index("    a: b")].count("\n") + 1
    path.write_text(good)
    assert set(by_name(opened(path).state)) == {"one"}


def test_a_file_that_is_gone_loses_no_record(path: Path) -> None:
    records = opened(path)
    create(records, vae("one"))
    away = path.rename(path.with_name("away"))
    with pytest.raises(StoreFileBrokenException, match="is not there"):
        create(records, vae("two"))
    assert set(by_name(records.state)) == {"one"}
    away.rename(path)
    create(records, vae("two"))
    assert set(by_name(records.state)) == {"one", "two"}


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_in_its_place_loses_no_record(path: Path, make: Callable[[Path], None]) -> None:
    records = opened(path)
    create(records, vae("one"))
    away = path.rename(path.with_name("away"))
    make(path)
    with pytest.raises(StoreFileBrokenException, match=r"is a folder|is no file"):
        create(records, vae("two"))
    with pytest.raises(WrongFileError, match=r"is a folder|is no file"):
        opened(path)
    assert set(by_name(records.state)) == {"one"}
    path.rmdir() if path.is_dir() else path.unlink()
    away.rename(path)
    create(records, vae("two"))
    assert set(by_name(records.state)) == {"one", "two"}


@pytest.mark.parametrize("contents", ["a: 1\n", "- 1\n", "text", "{}", "__metadata__: 1\n", "\x7fELF\x00"])
def test_a_file_of_another_kind_is_refused_and_left_alone(path: Path, contents: str) -> None:
    path.write_text(contents)
    with pytest.raises(BrokenFileError):
        opened(path)
    assert path.read_text() == contents


def test_a_file_of_other_bytes_is_refused_with_its_place(path: Path) -> None:
    path.write_bytes(b"__metadata__:\n  version: 3.2.0\nx:\n  name: \xff\n")
    with pytest.raises(BrokenFileError, match="line 4, column 9: is not UTF-8"):
        opened(path)


def test_an_empty_file_becomes_one_of_records(path: Path) -> None:
    path.write_text("\n")
    create(opened(path), vae("one"))


def test_a_file_beyond_reason_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = opened(path)
    create(records, vae("one"))
    monkeypatch.setattr(file, "MAX_BYTES", path.stat().st_size + 100)
    with pytest.raises(DiskFullException, match=r"would have more than .* Keep so many records in SQLite"):
        create(records, vae("two"))
    assert set(by_name(records.read())) == {"one"}
    add(path, "#" * 200)
    with pytest.raises(BrokenFileError, match="has more than"):
        opened(path)
    with pytest.raises(StoreFileBrokenException, match="has more than"):
        create(records, vae("two"))
