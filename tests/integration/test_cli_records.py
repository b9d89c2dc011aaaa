"""The command line and the client against a real suite: what finds a record, and what changes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelkeep.cli._naming import find_model
from modelkeep.client import Client
from modelkeep.exceptions import ModelImageFileNotFoundException
from modelkeep.supervisor import Suite
from support import modelshapes
from support.cli import run, run_json
from support.pictures import JPEG, png


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
    other = modelshapes.write_safetensors(tmp_path / "vae.safetensors", modelshapes.table("vae.ldm"))
    (tmp_path / "new").mkdir()
    for path, code in ((tmp_path / "nothing.safetensors", 3), (Path("/etc/passwd"), 2), (other, 2)):
        assert path.name in run(suite, "edit", "placed", f"path={path}", "name=x", code=code).stderr
    kept = run_json(suite, "show", "placed")["model"]
    assert (kept["name"], kept["path"]) == ("placed", str(lora))
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


def test_related_models_are_shown_by_name_on_both_sides(suite: Suite, tmp_path: Path) -> None:
    for number, name in enumerate(("part one", "part two", "part three")):
        path = modelshapes.write_safetensors(
            tmp_path / f"{number}.safetensors",
            modelshapes.table("lora.sd-1.peft"),
            metadata={"number": str(number)},
        )
        run(suite, "install", str(path), "--name", name)
    assert run(suite, "relate", "part one", "part two", "part three").stdout == (
        "part one: part three, part two\n"
    )
    assert "part one" in next(
        line for line in run(suite, "show", "part two").stdout.splitlines() if line.startswith("related")
    )
    assert names(suite, "--related-to", "part one") == ["part three", "part two"]
    assert "part one" in run(suite, "edit", "part two", "description=second").stdout
    again = run_json(suite, "relate", "part three", "part one")
    assert again["related_keys"] == [run_json(suite, "show", "part one")["model"]["key"]]
    assert run(suite, "unrelate", "part three", "part one", "part two").stdout == (
        "part three: no related models\n"
    )
    assert names(suite, "--related-to", "part one") == ["part two"]
    assert "own key" in run(suite, "relate", "part one", "part one", code=2).stderr
    run(suite, "relate", "part one", "no such model", code=3)
    one, two = (run_json(suite, "show", name)["model"]["key"] for name in ("part one", "part two"))
    with Client(data_dir=suite.data_dir) as client:
        store = client.model_record_store
        assert store.get_related_model_keys(one) == [two]
        assert store.get_related_model_keys("f" * 32) == []
        assert store.get_related_model_keys_batch([one, two, "f" * 32]) == sorted([one, two])
        store.add_model_relationship(two, one)
        store.remove_model_relationship(two, one)
        assert store.get_related_model_keys(one) == []
    run(suite, "relate", "part one", "part two", "part three")
    removed = run(suite, "rm", "part one", "part two", "part three", "-y").stdout
    assert [line.split(" (")[0] for line in removed.splitlines()] == [
        "Removed part one", "Removed part two", "Removed part three",
    ]  # fmt: skip


def test_a_picture_is_set_written_and_removed(suite: Suite, lora: Path, tmp_path: Path) -> None:
    run(suite, "install", str(lora), "--name", "pictured")
    picture, written = tmp_path / "in.png", tmp_path / "out.png"
    picture.write_bytes(png())
    assert "UNKNOWN_COVER_IMAGE" in run(suite, "cover", "get", "pictured", str(written), code=3).stderr
    assert not written.exists()
    assert "image/png" in run(suite, "cover", "set", "pictured", str(picture)).stdout
    assert f"image/png, {len(png())} B" in run(suite, "show", "pictured").stdout
    run(suite, "cover", "get", "pictured", str(written))
    assert written.read_bytes() == png()
    large = run(suite, "cover", "set", "pictured", str(lora), code=2).stderr
    assert f"at most 1,048,576 bytes, not {lora.stat().st_size:,}" in large
    assert "PNG, JPEG, WebP or GIF" in run(suite, "cover", "set", "pictured", __file__, code=2).stderr
    run(suite, "cover", "set", "pictured", str(tmp_path / "nothing"), code=2)
    run(suite, "cover", "get", "pictured", str(tmp_path / "no" / "folder.png"), code=2)
    with Client(data_dir=suite.data_dir) as client:
        store = client.model_record_store
        key = run_json(suite, "show", "pictured")["model"]["key"]
        assert store.get_cover_image(key) == png()
        picture.write_bytes(JPEG)
        told = store.set_cover_image(key, picture).cover_image
        assert told is not None
        assert (told.media_type, told.size_bytes) == ("image/jpeg", len(JPEG))
        assert store.get_model(key).cover_image == told
        assert "cover_image" not in run_json(suite, "cover", "rm", "pictured")
        with pytest.raises(ModelImageFileNotFoundException):
            store.get_cover_image(key)


def test_default_settings_are_said_at_the_install_and_edited_one_by_one(suite: Suite, lora: Path) -> None:
    run(
        suite, "install", str(lora), "--name", "tuned",
        *("--set", "default_settings.weight=0.75", "--set", 'default_settings={"weight_min": -1}'),
        *("--set", "default_settings.weight_max=2", "--set", "source_url=https://u:p@example.org/m?token=abcd"),
    )  # fmt: skip
    model = run_json(suite, "show", "tuned")["model"]
    assert model["default_settings"] == {"weight_min": -1.0, "weight_max": 2.0}
    assert model["source_url"] == "https://example.org/m?token=REDACTED"
    edited = run_json(suite, "edit", "tuned", "default_settings.steps=30", "default_settings.scheduler=42")
    assert edited["default_settings"] == {
        "weight_min": -1.0, "weight_max": 2.0, "steps": 30, "scheduler": "42",
    }  # fmt: skip
    edited = run_json(suite, "edit", "tuned", "default_settings.weight_min=", "default_settings.cfg_scale=7")
    assert edited["default_settings"] == {
        "weight_max": 2.0, "steps": 30, "scheduler": "42", "cfg_scale": 7.0,
    }  # fmt: skip
    shown = run(suite, "show", "tuned").stdout
    assert "scheduler=42, steps=30, cfg_scale=7.0, weight_max=2.0" in shown
    assert "https://example.org/m" in shown
    assert run_json(suite, "edit", "tuned", 'default_settings={"width": 512}')["default_settings"] == {
        "width": 512
    }
    assert "default_settings" not in run_json(suite, "edit", "tuned", "default_settings=")
    assert (
        "mean default_settings.steps" in run(suite, "edit", "tuned", "default_settings.step=3", code=2).stderr
    )
    for change in ("default_settings.steps=0", "default_settings.width=wide", "source_url=example"):
        refused = run(suite, "edit", "tuned", change, code=2).stderr
        assert change.partition("=")[0] in refused
    assert "cover_image" in run(suite, "edit", "tuned", "cover_image.media_type=x", code=2).stderr
    extra = run_json(suite, "edit", "tuned", 'extra_fields={"hash": "blake3:1", "usage": {"a": [1]}}')
    assert {name: json.loads(text) for name, text in extra["extra_fields"].items()} == {
        "hash": "blake3:1", "usage": {"a": [1]},
    }  # fmt: skip
    assert "hash, usage" in run(suite, "show", "tuned").stdout
