"""Lists: captures of every table, what fits which terminal, and which rows are shown."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.cli import _table, _terminal, _watching
from modelkeep.cli._listing import Column, Listing, size_column
from modelkeep.cli._options import Format, Options, choose, forget
from modelkeep.cli._output import print_facts
from modelkeep.cli._select import selected
from modelkeep.cli._terminal import Terminal, cells, visible
from modelkeep.client import WatchFrame
from modelkeep.client._watch import WatchEvent
from support.cli_captures import FOLDER, captures

_COLOUR = re.compile(r"\x1b\[\d+m")


@pytest.fixture(autouse=True)
def _nothing_chosen() -> Any:
    forget()
    yield
    forget()


@dataclass
class Thing:
    """What the lists of these tests list."""

    name: str
    size: int = 0
    state: str = ""


LISTING: Listing[Thing] = Listing(
    "thing",
    "things",
    (
        Column("NAME", lambda t: t.name, cut="end"),
        size_column(lambda t: t.size, drop=1),
        Column("STATE", lambda t: t.state, drop=2),
        Column("NOTE", lambda t: t.name * 2, drop=3, cut="start"),
    ),
    key=lambda t: t.name,
    name=lambda t: t.name,
    data=lambda t: {"name": t.name, "size_bytes": t.size},
    filters={"name": lambda t: (t.name,), "state": lambda t: (t.state,)},
)


def test_every_table_is_as_its_capture() -> None:
    # `.venv/bin/python tests/support/cli_captures.py` writes them anew.
    now = dict(captures())
    assert sorted(now) == sorted(path.name for path in FOLDER.glob("*.txt"))
    for name, text in now.items():
        assert text == (FOLDER / name).read_text(encoding="utf-8"), name


def test_captures_are_no_wider_than_their_terminal_and_hold_nothing_that_steers_it() -> None:
    for path in FOLDER.glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        plain = _COLOUR.sub("", text)
        assert plain == text or "colour" in path.name
        assert not [c for c in plain if _terminal.steers(c) and c not in "\n\t"], path.name
        if (width := re.search(r"-(\d+)\.txt", path.name)) is not None:
            assert max(map(cells, text.splitlines())) <= int(width[1]), path.name


@given(
    names=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=5),
    width=st.integers(min_value=20, max_value=220),
)
def test_whatever_things_are_called_a_row_is_one_line_that_fits(names: list[str], width: int) -> None:
    rows = [Thing(name, len(name) * 999_999, "running") for name in names]
    text = _table.lines(LISTING, rows, Terminal(width=width), now=0.0, options=Options())
    assert len(text) == len(rows) + 2
    assert all(cells(line) <= width and "\n" not in line for line in text)


def test_with_no_trunc_nothing_is_cut_off_or_left_out() -> None:
    text = _table.lines(LISTING, [Thing("x" * 80)], Terminal(width=20), now=0.0, options=Options(whole=True))
    assert "x" * 160 in text[1]


def test_a_terminal_of_few_characters_gets_no_others() -> None:
    text = _table.lines(LISTING, [Thing("模型" * 40)], Terminal(width=30, unicode=False), now=0.0)
    assert "\n".join(text).isascii()
    assert max(map(len, text)) <= 30


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["state=running"], "ac"),
        (["state=RUNNING,paused"], "abc"),
        (["state=INSTALL_STATE_RUNNING"], "ac"),
        (["state!=running"], "bd"),
        (["state="], "d"),
        (["name~B"], "b"),
        (["state=running", "name=c"], "c"),
    ],
)
def test_filters_take_commas_any_case_and_the_names_of_the_wire(filters: list[str], names: str) -> None:
    choose(filters=filters)
    states = {"a": "running", "b": "paused", "c": "running", "d": ""}
    found = selected(LISTING, [Thing(name, state=state) for name, state in states.items()])
    assert "".join(thing.name for thing in found) == names


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"filters": ["stat=x"]}, "Did you mean state?"),
        ({"filters": ["state"]}, "NAME=VALUE"),
        ({"sort": "siz_"}, "Did you mean size?"),
    ],
)
def test_a_filter_or_an_order_that_there_is_not_is_told_with_what_is_near(wish: Any, said: str) -> None:
    choose(**wish)
    with pytest.raises(typer.BadParameter) as refused:
        selected(LISTING, [Thing("a")])
    assert said in refused.value.message


def test_lists_are_sorted_by_what_is_meant_and_cut_off_after_it() -> None:
    things = [Thing("b", 20), Thing("A", 100), Thing("c", 3)]
    choose(sort="name")
    assert [t.name for t in selected(LISTING, things)] == ["A", "b", "c"]
    choose(sort="SIZE_BYTES", reverse=True, limit=2)
    assert [t.name for t in selected(LISTING, things)] == ["A", "b"]


def test_the_footer_tells_how_many_of_how_many() -> None:
    assert _table.footer(LISTING, [Thing("a")], 1) == "1 thing"
    assert _table.footer(LISTING, [Thing("a")], 3000) == "1 of 3,000 things"


def test_a_list_is_written_as_data_names_or_keys(capsys: pytest.CaptureFixture[str]) -> None:
    things = [Thing("a\x1b\u202e", 1), Thing("b", 2)]

    def shown(**wish: Any) -> str:
        forget()
        choose(**wish)
        _table.show(LISTING, things, empty="")
        return capsys.readouterr().out

    for text, read in ((shown(format=Format.JSON), json.loads), (shown(format=Format.YAML), yaml.safe_load)):
        assert read(text)["things"][0] == {"name": "a\x1b\u202e", "size_bytes": 1}
        assert not {"\x1b", "\u202e"} & set(text)
    assert shown(format=Format.NAME) == shown(quiet=True) == "a\\x1b\\u202e\nb\n"
    assert (
        shown() == "NAME\tSIZE\tSTATE\tNOTE\na\\x1b\\u202e\t1 B\t\ta\\x1b\\u202ea\\x1b\\u202e\nb\t2 B\t\tbb\n"
    )


def test_an_empty_list_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    _table.show(LISTING, [], empty="Nothing.")
    assert capsys.readouterr() == ("", "Nothing.\n")


@pytest.mark.parametrize(
    ("environ", "wish", "colour"),
    [
        ({"TERM": "xterm"}, "auto", True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "auto", False),
        ({"TERM": "xterm", "NO_COLOR": ""}, "auto", True),
        ({"TERM": "dumb"}, "auto", False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "always", True),
        ({"TERM": "xterm"}, "never", False),
    ],
)
def test_colour_is_for_terminals_that_want_it(environ: dict[str, str], wish: str, colour: bool) -> None:
    class Stream:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            raise OSError

    choose(colour=wish)
    assert Terminal.of(Stream(), environ).colour is colour  # type: ignore[arg-type]


def test_what_is_shown_as_an_emoji_is_counted_as_wide() -> None:
    assert (cells("❤"), cells("❤\ufe0f"), cells("模型"), cells("e\u0301")) == (1, 2, 4, 1)


@pytest.mark.parametrize(
    "character", [chr(n) for n in (0, 7, 0x1B, 0x7F, 0x9B, 0x200E, 0x202E, 0x2066, 0x2028)]
)
def test_no_character_that_steers_a_terminal_is_shown(character: str) -> None:
    assert visible(f"a{character}b").isprintable()
    assert visible(f"a{character}b").startswith("a\\")
    assert visible("naïve 模型 👩‍🚀") == "naïve 模型 👩‍🚀"


def frame(*events: WatchEvent[Thing], complete: bool = False) -> WatchFrame[Thing]:
    return WatchFrame(events, "snapshot" if complete else "live", complete, "")


def test_a_watch_in_a_pipe_is_a_line_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    def frames() -> Any:
        yield frame(WatchEvent(1, Thing("a", state="x")), WatchEvent(2, Thing("b")), complete=True)
        yield frame(WatchEvent(1, Thing("a", state="x")))  # nothing that is shown
        yield frame(WatchEvent(1, Thing("a", state="y")))
        yield frame(WatchEvent(2, None))

    choose(filters=["name=a,b"])
    _watching.watch(LISTING, _watching.of_frames(frames()), empty="")
    assert capsys.readouterr().out.splitlines() == [
        "NAME\tSIZE\tSTATE\tNOTE",
        "a\t0 B\tx\taa",
        "b\t0 B\t\tbb",
        "a\t0 B\ty\taa",
        "2\tremoved",
    ]
    choose(format=Format.JSON)
    _watching.watch(LISTING, _watching.of_frames(frames()), empty="")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"name": "a", "size_bytes": 0}
    assert lines[-1] == {"removed_id": "2"}


def test_facts_fit_the_terminal_and_keep_paths_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_terminal, "stdout", lambda: Terminal(width=40))
    print_facts([("name", "x"), ("description", "a few words " * 6), ("path", "/a" * 30), ("nothing", "")])
    out = capsys.readouterr().out.splitlines()
    assert "/a" * 30 in out[-1]
    assert all(len(line) <= 40 for line in out[:-1])
    assert out[2].startswith(" " * 13)
    print_facts([("n", "x"), ("name", "one\ntwo\x1b]0;title\x07")])
    assert capsys.readouterr().out == "n:    x\nname: one\n      two" + r"\x1b]0;title\x07" + "\n"
