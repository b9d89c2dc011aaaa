"""Which files and folders beneath a folder are models, told by their names; nothing is opened.

The probe then looks into what was found. A folder that it takes as one model is one here.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from modelkeep.contents import PICKLE_SUFFIXES, TENSOR_SUFFIXES
from modelkeep.exceptions import InvalidModelException, ModelkeepError

from ..domain.system_errors import cannot_read, no_regular_file
from ..probe.readers.listing import MAX_FILES
from .found import shown

#: Suffixes of files that are a model each.
SUFFIXES = TENSOR_SUFFIXES | PICKLE_SUFFIXES | {".gguf"}
#: The index of a model in several files, as ``model.safetensors.index.json``.
_SHARD_INDEX = re.compile(r"\.(safetensors|bin)\.index(\.\w+)?\.json$")
#: What diffusers, transformers and PEFT call the weights of a folder that they save, with variant and shard.
_LIBRARY_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model|pytorch_lora_weights|adapter_model)"
    r"(\.\w+)?(-\d+-of-\d+)?(\.\w+)?\.(safetensors|bin)"
)
#: Of these a config.json need not tell.
_LORA_WEIGHTS = frozenset({"pytorch_lora_weights.safetensors", "adapter_model.safetensors"})
#: Marks a folder as a cache, by agreement (https://bford.info/cachedir/).
_CACHE_TAG = "CACHEDIR.TAG"
#: Repositories in the hub's own cache, and compiled Python.
_CACHES = re.compile(r"(models|datasets|spaces)--.+|__pycache__")

#: Device and number: the same for all names of one file or folder.
Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """What may be a model.

    Attributes:
        path: Where, absolute.
        identity: Of the file or folder that it leads to.
        facts: Changes when a file of it does; empty if that cannot be told.
        files: (path in the folder, or the file's name; size in bytes; time of modification in seconds).
        is_twin: It was found by another name before.
    """

    path: str
    identity: Identity
    facts: str
    files: tuple[tuple[str, int, float], ...]
    is_twin: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """What cannot be looked at, or cannot be a model."""

    path: str
    error: ModelkeepError


def identity_of(path: str | Path) -> Identity:
    """What a path leads to; OSError as of stat."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def is_model_folder(names: Collection[str]) -> bool:
    """Whether a folder of these files is one model, so that none of them is one."""
    if "model_index.json" in names or any(map(_SHARD_INDEX.search, names)):
        return True
    weights = [name for name in names if PurePath(name).suffix.lower() in SUFFIXES]
    if not weights or not all(map(_LIBRARY_WEIGHTS.fullmatch, weights)):
        return False
    return "config.json" in names or not _LORA_WEIGHTS.isdisjoint(weights)


class Walk:
    """Goes through folders and all that is in them; each folder and file once, by whatever names it has.

    Args:
        tops: The folders; they are looked into also if they are caches.
        check: Called with the tops, with every link before it is followed, and with what is guarded; raises
            to refuse it. What lies in a folder that may be looked into may be, too, unless it is guarded.
        guarded: Folders that are not allowed for where they lie.
        is_model: Whether a folder is a model whatever its files are called, since a record says so.
        stop: Asked before every folder; true ends the walk.

    Attributes:
        folders, files: How many were seen by now.
    """

    def __init__(
        self,
        tops: Sequence[Path],
        *,
        check: Callable[[Path], object] = lambda path: None,
        guarded: Collection[Identity] = (),
        is_model: Callable[[Identity], bool] = lambda identity: False,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._tops = list(map(str, tops))
        self._check = check
        self._guarded = frozenset(guarded)
        self._is_model = is_model
        self._stop = stop
        self._links: list[str] = []
        self._visited: set[Identity] = set()
        self.folders = self.files = 0

    def __iter__(self) -> Iterator[Found | Trouble]:
        for top in self._tops:
            yield from self._tree(top)
        # last, so that what has a name of its own is found by that
        while self._links:
            self._links.sort(reverse=True)
            yield from self._link(self._links.pop())

    def _tree(self, top: str) -> Iterator[Found | Trouble]:
        todo = [top]
        while todo and not self._stop():
            folder = todo.pop()
            try:
                identity = identity_of(folder)
                if folder == top or identity in self._guarded:
                    self._check(Path(folder))
                if identity in self._visited:
                    continue
                self._visited.add(identity)
                is_top = folder in self._tops
                if not is_top and self._is_model(identity):
                    yield self._folder(folder, identity)
                    continue
                with os.scandir(folder) as entries:
                    found = sorted((e for e in entries if e.name[0] != "."), key=lambda entry: entry.name)
            except OSError as error:
                yield Trouble(folder, cannot_read(Path(folder), error))
                continue
            except ModelkeepError as error:
                yield Trouble(folder, error)
                continue
            inside = [entry for entry in found if entry.is_dir(follow_symlinks=False)]
            outside = [entry for entry in found if not entry.is_dir(follow_symlinks=False)]
            names = {entry.name for entry in outside}
            self.folders += 1
            self.files += len(outside)
            if _CACHE_TAG in names and not is_top:
                continue
            if is_model_folder(names):
                yield self._folder(folder, identity)
                continue
            todo += [entry.path for entry in reversed(inside) if not _CACHES.fullmatch(entry.name)]
            for entry in outside:
                yield from self._entry(entry)

    def _entry(self, entry: os.DirEntry[str]) -> Iterator[Found | Trouble]:
        if entry.is_symlink():
            self._links.append(entry.path)
        elif PurePath(entry.name).suffix.lower() in SUFFIXES:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                yield Trouble(entry.path, cannot_read(Path(entry.path), error))
                return
            yield self._file(entry.path, status)

    def _link(self, path: str) -> Iterator[Found | Trouble]:
        is_file_of_model = PurePath(path).suffix.lower() in SUFFIXES
        try:
            status = os.stat(path)
            if not is_file_of_model and not stat.S_ISDIR(status.st_mode):
                return
            self._check(Path(path))
        except OSError as error:
            if is_file_of_model:
                yield Trouble(path, cannot_read(Path(path), error))
            return
        except ModelkeepError as error:
            yield Trouble(path, error)
            return
        if stat.S_ISDIR(status.st_mode):
            if not _CACHES.fullmatch(os.path.basename(path)):
                yield from self._tree(path)
        else:
            yield self._file(path, status)

    def _file(self, path: str, status: os.stat_result) -> Found | Trouble:
        if not stat.S_ISREG(status.st_mode):
            return Trouble(path, no_regular_file(Path(shown(path))))
        identity = (status.st_dev, status.st_ino)
        is_twin = identity in self._visited
        self._visited.add(identity)
        files = ((os.path.basename(path), status.st_size, status.st_mtime),)
        return _named(Found(path, identity, f"{status.st_size}:{status.st_mtime_ns}", files, is_twin))

    def _folder(self, path: str, identity: Identity) -> Found | Trouble:
        files, whole = _files_of(path)
        told = hashlib.blake2b(repr(files).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        facts = told if whole else ""
        return _named(Found(path, identity, facts, tuple((name, size, ns / 1e9) for name, size, ns in files)))


def _named(found: Found) -> Found | Trouble:
    """As it is, if its name can be sent and stored."""
    try:
        found.path.encode()
    except UnicodeEncodeError:
        path = shown(found.path)
        remedy = "Rename or remove it."
        error = InvalidModelException(
            f"The name of {path} is no UTF-8. {remedy}",
            metadata={"path": path, "detail": "file name is no UTF-8"},
            remedy=remedy,
        )
        return Trouble(found.path, error)
    return found


def _files_of(folder: str) -> tuple[list[tuple[str, int, int]], bool]:
    """The files of a model's folder, sorted, and whether these are all.

    Each is (path in it, size in bytes, time of modification in nanoseconds). What cannot be looked at is left
    out, and so is what is beyond the number that a model has: the probe says either.
    """
    found: list[tuple[str, int, int]] = []
    todo, whole, count = [""], True, 0
    while todo:
        here = todo.pop()
        try:
            with os.scandir(os.path.join(folder, here)) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_FILES:
                        return sorted(found), False
                    if entry.name[0] == ".":
                        continue
                    relative = os.path.join(here, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(relative)
                        continue
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        found.append((relative, status.st_size, status.st_mtime_ns))
        except OSError:
            whole = False
    return sorted(found), whole
