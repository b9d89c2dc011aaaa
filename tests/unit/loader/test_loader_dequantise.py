"""From quantised numbers to weights, against quantisers that were written apart from the suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import Tensor
from modelkeep.quantised import block_edges, survey

torch = pytest.importorskip("torch")
from modelkeep.worker.dequantise import dequantise, logical_shape  # noqa: E402
from support import quantisers  # noqa: E402

CODES = {
    "torch.float32": "F32",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int8": "I8",
    "torch.uint8": "U8",
}
WAYS = {
    "fp8": quantisers.fp8(),
    "fp8 e5m2": quantisers.fp8("weight_scale", kind="e5m2"),
    "fp8 rows": quantisers.fp8("weight_scale", rows=True),
    "fp8 blocks": quantisers.fp8("weight_scale_inv", block=16),
    "int8": quantisers.int8,
    "int8 rows": quantisers.int8_rows,
    "quanto": quantisers.quanto,
    "nf4": quantisers.four_bits(),
    "nf4 nested": quantisers.four_bits(nested=True),
    "fp4 nested": quantisers.four_bits("fp4", blocksize=128, nested=True),
}


def headers_of(tensors: dict[str, Any]) -> list[Tensor]:
    return [Tensor(n, CODES[str(t.dtype)], tuple(t.shape)) for n, t in tensors.items()]


def meaning(tensors: dict[str, Any]) -> Any:
    found = survey(headers_of(tensors), Path("a"))
    (weight,) = found.weights.values()
    assert found.taken == tensors.keys(), "every sidecar is accounted for"
    parts = {role: tensors[name] for role, name in weight.parts.items()}
    return dequantise(weight.scheme, parts, logical_shape(weight.scheme, parts, weight.shape))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 70), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_quantised_numbers_mean_what_who_wrote_them_meant(
    way: quantisers.Quantiser, rows: int, columns: int, seed: int
) -> None:
    torch.manual_seed(seed)
    stored, meant = way("layer.weight", torch.randn(rows, columns))
    found = meaning(stored)
    assert found.shape == meant.shape
    assert torch.equal(found, meant)


@given(size=st.integers(1, 3000), power=st.integers(0, 10))
def test_the_number_of_blocks_tells_their_edge(size: int, power: int) -> None:
    edge = 1 << power
    count = -(-size // edge)
    found = block_edges((size, 7), (count, 7))
    assert found is not None
    at = [position // found[0] for position in range(size)]
    assert at == [position // edge for position in range(size)]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"a.weight": ("F8_E4M3", [4, 4]), "a.scale_weight": ("F32", [3])}, "has the shape [3]"),
        ({"a.scale_weight": ("F32", [])}, "belongs to no tensor"),
        ({"a.weight": ("I8", [4, 4])}, "integers of 8 bits"),
        ({"a.weight": ("I8", [4, 4]), "a.SCB": ("F32", [3])}, "has the shape [3]"),
        ({"a.weight": ("U8", [8, 1]), "a.weight.absmax": ("F32", [1])}, "do not belong together"),
        (
            {n: ("F32", []) for n in ("a.weight_scale", "a.scale_weight")}
            | {"a.weight": ("F8_E4M3", [4, 4])},
            "a.weight_scale and a.scale_weight, which say the same",
        ),
        ({"a.weight": ("U8", [4, 4]), "a.weight_scale": ("F32", [])}, "U8 with scales"),
        ({"a.weight": ("F8_E4M3", [4, 4]), "a.weight_scale_2": ("F32", [])}, "a.weight_scale_2"),
        ({"a.weight_packed": ("I32", [4, 4])}, "compressed-tensors"),
        ({"a.qweight": ("I32", [4, 4])}, "GPTQ or AWQ"),
        ({"a.wscales": ("F16", [4, 4])}, "Nunchaku"),
        ({"a.weight._data": ("U8", [4, 4]), "a.weight._scale": ("F16", [4, 1])}, "U8 with scales"),
        ({"a.weight._data": ("I8", [4]), "a.weight._shift": ("F16", [4])}, "quanto"),
    ],
)
def test_what_cannot_be_read_is_named(tensors: dict[str, tuple[str, list[int]]], said: str) -> None:
    headers = [Tensor(name, code, tuple(shape)) for name, (code, shape) in tensors.items()]
    with pytest.raises(InvalidModelException) as error:
        survey(headers, Path("a.safetensors"))
    assert said in error.value.message
    assert "float16" in error.value.remedy


@pytest.mark.parametrize(
    ("mark", "is_known"),
    [
        ({"format": "float8_e4m3fn"}, True),
        ({"format": "nvfp4"}, False),
        ({"format": "int8_tensorwise", "convrot": True}, False),
    ],
)
def test_a_mark_of_comfyui_is_obeyed_or_refused(mark: dict[str, Any], is_known: bool) -> None:
    stored, meant = quantisers.fp8("weight_scale")("layer.weight", torch.randn(8, 8))
    text = json.dumps(mark).encode()
    stored["layer.comfy_quant"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    if is_known:
        assert torch.equal(meaning(stored), meant)
    else:
        with pytest.raises(InvalidModelException, match="ComfyUI"):
            meaning(stored)


@pytest.mark.parametrize(
    "change",
    [{"shape": [9, 9]}, {"blocksize": 32}, {"blocksize": 0}, {"shape": "x"}, {"shape": [1 << 60]}],
)
def test_a_state_of_4_bits_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    stored, _ = quantisers.four_bits()("layer.weight", torch.randn(8, 16))
    name = "layer.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(stored[name].tolist())) | change
    stored[name] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
    with pytest.raises(InvalidModelException) as error:
        meaning(stored)
    assert "float16" in error.value.remedy


def test_marks_and_activations_scales_are_accounted_for_and_plain_names_are_not_taken() -> None:
    names = {"a.weight": "F8_E4M3", "a.scale_weight": "F32", "a.scale_input": "F32", "scaled_fp8": "F8_E4M3"}
    found = survey([Tensor(n, code, ()) for n, code in names.items()], Path("a"))
    assert found.spare == {"a.scale_input", "scaled_fp8"}
    assert survey([Tensor("a.input_scale", "F32", ())], Path("a")).taken == set()
