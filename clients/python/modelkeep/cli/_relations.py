"""``modelkeep relate`` and ``unrelate``: which models belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from modelkeep.cli._models import model_data, names_of
from modelkeep.cli._naming import Model, Models, find_model
from modelkeep.cli._output import emit, say
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.configs import AnyModelConfig


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app, takes=DATA, examples=("modelkeep relate tiny-sd sketch", "modelkeep relate tiny-sd sketch ink")
    )(relate)
    verb(app, takes=DATA, examples=("modelkeep unrelate tiny-sd sketch",))(unrelate)


def relate(model: Model, others: Models) -> None:
    """Relate a model to others, and them to it."""
    with connect() as client:
        one, rest = _found(client, model, others)
        for other in rest:
            client.model_record_store.add_model_relationship(one.key, other.key)
        _tell(client, one.key)


def unrelate(model: Model, others: Models) -> None:
    """Take a model and others apart that are related."""
    with connect() as client:
        one, rest = _found(client, model, others)
        for other in rest:
            client.model_record_store.remove_model_relationship(one.key, other.key)
        _tell(client, one.key)


def _found(client: Client, model: str, others: Sequence[str]) -> tuple[AnyModelConfig, list[AnyModelConfig]]:
    """All of them are looked for before anything changes."""
    return find_model(client, model), [find_model(client, other) for other in others]


def _tell(client: Client, key: str) -> None:
    config = client.model_record_store.get_model(key)
    names = names_of(client, config.related_keys)
    if not emit(lambda: model_data(config)):
        say(f"{visible(config.name)}: {visible(', '.join(names)) or 'no related models'}")
