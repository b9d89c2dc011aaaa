"""Reading and laying out safetensors files without torch."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.dtypes import DTYPES, PRECISIONS, Precision
from modelkeep.headers import Tensor, read_header
from modelkeep.loader.v1 import resident_pb2
from modelkeep_convert.weightfile import lay_out
from support import modelshapes

tensors = st.builds(
    Tensor,
    name=st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    dtype=st.sampled_from(sorted(code for code, dtype in DTYPES.items() if dtype.lendable)),
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
        header = read_header(fd, Path("it"))
    finally:
        os.close(fd)
    assert header.metadata == metadata
    assert {(t.name, t.dtype, t.shape) for t in header.tensors} == {
        (t.name, t.dtype, t.shape) for t in wanted
    }
    assert len(layout.head) % 4096 == 0
    assert [tensor.begin for tensor in header.tensors] == [tensor.begin for tensor in layout.tensors]
    for tensor in header.tensors:
        if tensor.size_bytes:
            natural = tensor.size_bytes & -tensor.size_bytes
            assert (tensor.begin - len(layout.head)) % natural == 0
            assert tensor.begin % min(natural, 4096) == 0
            assert tensor.begin % (DTYPES[tensor.dtype].bits // 8) == 0


@pytest.mark.parametrize("name", ["unet.sdxl.diffusers", "vae.diffusers", "text.openclip-g.transformers"])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_tensors_of_a_real_model_lie_as_their_sizes_allow(name: str, dtype: str) -> None:
    wanted = [Tensor(tensor, dtype, tuple(shape)) for tensor, shape in modelshapes.table(name).items()]
    layout = lay_out(wanted, {})
    position = len(layout.head)
    for tensor in layout.tensors:
        assert tensor.begin == position, "no holes"
        assert tensor.begin % min(tensor.size_bytes & -tensor.size_bytes, 4096) == 0
        position = tensor.end
    assert position == layout.size_bytes


def test_the_order_does_not_depend_on_the_order_of_the_file() -> None:
    wanted = [Tensor(f"t{size}", "U8", (size,)) for size in (3, 64, 1, 0, 96, 4096, 6, 64 * 3)]
    assert lay_out(wanted, {}) == lay_out(reversed(wanted), {})
    assert [t.name for t in lay_out(wanted, {}).tensors] == [
        "t4096", "t192", "t64", "t96", "t6", "t1", "t3", "t0",
    ]  # fmt: skip


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


def test_every_precision_that_can_be_asked_for_has_a_code_and_a_name_on_the_wire() -> None:
    wire = {name.removeprefix("PRECISION_").lower() for name in resident_pb2.Precision.keys()}  # noqa: SIM118
    assert {"auto", *PRECISIONS} == set(get_args(Precision)) == wire - {"unspecified"}
