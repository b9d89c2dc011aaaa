"""How a person names a model: by its name, by `name:base`, or by a key of which some characters will do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from modelkeep.cli import _complete
from modelkeep.cli._output import KEY_SHOWN
from modelkeep.cli._words import SHOWN, did_you_mean, few
from modelkeep.exceptions import (
    AmbiguousModelException,
    SubmodelRequiredException,
    UnknownModelException,
    UnknownSubmodelException,
)

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.configs import AnyModelConfig

_HELP: Final = "A model: its name, name:base, or its key, of which the first 4 characters or more will do."
Model = Annotated[str, typer.Argument(help=_HELP, autocompletion=_complete.models)]
Models = Annotated[list[str], typer.Argument(help=_HELP, autocompletion=_complete.models)]
OneModel = Annotated[str | None, typer.Argument(help="Only this model.", autocompletion=_complete.models)]

_KEY: Final = re.compile(r"[0-9a-f]{32}")
_PART_OF_KEY: Final = re.compile(r"[0-9a-f]{4,31}")
#: No model has a longer name.
_LONGEST_NAME: Final = 512


def find_model(client: Client, text: str) -> AnyModelConfig:
    """The model that a person means.

    Raises:
        UnknownModelException: There is none.
        AmbiguousModelException: There are several; the message names them.
    """
    if not text.strip():
        # For a search, no name is every name: `rm "$KEY"` with KEY not set must not find the only model.
        raise typer.BadParameter("the model is an empty text; give its key or its name")
    store = client.model_record_store
    if _KEY.fullmatch(text.lower()):
        return store.get_model(text.lower())
    name, colon, base = text.rpartition(":")
    for called, by_base in ((text, ""), (name, base.casefold())) if colon and name else ((text, ""),):
        found = [config for config in _called(client, called) if not by_base or _fits(config, by_base)]
        if found:
            return _only(found, f"the name {called!r}" + (f" for {base}" if by_base else ""), text)
    begun = text.lower()
    if _PART_OF_KEY.fullmatch(begun) and (found := store.list_models(key_prefix=begun)):
        return _only(found, f"a key that begins with {begun}", text)
    near = did_you_mean(text, [config.name for config in store.list_models()])
    raise UnknownModelException(f"No model has the key or name {text!r}.{near}", metadata={"name": text})


def find_key(client: Client, text: str) -> str:
    """The key of the model that a person means; of a whole key it is not asked whether there is one.

    Raises:
        UnknownModelException: There is none.
        AmbiguousModelException: There are several; the message names them.
    """
    return text.lower() if _KEY.fullmatch(text.lower()) else find_model(client, text).key


def find_part(client: Client, text: str, submodel: str | None) -> tuple[str, str | None]:
    """The key and the component of what is named as tables show it: `tiny-sd/vae`, or `tiny-sd`."""
    if submodel is None and "/" in text:
        name, _, part = text.rpartition("/")
        if name and part.lower() in _complete.submodel_names():
            try:
                return find_key(client, name), part.lower()
            except UnknownModelException:
                pass  # then the slash belongs to the name
    try:
        return find_key(client, text), submodel
    except UnknownModelException:
        if submodel is None and (unknown := _unknown_part(client, text)) is not None:
            raise unknown from None
        raise


def _unknown_part(client: Client, text: str) -> UnknownSubmodelException | None:
    """What is said of `tiny-sd/nope`, where there is a tiny-sd: what it has; None where there is none."""
    name, _, part = text.rpartition("/")
    try:
        key = find_key(client, name) if name else ""
    except UnknownModelException:
        return None
    if not key:
        return None
    metadata = {"key": key, "submodel": part, "loadable": ""}
    try:
        client.model_loader.estimate(key)
    except SubmodelRequiredException as error:
        metadata["loadable"] = error.metadata.get("loadable", "")
        told = f"It has {metadata['loadable'].replace(',', ', ') or 'none that can be lent'}."
        return UnknownSubmodelException(f"{name!r} has no component {part}. {told}", metadata=metadata)
    return UnknownSubmodelException(
        f"{name!r} has no component {part}: it is one component.",
        metadata=metadata,
        remedy=f"Name {name!r} alone.",
    )


def _called(client: Client, name: str) -> Sequence[AnyModelConfig]:
    """The models of exactly this name; if there is none, those whose name differs in case alone."""
    if len(name) > _LONGEST_NAME:
        return []
    store = client.model_record_store
    return store.list_models(name=name) or store.list_models(name_caseless=name)


def _fits(config: AnyModelConfig, base: str) -> bool:
    return base in (config.base_model.casefold(), *(str(other) for other in config.compatible_bases))


def _only(found: Sequence[AnyModelConfig], what: str, text: str) -> AnyModelConfig:
    if len(found) == 1:
        return found[0]
    named = [f"{one.name}:{one.base_model} ({one.model_type}, {one.key[:KEY_SHOWN]})" for one in found]
    raise AmbiguousModelException(
        f"{len(found)} models have {what}: {few(named)}.",
        metadata={
            "name": text,
            "count": str(len(found)),
            "keys": ",".join(one.key for one in found[:SHOWN]),
        },
    )
