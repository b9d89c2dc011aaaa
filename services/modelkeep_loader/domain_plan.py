"""From what a caller names to what has to be built: records and files in, plans out.

A plan's id is the component's identity. It is made of the digests of the weight files as the record has
them, the class, the configuration, the precision and the version of the layout, so that models which
share a component share its memory. Where a digest is not known yet, or the file on disk is not the one
that was hashed, the file's name inside its store, record and revision takes its place: correct, unshared.
Never the path, never the time of modification alone: neither says what the bytes are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    InvalidModelException,
    ModelNotFoundException,
    RootMismatchException,
    SubmodelRequiredException,
    UnsafeFormatException,
)
from modelkeep.worker.classes import ALLOWED
from modelkeep_common.paths import AllowedRoots
from modelkeep_loader.domain import ComponentRef, ModelFacts, Plan, SourceFile, signature_of
from modelkeep_loader.helperwire import MAX_DESCRIPTORS
from modelkeep_loader.weightfile import PRECISION_OF_CODE, Header, read_header

#: Part of every identity: what the helper makes of the same files may change with it.
LAYOUT_VERSION: Final = "safetensors-aligned-1"

_MAX_CONFIG_BYTES = 1 << 20
_KEPT_PLANS = 4096
_STEMS = ("diffusion_pytorch_model", "model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
#: Entries of a configuration that do not say what the module is.
_NOISE = ("transformers_version", "torch_dtype", "dtype")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file as its record has it. ``digest`` is "sha256:…" or "blake3:…", empty while not known."""

    size_bytes: int
    modify_time: float | None
    digest: str


@dataclass(frozen=True, slots=True)
class Record:
    """What the loader needs of a model's record.

    Attributes:
        store_id: Store that the record is in.
        revision: Revision of the record.
        type, format: As in the taxonomy: "main", "vae"; "diffusers", "checkpoint".
        path, root_id: As stored.
        vae: Path of a VAE to use instead of a main model's own; "" for none.
        upcast_attention: Whether attention must run in float32; None if not said.
        scaling_factor: Of a VAE; None if not said.
    """

    store_id: str
    key: str
    revision: int
    name: str
    type: str
    format: str
    base: str
    path: str
    root_id: str
    hash: str
    vae: str = ""
    upcast_attention: bool | None = None
    scaling_factor: float | None = None


class Records(Protocol):
    """Where records come from."""

    async def get(self, key: str) -> Record:
        """One record.

        Raises:
            UnknownModelException: There is none.
            UpstreamUnavailableException: The service that has it does not answer.
        """
        ...

    async def files(self, key: str) -> Mapping[str, FileFacts]:
        """The model's files, by path relative to the model's folder (or name of the single file)."""
        ...


@dataclass(slots=True)
class _Found:
    """A component's files on disk, before they are identified."""

    library: str
    class_name: str
    config: dict[str, Any] | None
    #: Path relative to the model's folder, and where that leads.
    files: list[tuple[str, Path]]
    location: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    in_record: bool = True


class _Kept(NamedTuple):
    """A plan, store and revision of the record that it was made from, and its files' signatures.

    The files go by the names that they have in the model: a link that leads elsewhere now is a change.
    """

    state: tuple[str, int]
    plan: Plan
    marks: Mapping[Path, str]


