"""One write transaction on the records of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from modelkeep.model.v1.model_pb2 import Model, ModelFile

from ...domain.covers import Cover
from .covers import Covers, digest_of
from .state import Change, Entry, PathKey, State, rewritten


class Transaction:
    """:class:`Records` on a state of the file. Its coroutines never wait.

    Args:
        state: The state.
        pictures: The pictures beside the file.
    """

    def __init__(self, state: State, pictures: Covers) -> None:
        self._state = state
        self._pictures = pictures
        #: What changed, in order.
        self.changes: list[Change] = []
        #: By key, what the records are now; None: they are gone.
        self.changed: dict[str, Entry | None] = {}
        #: By key, the pictures that they have now.
        self.covers: dict[str, Cover | None] = {}
        self._paths: dict[PathKey, str | None] = {}

    @contextlib.contextmanager
    def unit(self) -> Iterator[None]:
        """A unit of work: if it raises, nothing of it stays."""
        kept = len(self.changes), dict(self.changed), dict(self.covers), dict(self._paths)
        try:
            yield
        except BaseException:
            count, self.changed, self.covers, self._paths = kept
            del self.changes[count:]
            raise

    async def get(self, key: str) -> Model | None:
        """See :class:`Records`."""
        entry = self._entry(key)
        if entry is None:
            return None
        model = Model()
        model.CopyFrom(entry.model)
        return model

    async def key_at_path(self, path: str, root_id: str) -> str | None:
        """See :class:`Records`."""
        place = (path, root_id)
        return self._paths[place] if place in self._paths else self._state.paths.get(place)

    async def files(self, key: str) -> list[ModelFile]:
        """See :class:`Records`."""
        entry = self._entry(key)
        return [] if entry is None else [_copy(file) for file in entry.files]

    async def keys_naming(self, key: str) -> list[str]:
        """See :class:`Records`."""
        relating = {*self._state.relating, *self.changed}
        entries = {other: self._entry(other) for other in relating}
        return sorted(other for other, entry in entries.items() if entry and key in entry.model.related_keys)

    async def cover(self, key: str) -> Cover | None:
        """See :class:`Records`."""
        if key in self.covers:
            return self.covers[key]
        entry = self._entry(key)
        return None if entry is None else self._pictures.read(digest_of(entry.model))

    async def next_revision(self) -> int:
        """See :class:`Records`."""
        return self._state.revision + len(self.changes) + 1

    async def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        """See :class:`Records`."""
        old = self._entry(model.key)
        kept = Model()
        kept.CopyFrom(model)
        if files is None:
            listed = old.files if old is not None else ()
        else:
            listed = tuple(sorted((_copy(file) for file in files), key=lambda file: file.path))
        entry = rewritten(old.name if old is not None else self._free_name(kept.key), old, kept, listed)
        if old is not None:
            self._paths[old.path] = None
        self._paths[entry.path] = kept.key
        self.changed[kept.key] = entry
        self._append(kept.key, entry.message)

    async def put_cover(self, key: str, cover: Cover | None) -> None:
        """See :class:`Records`."""
        self.covers[key] = cover

    async def remove(self, key: str) -> None:
        """See :class:`Records`."""
        if (old := self._entry(key)) is not None:
            self._paths[old.path] = None
        self.changed[key] = self.covers[key] = None
        self._append(key, None)

    def _append(self, key: str, message: bytes | None) -> None:
        self.changes.append(Change(self._state.revision + len(self.changes) + 1, key, message))

    def _entry(self, key: str) -> Entry | None:
        return self.changed[key] if key in self.changed else self._state.entries.get(key)

    def _free_name(self, key: str) -> str:
        """A name for a new entry: the key, unless a person has given that to the entry of another."""
        name, number = key, 1
        while self._state.names.get(name, key) != key:
            number += 1
            name = f"{key}-{number}"
        return name


def _copy(file: ModelFile) -> ModelFile:
    copy = ModelFile()
    copy.CopyFrom(file)
    return copy
