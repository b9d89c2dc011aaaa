"""What a shell may complete: models, jobs, tags, bases, and what the API has a list of."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import typer

from modelkeep.cli import _places
from modelkeep.cli._terminal import steers

if TYPE_CHECKING:
    from modelkeep.client import Client

#: A person who waits for a completion does not wait long.
_TIMEOUT_S: Final = 2.0
#: More than fit a screen help nobody.
_MOST: Final = 200
_PART_OF_KEY: Final = re.compile(r"[0-9a-f]{4,32}")


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Names of models; keys where a key was begun."""

    def found(client: Client) -> Iterable[str]:
        store = client.model_record_store
        yield from (config.name for config in store.list_models())
        if _PART_OF_KEY.fullmatch(incomplete.lower()):
            yield from (config.key for config in store.list_models(key_prefix=incomplete.lower()))

    return _of_service(context, incomplete, found)


def tags(context: typer.Context, incomplete: str) -> list[str]:
    """Tags that models have."""
    return _of_service(context, incomplete, lambda client: client.model_record_store.tags(incomplete))


def bases(incomplete: str) -> list[str]:
    """Bases that are known."""
    from modelkeep.taxonomy import BaseModelType

    return _last_of(incomplete, (member.value for member in BaseModelType))


def types(incomplete: str) -> list[str]:
    """Types of models."""
    from modelkeep.taxonomy import ModelType

    return _last_of(incomplete, (member.value for member in ModelType))


def formats(incomplete: str) -> list[str]:
    """Formats of models."""
    from modelkeep.taxonomy import ModelFormat

    return _last_of(incomplete, (member.value for member in ModelFormat))


def submodels(incomplete: str) -> list[str]:
    """Components of models."""
    return _last_of(incomplete, submodel_names())


def submodel_names() -> list[str]:
    """The names of components, as folders of a pipeline have them."""
    from modelkeep.taxonomy import SubModelType

    return [member.value for member in SubModelType]


def devices(context: typer.Context, incomplete: str) -> list[str]:
    """Devices that the loader lends on."""
    return _of_service(context, incomplete, lambda client: client.model_loader.capacity().devices)


def installs(context: typer.Context, incomplete: str) -> list[str]:
    """Numbers of installs."""
    return _of_service(
        context, incomplete, lambda client: (str(job.id) for job in client.model_install.list_jobs())
    )


def downloads(context: typer.Context, incomplete: str) -> list[str]:
    """Numbers of downloads."""

    def found(client: Client) -> Iterable[str]:
        return (str(job.id) for job in client.create_download_queue(None, quiet=True).list_jobs())

    return _of_service(context, incomplete, found)


def leases(context: typer.Context, incomplete: str) -> list[str]:
    """Names of leases."""
    return _of_service(
        context, incomplete, lambda client: (lease.id for lease in client.model_loader.leases())
    )


def contexts(incomplete: str) -> list[str]:
    """Contexts of the configuration file."""
    with contextlib.suppress(Exception):
        return _last_of(incomplete, _places.read().contexts)
    return []


def _last_of(incomplete: str, values: Iterable[str]) -> list[str]:
    """What the last of several words, with commas between them, may become."""
    before, comma, begun = incomplete.rpartition(",")
    return [before + comma + value for value in dict.fromkeys(values) if value.startswith(begun.lower())]


def _of_service(
    context: typer.Context, incomplete: str, find: Callable[[Client], Iterable[str]]
) -> list[str]:
    """What a service answers; nothing if it cannot be asked: a completion never fails."""
    with contextlib.suppress(Exception), _asked(context) as client:
        begun = incomplete.casefold()
        # A shell shows what it is given as it is.
        shown = (value for value in find(client) if not any(map(steers, value)))
        return list(dict.fromkeys(value for value in shown if value.casefold().startswith(begun)))[:_MOST]
    return []


@contextlib.contextmanager
def _asked(context: typer.Context) -> Iterator[Client]:
    """A client of the suite that the words typed so far name."""
    at: typer.Context | None = context
    named: dict[str, object] = {}
    while at is not None:
        named = {**{name: value for name, value in at.params.items() if value}, **named}
        at = at.parent  # type: ignore[assignment]  # the context of a group is one as well
    _places.choose_place(
        data_dir=named.get("data_dir"),
        address=named.get("address"),
        context=named.get("context"),
        files={name: named.get(name) for name in _places.FILES},
    )
    with _places.connect(timeout_s=_TIMEOUT_S) as client:
        yield client
