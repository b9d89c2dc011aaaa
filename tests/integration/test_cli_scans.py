"""``modelkeep scan``, ``sync`` and ``scans`` on a suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelkeep.supervisor import Suite
from support.cli import run, run_json
from support.installs import small_lora

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"services": ("record", "download", "install")}


def lora(path: Path, number: int) -> Path:
    return small_lora(path, metadata={"number": str(number)})


def test_a_folder_is_scanned_and_what_was_found_is_told(suite: Suite, tmp_path: Path) -> None:
    lora(tmp_path / "ink.safetensors", 1)
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    would = run(suite, "scan", str(tmp_path), "--dry-run").stdout
    assert f"new         {tmp_path}/ink.safetensors" in would
    assert "1 model would be registered, 0 known, in 2 files in 1 folder." in would
    assert run_json(suite, "list").get("models", []) == []
    done = run(suite, "scan", str(tmp_path), "--label", "from=cli").stdout
    [model] = run_json(suite, "list")["models"]
    assert model["labels"]["from"] == "cli"
    assert f"{tmp_path}/ink.safetensors  {model['key']}" in done
    assert "unknown" in done
    assert "INVALID_MODEL" in done
    again = run(suite, "scan", str(tmp_path)).stdout
    assert "0 models were registered, 1 known" in again
    told = json.loads(run(suite, "scan", str(tmp_path), "--json").stdout)
    assert [one["kind"] for one in told["findings"]] == [
        "SCAN_FINDING_KIND_UNKNOWN",
        "SCAN_FINDING_KIND_KNOWN",
    ]
    run(suite, "scan", str(tmp_path / "nothing"), code=3)


def test_a_moved_model_is_told_with_the_command_that_relinks_it(suite: Suite, tmp_path: Path) -> None:
    run(suite, "scan", str(lora(tmp_path / "a" / "old.safetensors", 2).parent))
    key = run_json(suite, "search", str(tmp_path / "a" / "old.safetensors"))["models"][0]["key"]
    (tmp_path / "a" / "old.safetensors").rename(tmp_path / "a" / "new name.safetensors")
    told = run(suite, "scan", str(tmp_path)).stdout
    command = f"modelkeep relink {key} '{tmp_path}/a/new name.safetensors'"
    assert command in told
    run(suite, "relink", key, f"{tmp_path}/a/new name.safetensors")
    assert "1 known" in run(suite, "scan", str(tmp_path)).stdout


def test_a_sync_tells_records_without_files_and_removes_them_when_asked(suite: Suite, tmp_path: Path) -> None:
    keys = {}
    for number, name in ((3, "one"), (4, "two"), (5, "three")):
        run(suite, "register", str(lora(tmp_path / f"{name}.safetensors", number)))
        keys[name] = run_json(suite, "search", str(tmp_path / f"{name}.safetensors"))["models"][0]["key"]
    (tmp_path / "one.safetensors").unlink()
    told = run(suite, "sync").stdout
    assert f"orphan      {tmp_path}/one.safetensors  {keys['one']}" in told
    assert "`--remove-orphans` removes them" in told
    assert (
        f"orphan      {tmp_path}/one.safetensors"
        in run(suite, "sync", "--remove-orphans", "--dry-run").stdout
    )
    assert f"removed     {tmp_path}/one.safetensors" in run(suite, "sync", "--remove-orphans").stdout
    run(suite, "show", keys["one"], code=3)
    for name in ("two", "three"):
        (tmp_path / f"{name}.safetensors").unlink()
    away = run(suite, "sync", "--remove-orphans", code=1)
    assert "MANY_MISSING" in away.stdout
    assert "sync with force" in away.stderr
    assert "removed" in run(suite, "sync", "--remove-orphans", "--force").stdout


def test_scans_are_listed_shown_and_cancelled(suite: Suite, tmp_path: Path) -> None:
    lora(tmp_path / "ink.safetensors", 6)
    told = run_json(suite, "scan", str(tmp_path), "--detach")
    run(suite, "scan", str(tmp_path))
    assert f"{tmp_path}/ink.safetensors" in run(suite, "scans", "show", told["id"]).stdout
    listed = run_json(suite, "scans", "list", "--limit", "2")["scans"]
    assert [one["path"] for one in listed] == [str(tmp_path)] * 2
    assert str(tmp_path) in run(suite, "scans").stdout
    assert "cannot be cancelled" in run(suite, "scans", "cancel", told["id"], code=1).stderr
    run(suite, "scans", "show", "99999", code=3)
