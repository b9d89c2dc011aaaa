"""A YAML file of records without a service: opened, changed by a program, added to by a person."""

from __future__ import annotations

import time
from pathlib import Path

from modelkeep.model.v1 import model_pb2
from modelkeep_common.at_once import run_at_once
from modelkeep_record.domain import rules
from modelkeep_record.stores.yaml import YamlFile
from modelkeep_record.stores.yaml.state import Change, State

#: An entry as a person writes it.
MINE = """
# --- mine ---
my-vae:
  name: mine  # by hand
  path: /mine
  model_type: vae
  model_format: diffusers
  base_model: sd-1
"""


def opened(path: Path, changes: list[Change] | None = None) -> YamlFile:
    def listen(state: State, news: list[Change]) -> None:
        if changes is not None:
            changes.extend(news)

    found = YamlFile(path, listener=listen)
    found.open()
    return found


def create(records: YamlFile, model: model_pb2.Model) -> model_pb2.Model:
    with records.transaction() as transaction:
        return run_at_once(rules.create(transaction, model, [], time.time()))


def update(records: YamlFile, model: model_pb2.Model) -> model_pb2.Model:
    with records.transaction() as transaction:
        return run_at_once(rules.update(transaction, model, None, None, time.time()))[0]


def by_name(state: State) -> dict[str, model_pb2.Model]:
    return {entry.model.name: entry.model for entry in state.entries.values()}


def add(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)
