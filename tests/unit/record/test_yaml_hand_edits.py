"""What a person may do to a YAML file of records, at random: a mistake with a place, or good records."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from modelkeep.model.v1 import model_pb2
from modelkeep_common.at_once import run_at_once
from modelkeep_record.domain import rules
from modelkeep_record.stores.yaml.covers import Covers
from modelkeep_record.stores.yaml.loading import load
from modelkeep_record.stores.yaml.problems import Problem
from modelkeep_record.stores.yaml.state import State, apply
from modelkeep_record.stores.yaml.transaction import Transaction
from support.records import vae

FILE = """\
# head
---
__metadata__:
  version: 3.2.0   # v
# --- one ---
my-lora:
    # where from
    name:   Fancy  LoRA   # the name
    path: /models/x.safetensors
    type: lora
    format: 'lycoris'

    base: sd-1
    tags:  # words
    - a      # first
    - "b"
    description: >
      folded

      end
    labels: {a: b, "c": 'd'}
    size_bytes: 1_000
    author: somebody
    # the end

# --- two ---

0123456789abcdef0123456789abcdef:
  name: "two"
  path: /two
  base_model: sdxl
  model_type: main
  model_format: diffusers
  description: |-
    line one
    line two
  submodels:
    - type: vae
      path_or_prefix: vae
  files:
    - path: a
      size_bytes: 3
      modify_time: 2024-01-01T00:00:00Z
  create_time: 2024-01-01T00:00:00Z
  revision: 3
# tail
"""
SNIPPETS = [
    *":-#'\"[]{}|>&*!%@`,?\n\t ",
    *("  ", "\n\n", "- ", ": ", "null", "~", "---\n", "...\n", "\r\n", "\x07", "é", "0x", "name:", "type: "),
    *("\u2028", "<<: *a", "\n  "),
]


def edited(dice: random.Random) -> str:
    """The file after one to three changes of some characters or a line."""
    text = FILE
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        place = dice.randrange(len(text))
        match dice.randrange(4):
            case 0:
                text = text[:place] + dice.choice(SNIPPETS) + text[place:]
            case 1:
                text = text[:place] + text[place + dice.randrange(1, 6) :]
            case 2:
                text = text[:place] + dice.choice(SNIPPETS) + text[place + 1 :]
            case _:
                lines = text.splitlines(keepends=True)
                line = lines.pop(dice.randrange(len(lines)))
                if dice.random() < 0.5:
                    lines.insert(dice.randrange(len(lines)), line)
                text = "".join(lines)
    return text


def changed(state: State, number: int) -> State:
    """The state after a change of every record, and a new one."""
    transaction = Transaction(state, Covers(Path("/nowhere")))
    for key in state.entries:
        change = model_pb2.Model(key=key, license=f"L{number}", tags=["n", "m"])
        run_at_once(rules.update(transaction, change, None, None, 1.9e9))
    run_at_once(rules.create(transaction, vae("new", path=f"/new/{number}"), [], 1.9e9))
    return apply(state, transaction.changed, transaction.changes[-1].revision)


@pytest.mark.timeout(120)
def test_any_edit_is_a_mistake_with_its_place_or_records_that_are_written_and_read_as_they_are() -> None:
    dice = random.Random(12)
    known, _ = load(FILE, None, 1.7e9)
    good, mistakes = 0, list[tuple[int, int, str]]()
    for number in range(400):
        text = edited(dice)
        try:
            state, _ = load(text, known, 1.8e9)
        except Problem as problem:
            mistakes.append((problem.line, text.count("\n") + 1, problem.what))
            continue
        good += 1
        data, new = changed(state, number).written()
        again, changes = load(data.decode(), None, 2e9)
        assert changes == []
        assert [(e.model, e.files) for e in again.entries.values()] == [
            (e.model, e.files) for e in new.entries.values()
        ], text
        assert again.metadata.size_bytes == len(data)
        between = [line for line in text.split("\n") if line.startswith("# --- ")]
        assert all(line in data.decode() for line in between), text
    assert 50 < good < 350
    assert all(0 <= line <= lines and what for line, lines, what in mistakes)
