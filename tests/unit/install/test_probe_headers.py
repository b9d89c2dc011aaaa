"""The safetensors header: what is refused, and how little is read and done for it."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from modelkeep.exceptions import InvalidModelException, SourceNotFoundException
from modelkeep_install.probe import probe, read_header
from support.modelshapes import (
    checkpoint_tensors,
    huge_tensors,
    table,
    write_checkpoint,
    write_pipeline,
    write_safetensors,
)

#: Calls of functions for each tensor, at most.
MOST_CALLS = 40


def write_raw(path: Path, header: Any, *, buffer: int = 0, claimed: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if claimed is None else claimed
    path.write_bytes(struct.pack("<Q", length) + text + b"\0" * buffer)
    return path


def tensor(begin: int, end: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


BAD: dict[str, tuple[Any, int, int | None]] = {
    "header longer than the file": (b"{}", 0, 1 << 62),
    "header longer than the cap": (b"{}", 0, 100_000_001),
    "cut off inside the header": (b'{"a": {"dtype"', 0, None),
    "no JSON object": (b"[1, 2, 3]", 0, None),
    "no UTF-8": (b'{"\xff\xfe": 1}', 0, None),
    "nested without end": (b'{"a":' + b"[" * 200_000, 0, None),
    "a hole before the first tensor": ({"a": tensor(8, 16)}, 16, None),
    "a hole between tensors": ({"a": tensor(0, 8), "b": tensor(9, 16)}, 16, None),
    "an overlap": ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, None),
    "bytes after the last tensor": ({"a": tensor(0, 8)}, 9, None),
    "a buffer cut off": ({"a": tensor(0, 8)}, 7, None),
    "a shape that does not fit the bytes": ({"a": tensor(0, 8, [3, 3])}, 8, None),
    "a negative dimension": ({"a": tensor(0, 8, [-2, -4])}, 8, None),
    "a shape of truth values": ({"a": tensor(0, 1, [True])}, 1, None),
    "offsets in the wrong order": ({"a": tensor(8, 0, [8])}, 8, None),
    "offsets of text": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": ["0", "1"]}}, 1, None),
    "offsets of thousands of digits": (
        b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [-%b, %b]}}' % (b"9" * 4300, b"9" * 4300),
        1,
        None,
    ),
    "a shape of more bytes than can be counted": ({"a": tensor(0, 8, [(1 << 63) - 1] * 64)}, 8, None),
    "an unknown dtype": ({"a": tensor(0, 8, [8], "U9")}, 8, None),
    "a dtype that is no text": ({"a": tensor(0, 8, [8], ["U8"])}, 8, None),
    "an entry that is no object": ({"a": 7}, 0, None),
    "an entry without shape": ({"a": {"dtype": "U8", "data_offsets": [0, 1]}}, 1, None),
    "notes that are no strings": ({"__metadata__": {"a": 1}}, 0, None),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_header_that_lies_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    header, buffer, claimed = BAD[kind]
    path = write_raw(tmp_path / "bad.safetensors", header, buffer=buffer, claimed=claimed)
    start = time.thread_time()
    with pytest.raises(InvalidModelException) as caught:
        probe(path)
    assert time.thread_time() - start < 2  # usually a millisecond
    assert caught.value.metadata["path"] == str(path)
    assert 0 < len(caught.value.metadata["detail"]) < 1500


@pytest.mark.parametrize("note", [None, {"conv_dim": 8}, 3])
def test_a_note_that_is_no_text_is_named(tmp_path: Path, note: Any) -> None:
    path = write_raw(tmp_path / "a.safetensors", {"__metadata__": {"ss_network_args": note}})
    with pytest.raises(InvalidModelException, match="its 'ss_network_args' is no text"):
        probe(path)


def test_a_text_file_with_the_suffix_of_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "readme.safetensors"
    path.write_text("This is a poem about latents.\n" * 100)
    with pytest.raises(InvalidModelException, match="no valid safetensors file"):
        probe(path)


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "it is empty"), (b"\x01\x02\x03", "shorter than the 8 bytes")]
)
def test_a_file_without_room_for_a_header_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(content)
    with pytest.raises(InvalidModelException, match=why):
        probe(path)


def test_a_truncated_download_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.safetensors", "sd-1")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InvalidModelException, match="the file has"):
        probe(path)


def test_a_pipe_or_a_missing_path_does_not_keep_the_probe_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InvalidModelException, match="not a regular file"):
        probe(tmp_path / "pipe.safetensors")
    with pytest.raises(SourceNotFoundException):
        probe(tmp_path / "missing.safetensors")


def test_other_suffixes_are_refused_with_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidModelException, match=r"a \.safetensors file or a diffusers folder"):
        probe(tmp_path / "notes.txt")


def test_the_header_reads_as_the_reference_implementation_reads_it(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "v.safetensors", table("vae.ldm"), metadata={"author": "x"})
    header = read_header(path)
    with safe_open(path, framework="numpy") as reference:
        assert set(reference.keys()) == set(header)
        assert reference.metadata() == header.metadata
        assert all(tuple(reference.get_slice(name).get_shape()) == header[name] for name in header)


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of each read of a file since the list was emptied; a probe reads by descriptor and place."""
    counted: list[int] = []
    pread = os.pread

    def counting(fd: int, count: int, position: int) -> bytes:
        data = pread(fd, count, position)
        counted.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counting)
    yield counted
    assert counted


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called, Python's own and those of C: the same on a busy machine."""
    count = 0

    def counting(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counting)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_probe_reads_less_than_a_mebibyte_of_24_gigabytes(tmp_path: Path, bytes_read: list[int]) -> None:
    path = write_safetensors(tmp_path / "huge.safetensors", huge_tensors())
    assert path.stat().st_size > 23_900_000_000
    probe(path)
    assert 1000 < sum(bytes_read) < 1 << 20


@pytest.mark.parametrize("kind", ["main model", "LoRA"])
def test_a_probe_of_the_longest_headers_does_little_for_each_tensor(tmp_path: Path, kind: str) -> None:
    tensors = checkpoint_tensors("sdxl") if kind == "main model" else table("lora.sdxl.kohya")
    path = write_safetensors(tmp_path / "xl.safetensors", tensors)
    probe(path)  # what is made once for all models is made
    assert len(tensors) > 2400
    # every layer is compared with those of the families
    assert calls_of(lambda: probe(path)) < MOST_CALLS * len(tensors)


def test_a_lying_header_of_a_huge_file_is_refused_for_as_little(
    tmp_path: Path, bytes_read: list[int]
) -> None:
    path = write_safetensors(tmp_path / "huge.safetensors", huge_tensors())
    probe(path)
    honest = sum(bytes_read)
    bytes_read.clear()
    os.truncate(path, path.stat().st_size + 1)

    def refused() -> None:
        with pytest.raises(InvalidModelException):
            probe(path)

    assert calls_of(refused) < MOST_CALLS * len(huge_tensors())
    assert sum(bytes_read) <= honest


def test_no_probe_of_a_real_family_reads_a_mebibyte(tmp_path: Path, bytes_read: list[int]) -> None:
    for base in ("sd-1", "sdxl"):
        for model in (
            write_checkpoint(tmp_path / f"{base}.safetensors", base),
            write_pipeline(tmp_path / base, base),
        ):
            bytes_read.clear()
            probe(model)
            assert 1000 < sum(bytes_read) < 1 << 20
    assert len(checkpoint_tensors("sdxl")) > 2400