class Planner:
    """Makes plans, and keeps them for as long as record and files stay as they are.

    Args:
        records: Where records come from.
        models_dir: The folder that relative paths are relative to.
        root_id: Its id; asked anew each time, since the folder may be mounted later than the loader
            starts. None if it has none.
        roots: Everything that may be read.
    """

    def __init__(
        self,
        records: Records,
        *,
        models_dir: Path,
        root_id: Callable[[], str | None],
        roots: AllowedRoots,
    ) -> None:
        self._records = records
        self._models_dir = models_dir
        self._root_id = root_id
        self._roots = roots
        self._kept: OrderedDict[ComponentRef, _Kept] = OrderedDict()

    async def plan(self, refs: Sequence[ComponentRef]) -> list[Plan]:
        """What has to be built for some components.

        Raises:
            UnknownModelException, UpstreamUnavailableException: See :class:`Records`.
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
        place = self._locate(record, record.path, record.root_id)
        model = component = self._models_dir / record.path
        if ref.submodel == "vae" and record.vae:
            component = self._models_dir / record.vae
        elif record.type == "main":
            component = model / ref.submodel
        # Before anything is read, so that the next request notices what changes meanwhile.
        marks = {path: _mark_of(path) for path in (model / "model_index.json", component / "config.json")}
        try:
            found = self._find(ref, record, place)
            headers = [(name, path, *self._read_header(path)) for name, path in found.files]
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
        size = sum(header.cast_bytes(precision) + 160 * len(header.tensors) for _, _, header, _, _ in headers)
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

    def _locate(self, record: Record, path: str, root_id: str) -> Path:
        if not os.path.isabs(path) and root_id and root_id != (actual := self._root_id() or ""):
            raise RootMismatchException(
                f"The record of {record.name!r} belongs to the models folder {root_id}, and the one "
                f"mounted here at {self._models_dir} is {actual or 'none'}.",
                metadata={"expected_root_id": root_id, "actual_root_id": actual},
            )
        return self._roots.resolve(path, base=self._models_dir)

    def _find(self, ref: ComponentRef, record: Record, place: Path) -> _Found:
        if record.type == "main":
            return self._find_submodel(ref, record, place)
        if ref.submodel and ref.submodel != record.type:
            raise FieldInvalidException(
                f"{record.name!r} is no main model: it has no submodels.",
                violations=[
                    FieldViolation("components.submodel", f"must be unset for a {record.type} model")
                ],
            )
        return self._find_single(record, place)

    def _find_submodel(self, ref: ComponentRef, record: Record, place: Path) -> _Found:
        index = self._read_json(place / "model_index.json") if place.is_dir() else {}
        if not ref.submodel:
            available = sorted(k for k, v in index.items() if isinstance(v, list) and k[:1] != "_" and any(v))
            raise SubmodelRequiredException(
                f"{record.name!r} is a main model: say which component, such as vae or unet.",
                metadata={"key": record.key, "available": ",".join(available)},
            )
        if ref.submodel == "vae" and record.vae:
            other = self._locate(record, record.vae, record.root_id)
            found = self._find_single(record, other)
            found.in_record = False
            return found
        if not place.is_dir():
            if not place.exists():
                raise FileNotFoundError(2, "missing", str(place))
            raise InvalidModelException(
                f"{record.name!r} is a checkpoint in one file; only diffusers folders can be loaded.",
                metadata={"path": str(place), "detail": "single-file main model"},
            )
        entry = index.get(ref.submodel)
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(e, str) for e in entry):
            raise InvalidModelException(
                f"{record.name!r} has no component {ref.submodel!r}; its model_index.json names none.",
                metadata={"path": str(place), "detail": f"no component {ref.submodel}"},
            )
        found = self._find_folder(record, place, ref.submodel, entry[0], entry[1])
        found.location = place
        # A configuration need not name it: then the class's own default is meant.
        if record.upcast_attention and found.class_name == "UNet2DConditionModel":
            found.overrides["upcast_attention"] = True
        return found

    def _find_single(self, record: Record, place: Path) -> _Found:
        if place.is_dir():
            return self._find_folder(record, place, "", "", "")
        if not place.exists():
            raise FileNotFoundError(2, "missing", str(place))
        if record.type not in ("vae", "main"):
            raise InvalidModelException(
                f"{record.name!r} is a {record.type} in one file, which cannot be loaded.",
                metadata={"path": str(place), "detail": f"single-file {record.type}"},
            )
        if place.suffix.lower() in _PICKLES:
            raise _unsafe(place)
        # By the name that the record has it under, also where a link leads elsewhere (a cache of blobs).
        name = os.path.basename(record.path)
        return _Found("diffusers", "AutoencoderKL", None, [(name, place)], place)

    def _find_folder(
        self, record: Record, place: Path, submodel: str, library: str, class_name: str
    ) -> _Found:
        folder = self._roots.resolve(place / submodel)
        if class_name:
            # Before anything is looked for: a tokenizer or scheduler has no weights to look for.
            _check_class(library, class_name, folder)
        config = self._read_json(folder / "config.json")
        if not class_name:
            if isinstance(name := config.get("_class_name"), str):
                library, class_name = "diffusers", name
            elif isinstance(names := config.get("architectures"), list) and len(names) == 1:
                library, class_name = "transformers", str(names[0])
            else:
                raise InvalidModelException(
                    f"The config.json of {record.name!r} does not say which class it is for.",
                    metadata={"path": str(folder), "detail": "no class"},
                )
        _check_class(library, class_name, folder)
        # Names as the record has them, also where links lead elsewhere (a cache of blobs).
        files = [
            (f"{submodel}/{n}".lstrip("/"), self._roots.resolve(folder / n)) for n in self._weights(folder)
        ]
        return _Found(library, class_name, config, files, folder)

    def _weights(self, folder: Path) -> list[str]:
        names = {entry.name for entry in os.scandir(folder)}
        for stem in _STEMS:
            if f"{stem}.safetensors" in names:
                return [f"{stem}.safetensors"]
            if f"{stem}.safetensors.index.json" in names:
                shards = self._read_json(folder / f"{stem}.safetensors.index.json").get("weight_map")
                listed = set(shards.values()) if isinstance(shards, dict) else set()
                if not listed or not all(isinstance(n, str) and "/" not in n for n in listed):
                    raise InvalidModelException(
                        f"The index of {folder.name} does not list files.",
                        metadata={"path": str(folder), "detail": "bad index"},
                    )
                if len(listed) > MAX_DESCRIPTORS:
                    raise InvalidModelException(
                        f"{folder.name} is in {len(listed)} files; at most {MAX_DESCRIPTORS} can be loaded.",
                        metadata={"path": str(folder), "detail": f"{len(listed)} shards"},
                    )
                return sorted(listed)
            variants = sorted(n for n in names if re.fullmatch(rf"{stem}\.[A-Za-z0-9_]+\.safetensors", n))
            if variants:
                chosen = f"{stem}.fp16.safetensors"
                return [chosen if chosen in variants else variants[0]]
        if pickles := sorted(n for n in names if Path(n).suffix.lower() in _PICKLES):
            raise _unsafe(folder / pickles[0])
        raise FileNotFoundError(2, "missing", str(folder / f"{_STEMS[0]}.safetensors"))

    def _read_header(self, path: Path) -> tuple[Header, str, os.stat_result]:
        with self._open(path) as fd:
            status = os.fstat(fd)
            return read_header(fd, str(path)), signature_of(status), status

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[int]:
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever
        fd = self._roots.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidModelException(
                    f"{path.name} is not a regular file.",
                    metadata={"path": str(path), "detail": "not a regular file"},
                )
            yield fd
        finally:
            os.close(fd)

    def _read_json(self, path: Path) -> dict[str, Any]:
        with self._open(path) as fd:
            data = os.read(fd, _MAX_CONFIG_BYTES + 1)
        try:
            value = json.loads(data) if len(data) <= _MAX_CONFIG_BYTES else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InvalidModelException(
                f"{path.name} is no JSON object of at most 1 MiB.",
                metadata={"path": str(path), "detail": f"bad {path.name}"},
            )
        return value


def _check_class(library: str, class_name: str, folder: Path) -> None:
    if (library, class_name) not in ALLOWED:
        raise InvalidModelException(
            f"{class_name} of {library} is not among the classes that may be loaded.",
            metadata={"path": str(folder), "detail": f"class {class_name}"},
        )


def _unsafe(path: Path) -> UnsafeFormatException:
    return UnsafeFormatException(
        f"{path.name} is a pickle, which may run code when it is read; only safetensors files are loaded.",
        metadata={"path": str(path), "format": path.suffix.lstrip(".")},
    )


def _own_precision(headers: list[Header]) -> str:
    largest = max(headers, key=lambda h: sum(t.size_bytes for t in h.tensors))
    return PRECISION_OF_CODE.get(largest.main_float_code() or "F32", "float32")


def _canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k[:1] != "_" and k not in _NOISE}


def _is_unchanged(facts: FileFacts, status: os.stat_result) -> bool:
    """Whether the file still is the one that was hashed, as far as can be told without reading it.

    Its size alone tells nothing: all fine-tunes of a model have the same.
    """
    return (
        facts.size_bytes == status.st_size
        and facts.modify_time is not None
        and abs(facts.modify_time - status.st_mtime) < 0.01
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
