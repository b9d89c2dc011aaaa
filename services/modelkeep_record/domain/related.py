"""Related models: a record that names another is named by it, after every change.

Only a record that was imported may name one that is not there yet: once that comes, both name each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, Protocol

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.model.v1.model_pb2 import Model

#: Models that one may be related to.
MAX_RELATED: Final = 256

_FIELD: Final = "model.related_keys"


class Relations(Protocol):
    """What is asked of the records."""

    async def get(self, key: str) -> Model | None:
        """The record of a key."""
        ...

    async def keys_naming(self, key: str) -> list[str]:
        """The keys of the records whose `related_keys` have a key, sorted."""
        ...


async def settle(
    records: Relations, model: Model, before: Model | None, *, max_bytes: int, may_be_missing: bool = False
) -> list[Model]:
    """Sort a record's related keys, and change the records on the other side as they say.

    Args:
        records: The write transaction; nothing is stored.
        model: The record as it is to be, with its key; changed in place.
        before: The record as it is; None: it is new, and gets the keys of those that name it already.
        max_bytes: How large a record may be.
        may_be_missing: Whether it may name keys that no record has.

    Returns:
        The other records that change, to be stored beside it.

    Raises:
        FieldInvalidException: It names itself, a key that no record has, or one that has too many already.
    """
    old = set(before.related_keys) if before is not None else set(await records.keys_naming(model.key))
    new = set(model.related_keys) | (old if before is None else set())
    if before is not None and new == old:
        model.related_keys[:] = before.related_keys
        return []
    model.related_keys[:] = sorted(new)
    others = {key: await records.get(key) for key in sorted(new ^ old) if key != model.key}
    changed = []
    for key, other in others.items():
        if other is not None and (key in new) != (model.key in other.related_keys):
            (_add if key in new else _drop)(other, model.key)
            changed.append(other)
    added = {key: others.get(key) for key in sorted(new - old)}
    problems = list(_problems(model, added, max_bytes, may_be_missing=may_be_missing))
    if problems:
        raise FieldInvalidException("", violations=[FieldViolation(_FIELD, problem) for problem in problems])
    return changed


async def leave(records: Relations, keys: Collection[str]) -> list[Model]:
    """The records that name one of those that go, as they are without them; nothing is stored."""
    changed: dict[str, Model] = {}
    for key in keys:
        for naming in await records.keys_naming(key):
            if naming in keys:
                continue
            other = changed.get(naming) or await records.get(naming)
            if other is not None:
                _drop(other, key)
                changed[naming] = other
    return list(changed.values())


def _problems(
    model: Model, added: Mapping[str, Model | None], max_bytes: int, *, may_be_missing: bool
) -> Iterator[str]:
    if len(model.related_keys) > MAX_RELATED:
        yield f"must have at most {MAX_RELATED} entries, with those of the models that name this one"
    for key, other in added.items():
        if key == model.key:
            yield "has the model's own key"
        elif other is None:
            if not may_be_missing:
                yield f"has {key}, which no model has"
        elif len(other.related_keys) > MAX_RELATED:
            yield f"has {key}, which has {MAX_RELATED} related models already"
        elif other.ByteSize() > max_bytes:
            yield f"has {key}, whose record is too full to name another model"


def _add(model: Model, key: str) -> None:
    model.related_keys[:] = sorted({*model.related_keys, key})


def _drop(model: Model, key: str) -> None:
    model.related_keys[:] = [one for one in model.related_keys if one != key]
