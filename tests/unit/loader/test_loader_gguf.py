"""GGUF: the header of a file, and what its blocks mean."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.exceptions import InvalidModelException
from modelkeep.gguf import BLOCKS, read_gguf
from modelkeep.headers import Header
from modelkeep.quantised import survey
from support import ggufs

torch = pytest.importorskip("torch")
from modelkeep.worker import ggml  # noqa: E402

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "ggml" / "blocks.json").read_text())["types"]
ROWS = np.linspace(-1, 1, 4 * 64, dtype=np.float32).reshape(4, 64)
Q8, MEANT = ggufs.quantised("Q8_0", ROWS)
GOOD = ggufs.file_of(
    [("a.weight", "Q8_0", (4, 64), Q8), ("a.bias", "F32", (3,), bytes(12))],
    {"text": "x", "number": 7, "words": ["a", "b"], "many": list(range(100))},
)
#: Three million texts without a character.
MANY_TEXTS = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + ggufs.text("a") + struct.pack("<IIQ", 9, 8, 3_000_000)


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("test")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def header_of(data: bytes) -> Header:
    with opened(data) as fd:
        return read_gguf(fd, Path("it.gguf"))


def test_a_header_tells_names_types_and_shapes_in_torchs_order() -> None:
    header = header_of(GOOD)
    assert dict(header) == {"a.weight": (4, 64), "a.bias": (3,)}
    assert header.dtype("a.weight") == "Q8_0"
    assert header.metadata == {"general.architecture": "flux", "text": "x", "number": "7"}
    weight, bias = header.tensors
    assert GOOD[weight.begin : weight.end] == Q8
    assert (bias.end - bias.begin, weight.size_bytes) == (12, len(Q8))
    (found,) = survey(header.tensors, header.path).weights.values()
    assert (found.scheme, found.shape, found.size_bytes) == ("gguf_q8_0", (4, 64), len(Q8))


def test_a_tensor_that_says_its_own_shape_has_it() -> None:
    data = ggufs.file_of([("c", "Q8_0", (4, 64), Q8)], {"comfy.gguf.orig_shape.c": [4, 16, 2, 2]})
    assert dict(header_of(data)) == {"c": (4, 16, 2, 2)}
    wrong = ggufs.file_of([("c", "Q8_0", (4, 64), Q8)], {"comfy.gguf.orig_shape.c": [4, 16, 2, 3]})
    with pytest.raises(InvalidModelException, match="said to have the shape"):
        header_of(wrong)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_blocks_mean_what_ggmls_own_package_makes_of_them(name: str) -> None:
    known = GOLDEN[name]
    found = ggml.dequantise(name, torch.frombuffer(bytearray.fromhex(known["blocks"]), dtype=torch.uint8))
    assert found[:4].tolist() == known["first"]
    assert hashlib.sha256(found.numpy().tobytes()).hexdigest() == known["sha256"]


def test_every_type_that_is_read_has_a_formula() -> None:
    assert {name.lower() for name in BLOCKS} == ggml.KNOWN.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q8_0"])
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 9), blocks=st.integers(1, 4), seed=st.integers(0, 99))
def test_quantised_numbers_mean_what_who_wrote_them_meant(
    name: str, rows: int, blocks: int, seed: int
) -> None:
    numbers = np.random.default_rng(seed).normal(size=(rows, 32 * blocks)).astype(np.float32)
    data, meant = ggufs.quantised(name, numbers)
    found = ggml.dequantise(name.lower(), torch.frombuffer(bytearray(data), dtype=torch.uint8))
    assert np.array_equal(found.numpy().reshape(meant.shape), meant)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GGUF", "cut off"),
        (GOOD[:100], "cut off"),
        (GOOD[:-1], "truncated"),
        (b"XXXX" + GOOD[4:], "does not begin"),
        (GOOD[:4] + struct.pack("<I", 1) + GOOD[8:], "version 1"),
        (GOOD[:8] + struct.pack("<Q", 1 << 40) + GOOD[16:], "more than allowed"),
        (ggufs.file_of([("a", "Q8_0", (4, 33), Q8)]), "not made of blocks of 32"),
        (ggufs.file_of([("a", "39", (4, 32), Q8)]), "MXFP4"),
        (ggufs.file_of([("a", "77", (4, 32), Q8)]), "number 77"),
        (ggufs.file_of([("a", "F32", (1,), bytes(4)), ("a", "F32", (1,), bytes(4))]), "twice"),
        (ggufs.file_of([("a", "F32", (1 << 40, 1 << 40), b"")]), "more elements"),
        (ggufs.file_of([("a", "F32", (0, 1 << 40, 1 << 40), b"")]), "more elements"),
        (ggufs.file_of([("a", "F32", (6,), bytes(24))], {"comfy.gguf.orig_shape.a": [-2, -3]}), "[-2, -3]"),
        (ggufs.file_of([("a", "F32", (0,), b"")], {"comfy.gguf.orig_shape.a": [0, -1]}), "[0, -1]"),
        (ggufs.file_of([("a", "F32", (1,) * 5, bytes(4))]), "5 dimensions"),
        (MANY_TEXTS, "texts allowed"),
        (ggufs.file_of([], {"general.alignment": 24}), "alignment"),
    ],
)
def test_a_header_that_is_cut_off_or_lies_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(InvalidModelException) as error:
        header_of(data)
    assert said in error.value.message
    assert error.value.remedy


@settings(max_examples=200, deadline=None)
@given(at=st.integers(4, 300), byte=st.integers(0, 255))
def test_no_byte_of_a_header_breaks_the_reader(at: int, byte: int) -> None:
    data = bytearray(GOOD)
    data[min(at, len(data) - 1)] = byte
    with contextlib.suppress(InvalidModelException):
        header = header_of(bytes(data))
        assert all(tensor.end <= len(data) for tensor in header.tensors)
