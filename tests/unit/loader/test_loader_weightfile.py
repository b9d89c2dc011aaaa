"""Reading and laying out safetensors files without torch."""

from __future__ import annotations

import json
import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.exceptions import InvalidModelException
from modelkeep_loader.weightfile import ITEM_BYTES, Tensor, lay_out, read_header

tensors = st.builds(
    Tensor,
    name=st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    dtype=st.sampled_from(sorted(ITEM_BYTES)),
    shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
)


def file_of(data: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


def written(header: object, body: bytes = b"") -> int:
    text = json.dumps(header).encode()
    return file_of(len(text).to_bytes(8, "little") + text + body)


@given(
    st.lists(tensors, unique_by=lambda t: t.name, max_size=12),
    st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_layout_reads_back_and_is_aligned(wanted: list[Tensor], metadata: dict[str, str]) -> None:
    layout = lay_out(wanted, metadata)
    fd = file_of(layout.head + bytes(layout.size_bytes - len(layout.head)))
    try:
        header = read_header(fd, "it")
    finally:
        os.close(fd)
    assert header.metadata == metadata
    assert {(t.name, t.dtype, t.shape) for t in header.tensors} == {
        (t.name, t.dtype, t.shape) for t in wanted
    }
    assert len(layout.head) % 4096 == 0
    for tensor in header.tensors:
        wish = 64 if tensor.size_bytes % 64 == 0 else ITEM_BYTES[tensor.dtype]
        assert tensor.begin % wish == 0


def test_the_real_library_reads_a_layout(data_dir: object) -> None:
    from safetensors import safe_open

    layout = lay_out([Tensor("odd", "F32", (3,)), Tensor("even", "BF16", (32,))], {"a": "b"})
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(layout.head + bytes(range(layout.size_bytes - len(layout.head))))
        file.flush()
        with safe_open(file.name, framework="np") as opened:
            assert set(opened.keys()) == {"odd", "even"}
            assert opened.metadata() == {"a": "b"}
            assert opened.get_tensor("odd").shape == (3,)


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: file_of(b"short"), "only 5 bytes"),
        (lambda: file_of((1 << 40).to_bytes(8, "little")), "claims"),
        (lambda: file_of((2).to_bytes(8, "little") + b"{]"), "no JSON"),
        (lambda: written([]), "no JSON object"),
        (lambda: written({"a": GOOD}, b"1234567"), "truncated"),
        (lambda: written({"a": GOOD}, b"123456789"), "goes on"),
        (lambda: written({"a": {**GOOD, "shape": [3]}}, b"12345678"), "does not fit"),
        (lambda: written({"a": {**GOOD, "dtype": "F4"}}, b"12345678"), "dtype"),
        (lambda: written({"a": {**GOOD, "shape": [-2]}}, b"12345678"), "no sizes"),
        (lambda: written({"a": {**GOOD, "data_offsets": [8, 0]}}, b"12345678"), "no sizes"),
        (lambda: written({"a": GOOD, "b": GOOD}, b"12345678"), "overlap"),
        (lambda: written({"a": {**GOOD, "data_offsets": [4, 12]}}, bytes(12)), "gap"),
        (lambda: written({"__metadata__": {"a": 1}}), "metadata"),
        (lambda: file_of(b"\x00" * 64), "no JSON"),
    ],
)
def test_a_header_that_lies_is_refused_with_what_is_wrong(make: object, why: str) -> None:
    assert callable(make)
    fd = make()
    try:
        with pytest.raises(InvalidModelException) as raised:
            read_header(fd, "model.safetensors")
    finally:
        os.close(fd)
    assert why in raised.value.message
    assert raised.value.metadata["path"] == "model.safetensors"


def test_the_size_after_a_cast_counts_only_floats() -> None:
    eighth = {"dtype": "F8_E4M3", "shape": [12], "data_offsets": [16, 28]}
    header = {"a": GOOD, "f8": eighth, "ids": {"dtype": "I64", "shape": [1], "data_offsets": [8, 16]}}
    fd = written(header, bytes(28))
    read = read_header(fd, "it")
    os.close(fd)
    assert read.cast_bytes("bfloat16") == (2 + 12) * 2 + 8
    assert read.main_float_code() == "F32", "8 bits are no precision that can be asked for"
