"""Hashes: imohash's own vectors, folders, and two digests in one pass."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import random
from pathlib import Path

import blake3
import imohash
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.exceptions import InvalidModelException
from modelkeep_install.hashing import (
    Digesting,
    Interrupted,
    digest_file,
    sampled_hash,
    sampled_hash_of_folder,
)
from support.modelshapes import write_safetensors


def vector(size: int) -> bytes:
    """imohash's test data of a size: bytes of one MD5 stream, as its algorithm text defines M(n)."""
    blocks = []
    digest = hashlib.md5(usedforsecurity=False)
    for _ in range(-(-size // 16)):
        digest.update(b"A")
        blocks.append(digest.digest())
    return b"".join(blocks)[:size]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "00000000000000000000000000000000"),
        (131072, "8080085a3d3af2cb4b3a957811cdf370"),
        (500000, "a0c21e44a0ba3bddee802a9d1c5332ca"),
    ],
)
def test_the_sampled_hash_has_imohashs_published_values(tmp_path: Path, size: int, expected: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(vector(size))
    assert sampled_hash(path) == expected


def test_the_sampled_hash_of_a_huge_file_reads_three_samples(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"a": [5_000_000_000]})
    read: list[int] = []

    class Counted(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size) or b""
            read.append(len(data))
            return data

    sampled_hash(path, Counted)
    assert sum(read) == 3 * 16 << 10


def test_a_folders_sampled_hash_is_the_documented_one_and_depends_on_names_and_contents(
    tmp_path: Path,
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "y").write_bytes(b"2")
    (tmp_path / "é").write_bytes(b"3")
    (tmp_path / "x").write_bytes(b"1")
    names = ["é", "x", "b/y"]
    lines = b"".join(
        f"{imohash.hashfile(str(tmp_path / name), hexdigest=True)} {name}\n".encode()
        for name in ("b/y", "x", "é")
    )
    expected = imohash.hashfileobject(io.BytesIO(lines), hexdigest=True)
    assert sampled_hash_of_folder(tmp_path, names) == expected
    assert sampled_hash_of_folder(tmp_path, sorted(names)) == expected
    (tmp_path / "x").rename(tmp_path / "z")
    assert sampled_hash_of_folder(tmp_path, ["é", "z", "b/y"]) != expected
    (tmp_path / "z").rename(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"4")
    assert sampled_hash_of_folder(tmp_path, names) != expected


@given(st.integers(0, 9 << 20), st.binary(min_size=1, max_size=64))
def test_both_digests_are_those_of_the_reference_implementations(
    tmp_path_factory: pytest.TempPathFactory, size: int, seed: bytes
) -> None:
    content = (seed * (size // len(seed) + 1))[:size]
    path = tmp_path_factory.mktemp("d") / "x"
    path.write_bytes(content)
    found = digest_file(path)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.blake3 == blake3.blake3(content).hexdigest()
    assert found.size_bytes == size
    path.unlink()


def test_a_digest_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 3

    with pytest.raises(Interrupted):
        digest_file(path, stop=stop)
    assert calls == 4, "it is asked once a mebibyte"


def test_a_file_that_cannot_be_read_raises_what_the_system_says(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"):
        digest_file(tmp_path, lambda path: os.fdopen(os.open(path, os.O_RDONLY), "rb", buffering=0))


@given(size=st.integers(0, 9 << 20), stops=st.lists(st.integers(0, 4), max_size=5))
def test_a_digest_that_was_stopped_goes_on_where_it_was(
    tmp_path_factory: pytest.TempPathFactory, size: int, stops: list[int]
) -> None:
    content = random.Random(size).randbytes(size)
    path = tmp_path_factory.mktemp("d") / "x"
    path.write_bytes(content)
    begun = Digesting()
    for after in stops:
        asked = itertools.count()
        with contextlib.suppress(Interrupted):
            found = digest_file(path, stop=lambda: next(asked) >= after, begun=begun)  # noqa: B023
            break
    else:
        found = digest_file(path, begun=begun)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.blake3 == blake3.blake3(content).hexdigest()
    assert found.size_bytes == size
    path.unlink()


def test_a_file_that_is_longer_than_its_file_system_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    room = os.statvfs(tmp_path)
    with path.open("wb") as file:
        try:
            file.truncate(max(room.f_blocks * room.f_frsize, 1 << 30) + 1)
        except OSError:
            pytest.skip("this file system takes no such file")
    with pytest.raises(InvalidModelException, match="never written"):
        digest_file(path)
