"""From what a caller names to what has to be built: records and files in, plans out.

A plan's id is the component's identity. It is made of the digests of the weight files as the loader itself
has read them, the class, the configuration, the precision and the version of the layout, so that models
which share a component share its memory. What a record says of a file's contents is a claim: it can have
a file refused, and never makes it another's. Never the path, never a time: neither says what the bytes are.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from modelkeep.exceptions import ModelNotFoundException
from modelkeep.headers import Allowance
from modelkeep.worker.classes import kept_in_float32
from modelkeep.worker.manifest import Kind
from modelkeep_common.wire import clamped_int
from modelkeep_convert.request import is_in_files
from modelkeep_loader.domain.checkpoints import private_bytes
from modelkeep_loader.domain.components import (
    CPU,
    ComponentRef,
    Identified,
    ModelFacts,
    Plan,
    SourceFile,
    signature_of,
)
from modelkeep_loader.domain.digests import Digester, Known, Reading
from modelkeep_loader.domain.find import Finder
from modelkeep_loader.domain.folders import INDEX_NAMES
from modelkeep_loader.domain.found import Found
from modelkeep_loader.domain.listing import refuse_other
from modelkeep_loader.domain.records import FileFacts, Record, Records
from modelkeep_loader.domain.unreadable import unreadable
from modelkeep_loader.domain.weights import Weights, memory_format, weigh

#: Part of every identity: what the helper makes of the same files may change with it.
LAYOUT_VERSION: Final = "safetensors-aligned-2"

#: Plans that are kept, in bytes as they are reckoned, and what one takes besides its configuration.
_KEPT_BYTES: Final = 32 << 20
_PLAN_BYTES: Final = 2048
#: What the system says of a file that is not there, or cannot be.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
#: Entries of a configuration that do not say what the module is.
_NOISE = (
    "_class_name",  # stands in the identity by itself
    "_commit_hash",
    "_diffusers_version",
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
)


class _Kept(NamedTuple):
    """A plan, the record that it was made from, and the signatures of what was read.

    They go by the names that they have in the model: a link that leads elsewhere now is a change.
    ``owner`` is the record that lists the files of another model's VAE, if there is one.
    """

    record: Record
    owner: Record | None
    plan: Plan
    marks: Mapping[Path, str]
    weight: int


class _Draft(NamedTuple):
    """A plan before it has an identity."""

    found: Found
    files: list[SourceFile]
    claims: list[FileFacts | None]
    weights: Weights
    cast: bool
    build_bytes: int
    marks: dict[Path, str]
    memory_format: str
    in_files: bool


class _Weighed(NamedTuple):
    """What a look at a component's files says."""

    statuses: list[os.stat_result]
    weights: Weights
    cast: bool
    build_bytes: int
    memory_format: str = "contiguous"
    in_files: bool = False


class Localizes(Protocol):
    """Takes care of files that lie far away."""

    async def wants(self, file: SourceFile) -> bool:
        """See :meth:`modelkeep_loader.localize.Localizer.wants`."""
        ...

    def known(self, file: SourceFile, with_sha256: bool) -> Known | None:
        """See :meth:`modelkeep_loader.localize.Localizer.known`."""
        ...

    async def digest(
        self, file: SourceFile, ref: ComponentRef, model: ModelFacts, *, with_sha256: bool, reading: Reading
    ) -> Known:
        """See :meth:`modelkeep_loader.localize.Localizer.digest`."""
        ...


