"""The command line and the client against a real suite: what finds a record, and what changes one."""

from __future__ import annotations

from pathlib import Path

import pytest

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
