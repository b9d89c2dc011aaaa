"""Files of a repository as git, LFS and xet know them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from support.httpresources import Sliced

#: The hub's bridge from xet to plain HTTP serves no larger file.
MAX_BRIDGE_BYTES = 50 * 1000**3
#: Larger contents get a digest that is not theirs, since hashing takes a second for each GB or two.
MAX_HASHED_BYTES = 256 << 20
#: Larger files are LFS files whatever their names.
_MAX_PLAIN_BYTES = 10 << 20
#: What a repository's .gitattributes has from the start.
_LFS_ENDINGS = (
    *(".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gz", ".h5", ".joblib", ".mlmodel", ".model"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth"),
    *(".rar", ".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip", ".zst"),
)
GIT_ATTRIBUTES = "".join(
    f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in _LFS_ENDINGS
).encode()


@dataclass(frozen=True)
class Sparse:
    """So many bytes, of which the first are told and the others are nought; takes no memory and no disk."""

    size: int
    head: bytes = b""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self.size)
        known = self.head[start:end]
        return known + bytes(max(0, end - start - len(known)))


class _OnDisk:
    """The bytes of a file, read where they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, path.stat().st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), max(0, end - start), start)


@dataclass(frozen=True)
class File:
    """One file, with what the hub says of it where that does not follow from name and size."""

    content: bytes | Path | Sparse
    #: Whether it lies in LFS; None is by the name, as the usual .gitattributes has it, and by the size.
    lfs: bool | None = None
    #: The verdict of the hub's scans: safe, unsafe, suspicious, caution, queued.
    scan: str = "safe"
    #: Its SHA-256 as the hub tells it; None is the true one.
    sha256: str | None = None


Contents = Mapping[str, bytes | Path | Sparse | File]


@dataclass(frozen=True)
class Blob:
    """A file's content in one commit, under the names that git, LFS and xet give it."""

    body: Sliced
    is_lfs: bool
    is_xet: bool
    scan: str
    told_sha256: str | None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.body)

    @cached_property
    def sha256(self) -> str:
        """Digest of the content, or an invented one of the same form beyond MAX_HASHED_BYTES."""
        if self.told_sha256 is not None:
            return self.told_sha256
        if self.size > MAX_HASHED_BYTES:
            return hashlib.sha256(b"%d:" % self.size + self.body[: 1 << 16]).hexdigest()
        digest = hashlib.sha256()
        for at in range(0, self.size, 1 << 20):
            digest.update(self.body[at : at + (1 << 20)])
        return digest.hexdigest()

    @cached_property
    def xet_hash(self) -> str:
        """In the form of xet's; it follows from the content, but not by xet's rule."""
        return hashlib.sha256(b"xet:" + self.sha256.encode()).hexdigest()

    @cached_property
    def in_git(self) -> bytes:
        """What git holds: the file, or the pointer to it."""
        if not self.is_lfs:
            return self.body[:]
        return (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{self.sha256}\nsize {self.size}\n".encode()
        )

    @cached_property
    def oid(self) -> str:
        """Git's name of what it holds."""
        return git_name("blob", self.in_git)


def git_name(kind: str, body: bytes) -> str:
    """Git's name of an object: SHA-1 over its kind, its size and its bytes."""
    return hashlib.sha1(b"%b %d\0" % (kind.encode(), len(body)) + body).hexdigest()


def blob_of(path: str, given: bytes | Path | Sparse | File, *, xet: bool) -> Blob:
    """What the hub makes of a file that is committed; ``xet``: the repository keeps LFS files there."""
    file = given if isinstance(given, File) else File(given)
    body: Sliced = _OnDisk(file.content) if isinstance(file.content, Path) else file.content
    by_rule = path.endswith(_LFS_ENDINGS) or len(body) > _MAX_PLAIN_BYTES
    is_lfs = by_rule if file.lfs is None else file.lfs
    return Blob(body, is_lfs, is_lfs and xet, file.scan, file.sha256)


def files_of(folder: Path) -> dict[str, Path]:
    """All files below a folder, by their paths in it; they are read when they are served."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