class Planner:
    """Makes plans, and keeps them for as long as record and files stay as they are.

    Args:
        records: Where records come from.
        finder: Finds the files of components.
        budget_bytes: Memory that there is at most, in RAM or on a device: of what is larger, no file is read.
        digester: Reads files; one of its own by default.
        localizer: Takes care of files that lie far away, if there is one.
        precision: What components are lent in where their caller does not say.
    """

    def __init__(
        self,
        records: Records,
        finder: Finder,
        *,
        budget_bytes: int,
        digester: Digester | None = None,
        localizer: Localizes | None = None,
        precision: str = "auto",
    ) -> None:
        self._records = records
        self._finder = finder
        self._budget = budget_bytes
        self._digester = digester if digester is not None else Digester(finder.files.open)
        self._localizer = localizer
        self._precision = precision
        self._kept: OrderedDict[ComponentRef, _Kept] = OrderedDict()
        self._kept_weight = 0

    async def plan(self, refs: Sequence[ComponentRef], reading: Reading | None = None) -> list[Plan]:
        """What has to be built for some components.

        Args:
            refs: The components.
            reading: Told how far the files are read, where that has to be done to know what they are.

        Raises:
            UnknownModelException, UpstreamUnavailableException: As :class:`Records` says.
            SubmodelRequiredException: A main model without a submodel.
            UnknownSubmodelException: A main model that has no such submodel.
            RootMismatchException: The record's root is not the folder that is mounted here.
            ForbiddenPathException: The record, or a link, points outside every allowed root.
            ModelNotFoundException: Nothing is there.
            UnsafeFormatException: Only pickles are there, and they hold more than tensors.
            InvalidModelException: The files are broken, of no kind that can be loaded, or not those that
                the record lists.
            ChecksumMismatchException: A file is not the one that the record says it is.
        """
        return [one.plan for one in await self._kept_or_made(refs, reading or Reading())]

    async def outline(self, refs: Sequence[ComponentRef]) -> list[Plan]:
        """As :meth:`plan`, without reading more than the beginnings of files, and without a trace.

        The id of a plan is empty where the contents of its files are not known yet.

        Raises:
            ModelkeepError: As :meth:`plan`; what only a reading shows is not noticed.
        """
        return [one.plan for one in await self._kept_or_made(refs, None)]

    async def _kept_or_made(self, refs: Sequence[ComponentRef], reading: Reading | None) -> list[_Kept]:
        kept = {ref: self._kept[ref] for ref in refs if ref in self._kept}
        # Side by side, for both take a moment and a grant should not.
        checking = asyncio.ensure_future(asyncio.to_thread(_still_as_planned, kept))
        try:
            records = {key: await self._records.get(key) for key in dict.fromkeys(ref.key for ref in refs)}
            good = await checking
        except BaseException:
            checking.cancel()
            raise
        found: list[_Kept] = []
        for ref in refs:
            record = records[ref.key]
            if ref in good and kept[ref].record == record and await self._is_owners(ref, kept[ref]):
                found.append(kept[ref])
                continue
            one = await self._make(ref, record, reading)
            if reading is not None:
                self._keep(ref, one)
            found.append(one)
        return found

    def distrust(self, plans: Sequence[Plan]) -> None:
        """Files of these are not what they were, whatever their times say: read them anew next time."""
        for plan in plans:
            for file in plan.files:
                self._digester.forget(file)
        files = {file for plan in plans for file in plan.files}
        for ref in [ref for ref, one in self._kept.items() if not files.isdisjoint(one.plan.files)]:
            self._kept_weight -= self._kept.pop(ref).weight

    def close(self) -> None:
        """Stop reading."""
        self._digester.close()

    def _keep(self, ref: ComponentRef, one: _Kept) -> None:
        if (before := self._kept.pop(ref, None)) is not None:
            self._kept_weight -= before.weight
        self._kept[ref] = one
        self._kept_weight += one.weight
        while self._kept_weight > _KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_weight -= oldest.weight

    async def _make(self, ref: ComponentRef, record: Record, reading: Reading | None) -> _Kept:
        """Make a plan; None: of what is known without reading whole files."""
        files = await self._records.files(ref.key)
        vae: tuple[str, Record | None, Mapping[str, FileFacts]] | None = None
        if _has_others_vae(ref, record):
            owner = await self._owner(record)
            vae = (record.config["vae"], owner, await self._records.files(owner.key) if owner else {})
        draft = await asyncio.to_thread(self._survey, ref, record, files, vae)
        found = draft.found
        contents: list[object] = []
        digests: list[Identified] = []
        weights = draft.weights
        model = ModelFacts(record.name, record.base, record.type, found.location, record.hash)
        fits = weights.size_bytes <= self._budget
        if reading is not None and fits:
            reading.total += sum(file.size_bytes for file in draft.files)
        for file, claim in zip(draft.files, draft.claims, strict=True):
            if not fits:
                contents.append(file.signature)  # it is refused for its size before it is read
                continue
            known = await self._digest(file, claim, record, (ref, model), reading)
            if known is None:
                break
            digests.append(known)
            # A file that others may write could be one thing now and another when it is built: what they
            # make of it is lent as their file, and as no other.
            contents.append(known.blake3 if file.is_ours else [file.signature, known.blake3])
        scaling = record.config.get("scaling_factor") if found.config is None else None
        identity: list[object] = [
            LAYOUT_VERSION,
            contents,
            found.library,
            found.class_name,
            _canonical(found.config) if found.config is not None else [record.base, scaling],
            found.overrides,
            CPU,
            weights.precision,
            weights.form,
        ]
        if found.kind is not Kind.MODULE:
            # Without a configuration, names are what tells one file from another.
            identity += [found.kind, draft.cast, [name for name, _ in found.files], found.texts]
        if found.part is not None:
            identity.append(found.part)
        if draft.memory_format != "contiguous":
            identity.append(draft.memory_format)
        is_known = len(contents) == len(draft.files)
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        plan = Plan(
            ref=ref,
            id=hashlib.sha256(text.encode()).hexdigest()[:40] if is_known else "",
            content_addressed=all(file.is_ours for file in draft.files),
            library=found.library,
            class_name=found.class_name,
            config=found.config,
            overrides=found.overrides,
            precision=weights.precision,
            files=tuple(draft.files),
            digests=tuple(digests),
            scaling_factor=scaling,
            size_bytes=weights.size_bytes,
            build_bytes=draft.build_bytes,
            model=model,
            device=CPU,
            kind=found.kind,
            cast=draft.cast,
            names=tuple(name for name, _ in found.files),
            texts=found.texts,
            weights=weights.form,
            quantisation=weights.quantisation,
            dequantised_bytes=weights.dequantised_bytes,
            part=found.part,
            memory_format=draft.memory_format,
            in_files=draft.in_files,
        )
        weight = _PLAN_BYTES + len(text) + 200 * len(draft.marks)
        return _Kept(record, vae[1] if vae is not None else None, plan, draft.marks, weight)

    async def _digest(
        self,
        file: SourceFile,
        claim: FileFacts | None,
        record: Record,
        asked: tuple[ComponentRef, ModelFacts],
        reading: Reading | None,
    ) -> Identified | None:
        """What a file's bytes are; None if nothing is to be read and it is not known."""
        sha256 = claim is not None and claim.digest.startswith("sha256:")
        try:
            if reading is None:
                known = self._digester.known(file, with_sha256=sha256)
                if known is None and self._localizer is not None:
                    known = self._localizer.known(file, sha256)
            elif self._localizer is not None and await self._localizer.wants(file):
                known = await self._localizer.digest(file, *asked, with_sha256=sha256, reading=reading)
            else:
                known = await self._digester.digest(file, with_sha256=sha256, reading=reading)
        except FileNotFoundError:
            raise _gone(record, file.path) from None
        except OSError as error:
            raise unreadable(record.name, file.path, error) from None
        if known is None:
            return None
        if claim is not None:
            actual = known.digests.sha256 if sha256 else known.digests.blake3
            refuse_other(claim, actual, file.path, record.name)
        return Identified(known.digests.blake3, known.read_at)

    async def _owner(self, record: Record) -> Record | None:
        """The record that the path of another model's VAE belongs to."""
        return await self._records.owner(self._finder.names_of(record.config["vae"]), record.root_id)

    async def _is_owners(self, ref: ComponentRef, one: _Kept) -> bool:
        """Whether what another record says of a kept plan's files is what it was."""
        return not _has_others_vae(ref, one.record) or await self._owner(one.record) == one.owner

    # In a thread: everything below reads files.

    def _survey(
        self,
        ref: ComponentRef,
        record: Record,
        files: Mapping[str, FileFacts],
        vae: tuple[str, Record | None, Mapping[str, FileFacts]] | None,
    ) -> _Draft:
        place = self._finder.locate(record, record.path)
        model = component = self._finder.models_dir / record.path
        if vae is not None:
            component = self._finder.models_dir / vae[0]
        elif record.type == "main" and not os.path.isfile(place):
            component = model / ref.submodel
        # Before anything is read, so that the next request notices what changes meanwhile. The folder's own
        # mark changes with its entries: another file may be the one to take now.
        looked_at = [model / "model_index.json", component, component / "config.json"]
        if (published := self._finder.originals.place(record)) is not None:
            looked_at.append(published)
        try:
            marks = {path: _mark_of(path) for path in (*looked_at, *_indexes_in(component))}
            other = self._finder.ground(record, *vae) if vae is not None else None
            own = self._finder.ground(record, record.path, record, files)
            found = self._finder.find(ref, record, own, other)
            weighed = self._weigh(ref, found)
        except OSError as error:
            if error.errno in _ABSENT:
                raise _gone(record, Path(str(error.filename)), place) from None
            raise unreadable(record.name, place, error) from None
        sources = [
            SourceFile.of(path, record.name, status)
            for (_, path), status in zip(found.files, weighed.statuses, strict=True)
        ]
        for (name, path), file in zip(found.files, sources, strict=True):
            marks[component if path == found.location else component / name] = file.signature
        claims = [
            found.listing.claim(name, status)
            for (name, _), status in zip(found.files, weighed.statuses, strict=True)
        ]
        return _Draft(
            found,
            sources,
            claims,
            weighed.weights,
            weighed.cast,
            weighed.build_bytes,
            marks,
            weighed.memory_format,
            weighed.in_files,
        )

    def _weigh(self, ref: ComponentRef, found: Found) -> _Weighed:
        """Look at the files that were found: what they are, and what they will take."""
        called = f"{found.location.name}/{ref.submodel}" if ref.submodel else found.location.name
        order = partial(memory_format, ref.memory_format, found.kind, name=called)
        if found.kind is Kind.OBJECT:
            order(form="dequantised", tensors=())
            statuses = [self._finder.files.status(path) for _, path in found.files]
            texts = sum(len(text.encode()) for text in found.texts.values())
            size = 4096 + 1024 * len(statuses) + sum(status.st_size for status in statuses) + texts
            size = clamped_int(size)
            return _Weighed(statuses, Weights("", "dequantised", "", size, size), False, 0)
        left = Allowance()
        looks = [self._finder.files.header(path, left) for _, path in found.files]
        if found.part is not None:
            looks = [(header.only(found.part.prefix), status) for header, status in looks]
        # What has no class has none that its tensors must suit.
        precision = self._precision if ref.precision == "auto" else ref.precision
        cast = found.kind is Kind.MODULE or precision != "auto"
        weights = weigh(
            (tensor for header, _ in looks for tensor in header.tensors),
            precision,
            ref.weights,
            cast=cast,
            kept=partial(kept_in_float32, found.library, found.class_name),
            path=looks[0][0].path,
        )
        in_order = order(form=weights.form, tensors=(t for header, _ in looks for t in header.tensors))
        # One by one they are read, and cast to at most twice their size.
        largest = max((tensor.size_bytes for header, _ in looks for tensor in header.tensors), default=0)
        private = clamped_int(2 * largest)
        if found.part is not None:
            private = max(private, private_bytes(found, weights))
        if in_order != "contiguous":
            private = clamped_int(private + 2 * largest)  # and copied once more in another order
        in_files = (
            found.part is None
            and in_order == "contiguous"
            and is_in_files(weights.made_bytes, weights.size_bytes)
        )
        return _Weighed([status for _, status in looks], weights, cast, private, in_order, in_files)


def _has_others_vae(ref: ComponentRef, record: Record) -> bool:
    return record.type == "main" and ref.submodel == "vae" and bool(record.config.get("vae"))


def _gone(record: Record, path: Path, place: Path | None = None) -> ModelNotFoundException:
    where = place if place is not None else path.parent
    return ModelNotFoundException(
        f"Files of {record.name!r} are not at {where}: {path.name} is missing.",
        metadata={"key": record.key, "path": str(where)},
    )


def _canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in _NOISE}


def _mark_of(path: Path) -> str:
    try:
        return signature_of(path.stat())
    except (OSError, ValueError):  # the latter for a name that no file can have
        return ""


def _indexes_in(folder: Path) -> list[Path]:
    try:
        return list(folder.glob(INDEX_NAMES))
    except (OSError, ValueError):
        return []


def _still_as_planned(kept: Mapping[ComponentRef, _Kept]) -> set[ComponentRef]:
    """Those whose files are as they were."""
    return {
        ref for ref, one in kept.items() if all(_mark_of(path) == mark for path, mark in one.marks.items())
    }
