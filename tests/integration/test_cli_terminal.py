"""The command line at a real terminal of 50, 80 and 200 columns, and what a person can do to it there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modelkeep.cli._terminal import cells
from modelkeep.supervisor import Suite
from support import modelshapes
from support.cli import run, run_json
from support.httpserver import HttpServer, Resource
from support.terminal import Session, session

LONG = "a style for quick sketches in ink and on paper, the second version of it"


@pytest.fixture(scope="module")
def models(suite: Suite, folder: Path) -> list[str]:
    """Keys of two models, one of them with a name that is long and wants to steer the terminal."""
    tensors = modelshapes.table("lora.sd-1.peft")
    keys: list[str] = []
    for name in ("ink", f"{LONG}\x1b[2J\u202e"):
        path = modelshapes.write_safetensors(folder / str(len(keys)) / "ink.safetensors", tensors)
        run(suite, "install", str(path), "--name", name)
        keys.append(run_json(suite, "search", str(path))["models"][0]["key"])
    return keys


def at(
    suite: Suite, *arguments: str, columns: int = 80, answer: str = "", env: dict[str, str] | None = None
) -> Session:
    environ = {"MODELKEEP_DATA_DIR": str(suite.data_dir), **(env or {})}
    answers = {"[y/N]": f"{answer}\n"} if answer else {}
    return session(arguments, columns=columns, env=environ, answers=answers)


@pytest.mark.parametrize("columns", [50, 80, 200])
@pytest.mark.parametrize("arguments", [["list"], ["installs"], ["cache", "residents"], ["du"]])
def test_every_list_is_one_line_a_row_at_every_width(
    suite: Suite, models: list[str], columns: int, arguments: list[str]
) -> None:
    shown = at(suite, *arguments, columns=columns)
    assert shown.code == 0, shown.raw
    assert "\u202e" not in shown.raw
    assert "\x1b[2J" not in shown.raw
    table = [line for line in shown.plain.splitlines() if line and "used on its disk" not in line]
    if len(table) > 1:
        assert max(map(cells, table)) <= columns, shown.plain


def test_names_come_first_and_a_part_of_the_key_is_enough_to_go_on_with(
    suite: Suite, models: list[str]
) -> None:
    shown = at(suite, "list")
    titles, *rows = [line for line in shown.plain.splitlines() if line]
    assert titles.split()[:2] == ["NAME", "KEY"]
    assert any(models[0][:12] in row and models[0] not in row for row in rows)
    assert models[0] in at(suite, "list", "--no-trunc").plain
    assert models[0] in at(suite, "show", models[0][:6]).plain
    assert re.search(r"2 models, [\d.]+ MB", shown.plain)


def test_colour_is_left_out_where_it_is_not_wanted(suite: Suite, models: list[str]) -> None:
    assert "\x1b[1m" in at(suite, "list").raw
    assert "\x1b[" not in at(suite, "list", env={"NO_COLOR": "1"}).raw
    assert "\x1b[" not in at(suite, "list", env={"TERM": "dumb"}).raw
    assert "\x1b[" not in at(suite, "list", "--color", "never").raw
    assert "\x1b[1m" in at(suite, "--color", "always", "list", env={"NO_COLOR": "1"}).raw


def test_nothing_is_removed_unasked(suite: Suite, folder: Path) -> None:
    path = modelshapes.write_safetensors(folder / "gone.safetensors", modelshapes.table("lora.sd-1.peft"))
    run(suite, "install", str(path), "--copy", "--again", "--name", "gone")
    asked = at(suite, "rm", "gone", answer="n")
    assert asked.code == 1
    assert re.search(r"gone \(lora, sd-1\): deletes 1 file, [\d.]+ MB; 0 leases; /", asked.plain), asked.plain
    assert "Remove 1 model, 1 file, " in asked.plain
    assert "Nothing was changed." in asked.plain
    assert run_json(suite, "show", "gone")["model"]["name"] == "gone"
    assert "Removed gone" in at(suite, "rm", "gone", answer="y").plain
    run(suite, "show", "gone", code=3)


@pytest.mark.parametrize("columns", [30, 50])
def test_a_bar_on_a_narrow_terminal_stays_on_its_line(suite: Suite, folder: Path, columns: int) -> None:
    body = modelshapes.write_safetensors(
        folder / "b.safetensors", modelshapes.table("lora.sd-1.peft")
    ).read_bytes()
    with HttpServer() as server:
        url = server.put("/narrow.safetensors", Resource(body, rate=len(body) * 2))
        shown = at(suite, "install", url, "--again", "--name", f"narrow-{columns}", columns=columns)
    assert shown.code == 0, shown.raw
    drawn = [line for line in shown.plain.splitlines() if line.startswith("Install ")]
    assert any("downloading" in line for line in drawn)
    assert max(map(cells, drawn)) < columns
    run(suite, "rm", f"narrow-{columns}")


@pytest.mark.parametrize(
    "verb", [["list"], ["installs", "list"], ["downloads", "list"], ["cache", "leases"], ["status"]]
)
def test_a_list_that_is_watched_is_drawn_until_ctrl_c(
    suite: Suite, models: list[str], verb: list[str]
) -> None:
    mark = {"status": "loader", "list": "NAME"}.get(verb[-1], "")
    mark = {"installs": "completed", "downloads": "download", "cache": "no leases"}.get(verb[0], mark)
    environ = {"MODELKEEP_DATA_DIR": str(suite.data_dir)}
    shown = session([*verb, "-w"], env=environ, answers={mark: "\x03"})
    assert shown.code == 130, shown.raw
    assert "Traceback" not in shown.raw
