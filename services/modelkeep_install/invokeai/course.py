"""An import from its beginning to its end. It keeps nothing: a second one finds what the first has done."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Protocol, TypeVar

from modelkeep.backoff import Backoff
from modelkeep.exceptions import (
    DuplicateModelException,
    DuplicatePathException,
    EtagMismatchException,
    ModelkeepError,
)
from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.auth import Principal

from ..domain.ports import TRY_AGAIN, Mark, RecordFile
from ..domain.roots import ModelRoots
from . import comparing
from .legacy import Legacy, read_yaml
from .looking import look, picture_of
from .mapping import Mapped, mapped
from .read import Database, open_database
from .root import Root, find_root, no_root
from .source import Source, text_in

T = TypeVar("T")

#: Records of one batch.
_BATCH = 100
#: Records that are changed at once.
_AT_ONCE = 8
#: Tries of a call that RecordService does not answer, and the waits between them in seconds.
_TRIES, _FIRST_RETRY_S, _LAST_RETRY_S = 6, 0.2, 5.0


class Outcome(StrEnum):
    """What became of a record."""

    NEW = "new"
    UNCHANGED = "unchanged"
    UPDATED = "updated"
    KEPT = "kept"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Wish:
    """What an import is to do."""

    validate_only: bool = False
    skip_missing: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """What was found: the installation, its schema, and how many records it has."""

    root: Root
    schema: str
    is_newer: bool
    count: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one record.

    Attributes:
        source: The record there.
        outcome: What became of it.
        wanted: What it is here; None if that cannot be told.
        path: Where its files are.
        key: Of the record here.
        changed: The fields that differ.
        error: Why it was not registered, or why its picture did not come along.
    """

    source: Source
    outcome: Outcome
    wanted: Mapped | None = None
    path: str = ""
    key: str = ""
    changed: tuple[str, ...] = ()
    error: ModelkeepError | None = None


