"""The command line and the client against a real suite: what finds a record, and what changes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.cli._naming import find_model
from modelkeep.supervisor import Suite
from support import modelshapes
from support.cli import run, run_json


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    tensors = modelshapes.table("lora.sd-1.peft")
    return modelshapes.write_safetensors(tmp_path / "sketch.safetensors", tensors)


def names(suite: Suite, *arguments: str) -> list[str]:
    return [model["name"] for model in run_json(suite, "list", *arguments)["models"]]


def test_labels_given_at_the_install_or_later_find_the_model(suite: Suite, lora: Path) -> None:
    run(suite, "install", str(lora), "--name", "sketch", "--set", 'labels={"project": "x", "team": "a"}')
    assert names(suite, "--label", "project=x", "--label", "team=a") == ["sketch"]
    assert names(suite, "--label", "project=y") == []
    edited = run_json(suite, "edit", "sketch", 'labels={"done": ""}')
    assert edited["labels"] == {"done": ""}
    assert (names(suite, "--label", "done"), names(suite, "--label", "team=a")) == (["sketch"], [])
    assert "done=" in run(suite, "show", "sketch").stdout
    assert run_json(suite, "edit", "sketch", "labels=")["labels"] == {}


def test_a_model_that_was_moved_is_missing_in_list_and_show_until_it_is_back(
    suite: Suite, lora: Path, tmp_path: Path
) -> None:
    run(suite, "install", str(lora), "--name", "mover")
    lora.rename(tmp_path / "elsewhere.safetensors")
    listed = run(suite, "list")
    assert "missing" in next(line for line in listed.stdout.splitlines() if "mover" in line)
    assert (names(suite, "--missing"), "mover" in names(suite, "--present")) == (["mover"], False)
    assert "missing" in run(suite, "show", "mover").stdout
    assert run_json(suite, "show", "mover")["model"]["missing_time"]
    (tmp_path / "elsewhere.safetensors").rename(lora)
    assert names(suite, "--missing") == []
    assert "missing" not in run(suite, "show", "mover").stdout


def test_another_path_must_hold_the_same_model(suite: Suite, lora: Path, tmp_path: Path) -> None:
    run(suite, "install", str(lora), "--name", "placed")
    before = run_json(suite, "show", "placed")["model"]
    other = modelshapes.write_safetensors(tmp_path / "vae.safetensors", modelshapes.table("vae.ldm"))
    (tmp_path / "new").mkdir()
    for path, code in ((tmp_path / "nothing.safetensors", 3), (Path("/etc/passwd"), 2), (other, 2)):
        assert path.name in run(suite, "edit", "placed", f"path={path}", "name=x", code=code).stderr
    assert run_json(suite, "show", "placed")["model"] == before
    moved = lora.rename(tmp_path / "new" / "renamed.safetensors")
    run(suite, "edit", "placed", f"path={moved}", "--dry-run")
    assert run_json(suite, "show", "placed")["model"]["path"] == str(lora)
    edited = run_json(suite, "edit", "placed", f"path={moved}", "description=there now")
    assert (edited["path"], edited["description"]) == (str(moved), "there now")


def test_what_follows_from_the_files_is_not_edited(suite: Suite, lora: Path) -> None:
    run(suite, "install", str(lora), "--name", "sized")
    for change in ("size_bytes=7", "current_hash=x", "original_hash=x", "root_id=x"):
        refused = run(suite, "edit", "sized", change, code=2)
        assert "follows from the files" in refused.stderr


def test_a_model_is_removed_though_its_digests_became_known_meanwhile(
    suite: Suite, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(suite, "install", str(lora), "--name", "hashed")

    def stale(client: Any, text: str) -> Any:
        config = find_model(client, text)
        client.model_record_store.mark_models(missing=[config.key])  # as the installer does by itself
        return config

    monkeypatch.setattr("modelkeep.cli._changes.find_model", stale)
    assert "Removed hashed" in run(suite, "rm", "hashed", "-y").stdout

    def renamed(client: Any, text: str) -> Any:
        config = find_model(client, text)
        client.model_record_store.update_model(config.key, {"name": "other"})
        return config

    run(suite, "install", str(lora), "--name", "hashed")
    monkeypatch.setattr("modelkeep.cli._changes.find_model", renamed)
    assert "ETAG_MISMATCH" in run(suite, "rm", "hashed", "-y", code=1).stderr
