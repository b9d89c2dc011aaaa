"""The command line against a real suite: records out of it as lines of JSON, and into it."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from modelkeep.cli.main import app
from modelkeep.client import Client
from modelkeep.supervisor import Suite
from support.cli import run, run_json

RED, BLUE = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def models(suite: Suite) -> Iterator[None]:
    """Two records; none is left."""

    def clear() -> None:
        with Client(data_dir=suite.data_dir) as client:
            client.model_record_store.del_models([c.key for c in client.model_record_store.all_models()])

    clear()
    with Client(data_dir=suite.data_dir) as client:
        for key, name, kind in ((RED, "red", "lora"), (BLUE, "blüe\u202e", "vae")):
            config = {"name": name, "path": f"/m/{key}", "base": "sd-1", "type": kind, "tags": [name]}
            config["format"] = "lycoris" if kind == "lora" else "checkpoint"
            client.model_record_store.add_model(key, config)
    yield
    clear()


def keys(text: str) -> list[str]:
    return [json.loads(line)["model"]["key"] for line in text.splitlines()[1:-1]]


def listed(suite: Suite) -> list[str]:
    return sorted(model["key"] for model in run_json(suite, "list")["models"])


def test_all_records_go_to_a_file_of_the_users_own_and_come_back(suite: Suite, tmp_path: Path) -> None:
    file = tmp_path / "models.jsonl"
    said = run(suite, "export", str(file))
    assert said.stdout.startswith(f"Exported 2 models to {file}, ")
    assert (keys(file.read_text()), file.stat().st_mode & 0o777) == ([RED, BLUE], 0o600)
    assert json.loads(file.read_text().splitlines()[0])["format"] == "modelkeep-export"
    assert list(tmp_path.iterdir()) == [file]
    run(suite, "rm", RED, "--keep-files", "-y")
    assert "Would be imported: 1 created, 1 unchanged." in run(suite, "import", str(file), "--dry-run").stdout
    assert listed(suite) == [BLUE]
    assert "Imported: 1 created, 1 unchanged." in run(suite, "import", str(file)).stdout
    assert listed(suite) == [RED, BLUE]
    assert "Imported: 2 unchanged." in run(suite, "import", str(file)).stdout


def test_a_file_that_is_there_is_replaced_only_if_that_is_said(suite: Suite, tmp_path: Path) -> None:
    file = tmp_path / "models.jsonl"
    file.write_text("mine")
    assert "--force" in run(suite, "export", str(file), code=2).stderr
    assert file.read_text() == "mine"
    run(suite, "export", str(file), "--force")
    assert keys(file.read_text()) == [RED, BLUE]
    refused = run(suite, "export", str(tmp_path / "no" / "folder.jsonl"), code=2)
    assert "cannot be written: No such file" in refused.stderr


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_what_is_no_regular_file_is_written_into_and_not_replaced(
    suite: Suite, tmp_path: Path, options: tuple[str, ...]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        try:
            run(suite, "export", str(pipe), *options)
        finally:
            if not stat.S_ISFIFO(pipe.stat().st_mode):
                reader.kill()
        assert keys(reader.communicate()[0]) == [RED, BLUE]


def test_a_link_leads_where_it_led_and_a_folder_is_no_file(suite: Suite, tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(file)
    run(suite, "export", str(link), "--force")
    assert (link.is_symlink(), keys(file.read_text())) == (True, [RED, BLUE])
    for name in ("", str(tmp_path)):
        assert "is no file" in run(suite, "export", name, "--force", code=2).stderr


def test_a_compressed_file_is_the_same_from_time_to_time(suite: Suite, tmp_path: Path) -> None:
    first, second = tmp_path / "1.jsonl.gz", tmp_path / "2.jsonl.gz"
    for file in (first, second):
        run(suite, "export", str(file))
    assert first.read_bytes() == second.read_bytes()
    assert keys(gzip.decompress(first.read_bytes()).decode()) == [RED, BLUE]
    assert run_json(suite, "import", str(first))["unchanged"] == 2
    other = tmp_path / "of another name"
    other.touch()
    assert "is empty" in run(suite, "import", str(other), code=2).stderr
    other.write_bytes(first.read_bytes())
    assert run_json(suite, "import", str(other))["unchanged"] == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [RED, BLUE]),
        (("--type", "lora"), [RED]),
        (("--tag", "red", "--type", "vae"), []),
        (("--filter", "name~LÜE"), [BLUE]),
        (("--filter", "type!=vae"), [RED]),
    ],
)
def test_what_is_exported_is_filtered_as_a_list_is(
    suite: Suite, options: tuple[str, ...], expected: list[str]
) -> None:
    text = run(suite, "export", *options).stdout
    assert keys(text) == expected
    assert all(line.isprintable() for line in text.splitlines())


def test_lines_go_from_one_program_to_the_next(suite: Suite) -> None:
    text = run(suite, "export").stdout
    environment = {"MODELKEEP_DATA_DIR": str(suite.data_dir)}
    again = CliRunner().invoke(app, ["import", "-", "--json"], env=environment, input=text)
    assert json.loads(again.stdout)["unchanged"] == 2
    process = subprocess.run(
        [sys.executable, "-P", "-m", "modelkeep.cli", "--data-dir", str(suite.data_dir), "export"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert process.stdout.decode() == text
    assert process.stderr.decode().splitlines()[::2] == ["Exporting", "Exporting: 100 %, 2 of 2 models"]


def changed(suite: Suite, **fields: Any) -> str:
    """An export in which the first record is another, as it may have been edited by hand."""
    first, record, *rest = run(suite, "export").stdout.splitlines()
    line = json.loads(record)
    line["model"].update(fields)
    return "\n".join([first, json.dumps(line), *rest])


def test_what_is_there_already_is_left_replaced_or_ends_the_import(suite: Suite, tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text(changed(suite, name="edited"))
    skipped = run(suite, "import", str(file))
    assert f"line 2: edited: skipped: There is a model with the key {RED} already. [DUPLICATE_MODEL]" in (
        skipped.stderr
    )
    assert "Imported: 1 unchanged, 1 skipped." in skipped.stdout
    failed = run(suite, "import", str(file), "--on-conflict", "fail", code=1)
    assert "Line 2: There is a model with the key" in failed.stderr
    assert run_json(suite, "show", RED)["model"]["name"] == "red"
    run(suite, "import", str(file), "--on-conflict", "replace")
    assert run_json(suite, "show", RED)["model"]["name"] == "edited"


def test_a_record_that_is_refused_is_told_and_the_others_are_imported(suite: Suite, tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text(changed(suite, base="BAD base"))
    run(suite, "rm", BLUE, "--keep-files", "-y")
    said = run(suite, "import", str(file), code=1)
    assert "line 2: red: refused: base must be of a-z" in said.stderr
    assert "Imported: 1 created, 1 refused." in said.stdout
    data = json.loads(run(suite, "import", str(file), "--json", code=1).stdout)
    assert (data["refused"], data["records"][0]["line"], data["dry_run"]) == (1, 2, False)


def test_a_line_that_is_no_good_is_named_and_nothing_is_imported(suite: Suite, tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text(run(suite, "export").stdout + "{\n")
    run(suite, "rm", RED, BLUE, "--keep-files", "-y")
    assert "line 5 is no JSON" in run(suite, "import", str(file), code=2).stderr
    assert listed(suite) == []
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]))
    assert "the export has no end: it was cut off" in run(suite, "import", str(file), code=2).stderr
    file.write_text(lines[1])
    assert run_json(suite, "import", str(file))["created"] == 1
    assert "cannot be read: No such file" in run(suite, "import", str(tmp_path / "none"), code=2).stderr
    assert "cannot be read: Is a directory" in run(suite, "import", str(tmp_path), code=2).stderr


def test_the_store_is_copied_while_it_goes_on(suite: Suite) -> None:
    said = run(suite, "backup", "first")
    path = suite.data_dir / "record" / "backups" / "first.db"
    assert said.stdout.startswith(f"Copied to {path}, ")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "already" in run(suite, "backup", "first", code=1).stderr
    assert "must be 1 to 64 characters" in run(suite, "backup", "../up", code=2).stderr
    made = run_json(suite, "backup")
    assert (Path(made["path"]).parent, int(made["revision"]) > 0) == (path.parent, True)


def test_an_export_that_is_cut_off_leaves_no_file(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modelkeep.cli._exports.gzip.GzipFile.write", fail)
    said = run(suite, "export", str(tmp_path / "e.gz"), code=2)
    assert "cannot be written: No space left on device" in said.stderr
    assert list(tmp_path.iterdir()) == []
