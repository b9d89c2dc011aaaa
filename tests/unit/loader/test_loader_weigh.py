"""What weights come to in each form and precision, by the headers alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import Tensor
from modelkeep.worker.manifest import Kind
from modelkeep_loader.domain.weights import Weights, memory_format, weigh

HEAD, ENTRY = 8192, 160
WIDE = [Tensor("a.weight", "F32", (8, 4)), Tensor("a.bias", "F32", (8,)), Tensor("ids", "I64", (2,))]
FP8 = [
    Tensor("a.weight", "F8_E4M3", (8, 4)),
    Tensor("a.scale_weight", "F32", ()),
    Tensor("a.bias", "F16", (8,)),
]
NF4 = [
    Tensor("a.weight", "U8", (64, 1)),
    Tensor("a.weight.absmax", "F32", (2,)),
    Tensor("a.weight.quant_map", "F32", (16,)),
    Tensor("a.weight.quant_state.bitsandbytes__nf4", "U8", (80,)),
]


def weighed(tensors: list[Tensor], precision: str = "auto", form: str = "auto", kept: str = "") -> Weights:
    return weigh(
        tensors, precision, form, kept=lambda at: {kept} if kept and at == "float16" else (), path=Path("a")
    )


def test_a_cast_counts_only_floats() -> None:
    assert weighed(WIDE).size_bytes == HEAD + 3 * ENTRY + 40 * 4 + 16
    assert weighed(WIDE, "bfloat16").size_bytes == HEAD + 3 * ENTRY + 40 * 2 + 16
    assert weighed(WIDE, "float16", kept="a").size_bytes == weighed(WIDE, "float32").size_bytes
    assert weighed(WIDE, "bfloat16", kept="a").size_bytes == weighed(WIDE, "bfloat16").size_bytes


def test_what_is_not_quantised_is_the_same_in_every_form() -> None:
    assert {weighed(WIDE, form=form) for form in ("auto", "stored", "dequantised")} == {weighed(WIDE)}
    assert weighed(WIDE).quantisation == ""


def test_quantised_weights_have_two_sizes() -> None:
    both = weighed(NF4, "float32", "stored"), weighed(NF4, "float32", "dequantised")
    assert [one.form for one in both] == ["stored", "dequantised"]
    assert both[1].size_bytes == both[0].dequantised_bytes == HEAD + ENTRY + 128 * 4
    stored = 64 + 8 + 64 + 80
    assert HEAD + stored < both[0].size_bytes < HEAD + stored + 10 * ENTRY
    assert both[0].quantisation == "bnb_4bit"
    assert weighed(NF4, "float32") == both[1], "auto is dequantised"


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (WIDE, "float32"),
        (FP8, "float16"),
        ([*FP8[:2], Tensor("a.bias", "F32", (8,))], "bfloat16"),
        (NF4, "bfloat16"),
        ([Tensor("a.weight", "F8_E4M3", (8, 4))], "float32"),
    ],
)
def test_the_precision_of_quantised_weights_is_one_of_16_bits(tensors: list[Tensor], expected: str) -> None:
    assert weighed(tensors).precision == expected


def test_wide_matrices_can_be_cast_to_8_bits() -> None:
    found = weighed(WIDE, "bfloat16", "float8")
    assert (found.form, found.size_bytes) == ("float8", HEAD + 3 * ENTRY + 32 + 8 * 2 + 16)
    assert weighed(FP8, form="float8").form == "stored"


@pytest.mark.parametrize(
    ("wanted", "shapes", "expected"),
    [
        ("contiguous", [(4, 4, 3, 3)], "contiguous"),
        ("channels_last", [(4, 4, 3, 3), (4,)], "channels_last"),
        ("channels_last", [(4, 4, 1, 1)], "channels_last"),
        ("channels_last", [(4, 4), (4,), (2, 4, 3, 3, 3)], "contiguous"),
    ],
)
def test_only_tensors_of_four_dimensions_have_a_memory_format(
    wanted: str, shapes: list[tuple[int, ...]], expected: str
) -> None:
    tensors = [Tensor(f"t{number}", "F32", shape) for number, shape in enumerate(shapes)]
    assert memory_format(wanted, Kind.MODULE, "dequantised", tensors, "a") == expected


@pytest.mark.parametrize(
    ("kind", "form", "word"),
    [
        (Kind.OBJECT, "dequantised", "an object without weights"),
        (Kind.STATE_DICT, "dequantised", "a state dict"),
        (Kind.MODULE, "stored", "'stored'"),
        (Kind.MODULE, "float8", "'float8'"),
    ],
)
def test_what_has_no_channels_last_is_refused(kind: Kind, form: str, word: str) -> None:
    with pytest.raises(InvalidModelException, match=word) as raised:
        memory_format("channels_last", kind, form, WIDE, "tiny/part")
    assert "tiny/part" in raised.value.message
    assert ("dequantised" in str(raised.value.remedy)) == (kind is Kind.MODULE)
    assert memory_format("contiguous", kind, form, WIDE, "tiny/part") == "contiguous"
