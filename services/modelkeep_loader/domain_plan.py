"""From what a caller names to what has to be built: records and files in, plans out.

A plan's id is the component's identity. It is made of the digests of the weight files as the record has
them, the class, the configuration, the precision and the version of the layout, so that models which
share a component share its memory. Where a digest is not known yet, or the file on disk is not the one
that was hashed, the file's name inside its store, record and revision takes its place: correct, unshared.
Never the path, never the time of modification alone: neither says what the bytes are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from modelkeep.exceptions import InvalidModelException, ModelNotFoundException
from modelkeep.headers import Header
from modelkeep.worker.classes import KEPT_IN_FLOAT32
from modelkeep_common.wire import clamped_time
from modelkeep_loader.domain import ComponentRef, ModelFacts, Plan, SourceFile, signature_of
from modelkeep_loader.domain_find import INDEX_NAMES, Finder
from modelkeep_loader.domain_records import FileFacts, Record, Records
from modelkeep_loader.weightfile import PRECISION_OF_CODE, cast_bytes, main_float_code

#: Part of every identity: what the helper makes of the same files may change with it.
LAYOUT_VERSION: Final = "safetensors-aligned-1"

_KEPT_PLANS: Final = 4096
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
    """A plan, store and revision of the record that it was made from, and the signatures of what was read.

    They go by the names that they have in the model: a link that leads elsewhere now is a change.
    """

    state: tuple[str, int]
    plan: Plan
    marks: Mapping[Path, str]


class Planner:
    """Makes plans, and keeps them for as long as record and files stay as they are.

    Args:
        records: Where records come from.
        finder: Finds the files of components.
    """

    def __init__(self, records: Records, finder: Finder) -> None:
        self._records = records
        self._finder = finder
        self._kept: OrderedDict[ComponentRef, _Kept] = OrderedDict()

    async def plan(self, refs: Sequence[ComponentRef]) -> list[Plan]:
        """What has to be built for some components.

        Raises:
            UnknownModelException, UpstreamUnavailableException: As :class:`Records` says.
            SubmodelRequiredException: A main model without a submodel.
            RootMismatchException: The record's root is not the folder that is mounted here.
            ForbiddenPathException: The record, or a link, points outside every allowed root.
            ModelNotFoundException: Nothing is there.
            UnsafeFormatException: Only pickles are there.
            InvalidModelException: The files are broken, or of no kind that can be loaded.
        """
        kept = {ref: self._kept[ref] for ref in refs if ref in self._kept}
        # Side by side, for both take a moment and a grant should not.
        checking = asyncio.ensure_future(asyncio.to_thread(_still_as_planned, kept))
        try:
            records = {key: await self._records.get(key) for key in dict.fromkeys(ref.key for ref in refs)}
            good = await checking
        except BaseException:
            checking.cancel()
            raise
        plans: list[Plan] = []
        for ref in refs:
            record = records[ref.key]
            state = (record.store_id, record.revision)
            if ref in good and kept[ref].state == state:
                plans.append(kept[ref].plan)
                continue
            files = await self._records.files(ref.key)
            plan, marks = await asyncio.to_thread(self._make, ref, record, files)
            self._kept.pop(ref, None)
            self._kept[ref] = _Kept(state, plan, marks)
            while len(self._kept) > _KEPT_PLANS:
                self._kept.popitem(last=False)
            plans.append(plan)
        return plans

    # In a thread: everything below reads files.

    def _make(
        self, ref: ComponentRef, record: Record, files: Mapping[str, FileFacts]
    ) -> tuple[Plan, dict[Path, str]]:
        place = self._finder.locate(record, record.path)
        model = component = self._finder.models_dir / record.path
        if ref.submodel == "vae" and record.vae:
            component = self._finder.models_dir / record.vae
        elif record.type == "main":
            component = model / ref.submodel
        # Before anything is read, so that the next request notices what changes meanwhile. The folder's own
        # mark changes with its entries: another file may be the one to take now.
        looked_at = [model / "model_index.json", component, component / "config.json"]
        marks = {path: _mark_of(path) for path in (*looked_at, *component.glob(INDEX_NAMES))}
        try:
            found = self._finder.find(ref, record, place)
            headers = [(name, path, *self._finder.read_header(path)) for name, path in found.files]
        except FileNotFoundError as error:
            raise ModelNotFoundException(
                f"Files of {record.name!r} are not at {place}: {Path(str(error.filename)).name} is missing.",
                metadata={"key": record.key, "path": str(place)},
            ) from None
        except OSError as error:
            raise InvalidModelException(
                f"The files of {record.name!r} cannot be read: {error.strerror}.",
                metadata={"path": str(place), "detail": str(error.strerror)},
            ) from None
        precision = (
            ref.precision if ref.precision != "auto" else _own_precision([entry[2] for entry in headers])
        )
        kept = KEPT_IN_FLOAT32.get(found.class_name, ())
        size = sum(
            cast_bytes(header, precision, kept) + 160 * len(header.tensors) for _, _, header, _, _ in headers
        )
        contents: list[object] = []
        known = True
        for relative, _path, _header, signature, status in headers:
            facts = files.get(relative) if found.in_record else None
            if facts is not None and facts.digest and _is_unchanged(facts, status):
                contents.append(facts.digest)
            else:
                known = False
                contents.append([record.store_id, record.key, record.revision, relative, signature])
        scaling = record.scaling_factor if found.config is None else None
        identity = [
            LAYOUT_VERSION,
            contents,
            found.library,
            found.class_name,
            _canonical(found.config) if found.config is not None else [record.base, scaling],
            found.overrides,
            precision,
        ]
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        for name, path, _header, signature, _status in headers:
            marks[component if path == found.location else component / Path(name).name] = signature
        plan = Plan(
            ref=ref,
            id=hashlib.sha256(text.encode()).hexdigest()[:40],
            content_addressed=known,
            library=found.library,
            class_name=found.class_name,
            config=found.config,
            overrides=found.overrides,
            precision=precision,
            files=tuple(SourceFile(path, status.st_size, mark) for _, path, _, mark, status in headers),
            scaling_factor=scaling,
            size_bytes=size + 4096,
            model=ModelFacts(record.name, record.base, record.type, found.location, record.hash),
        )
        return plan, marks


def _own_precision(headers: list[Header]) -> str:
    largest = max(headers, key=lambda header: header.size_bytes - header.header_bytes)
    return PRECISION_OF_CODE.get(main_float_code(largest) or "F32", "float32")


def _canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in _NOISE}


def _is_unchanged(facts: FileFacts, status: os.stat_result) -> bool:
    """Whether the file still is the one that was hashed, as far as can be told without reading it.

    Its size alone tells nothing: all fine-tunes of a model have the same.
    """
    return (
        facts.size_bytes == status.st_size
        and facts.modify_time is not None
        and abs(facts.modify_time - clamped_time(status.st_mtime)) < 0.01
    )


def _mark_of(path: Path) -> str:
    try:
        return signature_of(path.stat())
    except OSError:
        return ""


def _still_as_planned(kept: Mapping[ComponentRef, _Kept]) -> set[ComponentRef]:
    """Those whose files are as they were."""
    return {
        ref for ref, one in kept.items() if all(_mark_of(path) == mark for path, mark in one.marks.items())
    }