@dataclass(slots=True)
class Ended:
    """How many records there were of each outcome, and how many are missing or unknown."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    missing: int = 0
    unknown: int = 0

    def count(self, findings: Sequence[Finding]) -> None:
        """Count what was found."""
        self.outcomes.update(one.outcome for one in findings)
        self.missing += sum(one.wanted is not None and one.wanted.place.is_missing for one in findings)
        self.unknown += sum(one.wanted is not None and one.wanted.is_unknown for one in findings)


class Stored(Protocol):
    """RecordService, as far as an import needs it. Every method may raise one of TRY_AGAIN."""

    async def batch(self, keys: Sequence[str]) -> Mapping[str, Model]:
        """The records of these keys that are there."""

    async def at_paths(self, paths: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Model]:
        """The records at these places (path, root id)."""

    async def add(
        self, models: Sequence[tuple[Model, Sequence[RecordFile], bytes]], *, validate_only: bool
    ) -> list[ModelkeepError | None]:
        """Stores new records with their files and pictures; of each, why it was not stored."""

    async def change(
        self,
        model: Model,
        paths: Sequence[str],
        *,
        files: Sequence[RecordFile] | None,
        picture: bytes | None,
    ) -> None:
        """Changes these fields of a record in the state of its etag; files and picture unless None."""

    async def mark(self, marks: Sequence[Mark]) -> int:
        """Notes whose files are gone."""


class InvokeAIImports:
    """All that InvokeAI has, registered here.

    Args:
        records: RecordService.
        roots: What may be read.
    """

    def __init__(self, records: Stored, roots: ModelRoots) -> None:
        self._records = records
        self._roots = roots

    async def run(
        self, path: str, named_by: Principal, wish: Wish
    ) -> AsyncIterator[Started | list[Finding] | Ended]:
        """Import an installation: what was found, what becomes of its records, and how many there were.

        Args:
            path: Its root folder, as a caller named it.
            named_by: The caller.
            wish: What is to be done.

        Raises:
            FieldInvalidException, ForbiddenPathException, SourceNotFoundException: As :func:`find_root`.
            UpstreamUnavailableException: RecordService does not answer, or InvokeAI keeps its database
                locked.
        """
        root = await asyncio.to_thread(find_root, path, self._roots, named_by)
        legacy = await asyncio.to_thread(read_yaml, root)
        async with AsyncExitStack() as opened:
            database = None
            if root.database is not None:
                database = await opened.enter_async_context(open_database(root.database))
                if not database.schema.table and root.models_yaml is None:
                    raise no_root(root.path, f"has a database without a table of models: {root.database}")
            yield await _started(root, legacy, database)
            ended = Ended()
            all_sources = await opened.enter_async_context(aclosing(_all(database, legacy, root)))
            batch = _Batch(self._records, self._roots, root, named_by, wish)
            async for sources in all_sources:
                findings = await batch.of(sources)
                ended.count(findings)
                yield findings
            yield ended


async def _started(root: Root, legacy: Legacy, database: Database | None) -> Started:
    count = len(legacy.sources) + (await database.count() if database is not None else 0)
    if database is not None and database.schema.table:
        return Started(root, database.schema.name, database.schema.is_newer, count)
    return Started(root, legacy.version, False, count)


async def _all(database: Database | None, legacy: Legacy, root: Root) -> AsyncGenerator[list[Source]]:
    """All records, at most a hundred at a time; what the database has too is taken from there."""
    seen: set[str] = set()
    if database is not None:
        async with aclosing(database.pages()) as pages:
            async for page in pages:
                if legacy.sources:
                    seen.update(str(root.models_dir / text_in(source.config, "path")) for source in page)
                yield page
    rest = [source for source in legacy.sources if text_in(source.config, "path") not in seen]
    for first in range(0, len(rest), _BATCH):
        yield rest[first : first + _BATCH]


class _Batch:
    """Some records on their way."""

    def __init__(
        self, records: Stored, roots: ModelRoots, root: Root, named_by: Principal, wish: Wish
    ) -> None:
        self._records = records
        self._roots = roots
        self._root = root
        self._named_by = named_by
        self._wish = wish

    async def of(self, sources: Sequence[Source]) -> list[Finding]:
        """What became of them, in their order."""
        looked = await asyncio.to_thread(lambda: [self._look(source) for source in sources])
        wanted = [one for one in looked if isinstance(one, Mapped)]
        before = await self._before(wanted)
        found = [
            one if isinstance(one, Finding) else self._compare(one, before.get(one.model.key))
            for one in looked
        ]
        added = await self._add([one for one in found if one.outcome is Outcome.NEW])
        changed = await self._change([one for one in found if one.outcome is Outcome.UPDATED], before)
        done = {id(one): result for one, result in (*added, *changed)}
        return [done.get(id(one), one) for one in found]

    def _look(self, source: Source) -> Mapped | Finding:
        """In a thread: what a record is to be here."""
        if source.error is not None:
            return Finding(source, Outcome.FAILED, path=text_in(source.config, "path"), error=source.error)
        try:
            place = look(source, self._root, self._roots, self._named_by)
        except ModelkeepError as error:
            return Finding(source, Outcome.FAILED, path=text_in(source.config, "path"), error=error)
        picture, trouble = b"", None
        try:
            picture = picture_of(source, self._root, self._roots, self._named_by)
        except ModelkeepError as error:
            trouble = error
        try:
            return mapped(source, place, self._root, picture, trouble)
        except ModelkeepError as error:
            return Finding(source, Outcome.FAILED, path=text_in(source.config, "path"), error=error)

    async def _before(self, wanted: Sequence[Mapped]) -> dict[str, Model]:
        """The records that are there, of the same key or the same place; by the key that is wanted."""
        keys = [one.model.key for one in wanted]
        if not keys:
            return {}
        found = dict(await _tried(lambda: self._records.batch(keys)))
        rest = {
            (one.model.path, one.model.root_id): one.model.key for one in wanted if one.model.key not in found
        }
        if rest:
            there = await _tried(lambda: self._records.at_paths(list(rest)))
            found |= {rest[place]: model for place, model in there.items() if place in rest}
        return found

    def _compare(self, wanted: Mapped, before: Model | None) -> Finding:
        place = wanted.place
        if before is None:
            skipped = place.is_missing and self._wish.skip_missing
            outcome = Outcome.SKIPPED if skipped else Outcome.NEW
            return Finding(
                wanted.source, outcome, wanted, place.shown, wanted.model.key, error=wanted.trouble
            )
        if before.key != wanted.model.key:  # a record of the same place, that has been made otherwise
            own = json.dumps(wanted.source.shown_key)
            if comparing.LABEL in before.labels and before.extra_fields.get("key") != own:
                taken = DuplicatePathException(
                    f"Another record of InvokeAI has this place already: {before.key}.",
                    metadata={"path": place.shown, "key": before.key},
                )
                return Finding(wanted.source, Outcome.FAILED, wanted, place.shown, error=taken)
            wanted.model.extra_fields["key"] = own
        changed = tuple(comparing.differing(before, wanted))
        if not changed:
            outcome = Outcome.UNCHANGED
        elif self._wish.overwrite or comparing.is_as_imported(before) or changed == (comparing.FILES,):
            outcome = Outcome.UPDATED
        else:
            outcome = Outcome.KEPT
        return Finding(wanted.source, outcome, wanted, place.shown, before.key, changed, wanted.trouble)

    async def _add(self, findings: Sequence[Finding]) -> list[tuple[Finding, Finding]]:
        if not findings:
            return []
        wanted = [one.wanted for one in findings if one.wanted is not None]
        models = [(comparing.labelled(one), one.files, one.picture) for one in wanted]
        errors = await _tried(lambda: self._records.add(models, validate_only=self._wish.validate_only))
        marks = [
            Mark(one.model.key, one.model.path, one.model.root_id, True)
            for one, error in zip(wanted, errors, strict=True)
            if one.place.is_missing and error is None
        ]
        if marks and not self._wish.validate_only:
            await _tried(lambda: self._records.mark(marks))
        return [
            (one, one if error is None else await self._not_added(one, error))
            for one, error in zip(findings, errors, strict=True)
        ]

    async def _not_added(self, one: Finding, error: ModelkeepError) -> Finding:
        """What became of a record that was not stored: perhaps somebody else has stored it meanwhile."""
        assert one.wanted is not None
        if not isinstance(error, DuplicateModelException):
            return _failed(one, error)
        before = await self._before([one.wanted])
        again = self._compare(one.wanted, before.get(one.wanted.model.key))
        if again.outcome is Outcome.NEW:
            return _failed(one, error)
        return await self._changed(again, before) if again.outcome is Outcome.UPDATED else again

    async def _change(
        self, findings: Sequence[Finding], before: Mapping[str, Model]
    ) -> list[tuple[Finding, Finding]]:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def change(one: Finding) -> tuple[Finding, Finding]:
            async with slots:
                return one, await self._changed(one, before)

        return list(await asyncio.gather(*map(change, findings)))

    async def _changed(self, one: Finding, before: Mapping[str, Model]) -> Finding:
        """What became of a record that is to have InvokeAI's values."""
        wanted = one.wanted
        assert wanted is not None
        if self._wish.validate_only:
            return one
        record = before[wanted.model.key]
        for _ in range(_TRIES):
            model, paths = comparing.merged(record, wanted, one.changed)
            picture = wanted.picture if comparing.PICTURE in one.changed else None
            files = wanted.files if comparing.FILES in one.changed else None
            await self._leave_out_strangers(model, record)
            try:
                await _tried(partial(self._records.change, model, paths, files=files, picture=picture))
                return one
            except EtagMismatchException as error:
                # it changed meanwhile, as by the digests of its files: look at it again
                now = (await _tried(partial(self._records.batch, [one.key]))).get(one.key)
                if now is None:
                    return _failed(one, error)
                record, one = now, self._compare(wanted, now)
                if one.outcome is not Outcome.UPDATED:
                    return one
            except TRY_AGAIN:
                raise
            except ModelkeepError as error:
                return _failed(one, error)
        return replace(one, outcome=Outcome.KEPT)

    async def _leave_out_strangers(self, model: Model, before: Model) -> None:
        """Of a record's new related models those that have none yet: when they come, both name each other."""
        new = sorted(set(model.related_keys) - set(before.related_keys))
        there = await _tried(partial(self._records.batch, new)) if new else {}
        for key in new:
            if key not in there:
                model.related_keys.remove(key)


def _failed(one: Finding, error: ModelkeepError) -> Finding:
    return replace(one, outcome=Outcome.FAILED, error=error)


async def _tried(call: Callable[[], Awaitable[T]]) -> T:
    """A call that RecordService may not answer at once. Made twice, it changes nothing the second time."""
    waits = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
    for left in reversed(range(_TRIES)):
        try:
            return await call()
        except TRY_AGAIN:
            if not left:
                raise
            await asyncio.sleep(waits.next())
    raise AssertionError("unreachable")
