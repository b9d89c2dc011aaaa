"""From quantised numbers and their scales to weights: the formulas, with torch.

The loader's helper uses them for what it lends dequantised, a worker for what is lent as stored: so both are
the same numbers. Everything is computed in float32, in the order in which the writers' own code does, and
rounded once, by whoever asks for another precision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import torch

from modelkeep.exceptions import InvalidModelException
from modelkeep.quantised import BNB_4BIT, BNB_INT8, CAST, GGUF, SCALED, block_edges
from modelkeep.worker import ggml

#: 1/127 as bitsandbytes has it.
_INT8_STEP: Final = 7.874015718698502e-3
_MAX_STATE_BYTES: Final = 1 << 16
#: Formats in ComfyUI's marks that are one number and one scale.
_COMFY: Final = frozenset({"float8_e4m3fn", "float8_e5m2", "int8_tensorwise"})
_AS_PLAIN: Final = "Use this model's file in float16, bfloat16 or float32."


def logical_shape(scheme: str, parts: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the dequantised weight, and a check that its parts are what they seem.

    Args:
        scheme: How it is quantised.
        parts: Role → tensor, as in the file. Only small ones are read.
        shape: As the names and shapes alone tell it.

    Raises:
        InvalidModelException: The parts contradict each other, or mean something that is not known.
    """
    if scheme == BNB_4BIT:
        state = _state(parts["state"])
        wanted = tuple(state["shape"])
        count = _count(wanted)
        held = parts["data"].numel() * parts["data"].element_size() * 2
        blocks = -(-count // state["blocksize"])
        if not count <= held <= count + 1 or parts["absmax"].numel() != blocks:
            raise _misfit(f"{list(wanted)} in blocks of {state['blocksize']} does not fit its bytes")
        if parts["quant_map"].numel() != 16:
            raise _misfit(f"its map has {parts['quant_map'].numel()} entries, not 16")
        if "nested_absmax" in parts:
            nested = -(-blocks // state["nested_blocksize"])
            if parts["nested_absmax"].numel() != nested or parts["nested_quant_map"].numel() != 256:
                raise _misfit("the scales of its scales do not fit")
        return wanted
    if scheme == BNB_INT8 and "row_format" in parts and parts["row_format"].any():
        raise _misfit("its rows are ordered for one kind of GPU")
    if scheme == SCALED and "comfy" in parts:
        mark = _json(parts["comfy"])
        if mark.get("format") not in _COMFY or any(key for key in mark if "rot" in key):
            raise _misfit(f"ComfyUI's format {str(mark)[:80]}")
    return shape


def dequantise(scheme: str, parts: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """A weight of that shape in float32, new memory.

    Args:
        scheme: How it is quantised; see :class:`modelkeep.quantised.QuantisedTensor`.
        parts: Role → tensor, as in the file.
        shape: From :func:`logical_shape`.
    """
    data = parts["data"]
    if scheme == CAST:
        return data.float().reshape(shape)
    if scheme == SCALED:
        return _scaled(data, parts["scale"]).reshape(shape)
    if scheme == BNB_INT8:
        # bitsandbytes' own order of multiplications
        return (data.float() * parts["scb"].float().reshape(-1, 1) * _INT8_STEP).reshape(shape)
    if scheme == BNB_4BIT:
        return _four_bits(parts, shape)
    return ggml.dequantise(scheme.removeprefix(GGUF), data.reshape(-1)).reshape(shape)


def _scaled(data: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    weight, scale = data.float(), scale.float()
    if scale.numel() == 1:
        return weight * scale.reshape(())
    edges = block_edges(tuple(data.shape), tuple(scale.shape))
    assert edges is not None, "looked at before"
    if scale.ndim == 1:
        scale = scale.reshape(-1, *(1 for _ in data.shape[1:]))
    for axis, edge in enumerate(edges):
        if edge > 1 and scale.shape[axis] > 1:
            scale = scale.repeat_interleave(edge, dim=axis).narrow(axis, 0, data.shape[axis])
    return weight * scale


def _four_bits(parts: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    state = _state(parts["state"])
    absmax = parts["absmax"]
    if "nested_absmax" in parts:
        table = parts["nested_quant_map"].float()
        absmax = _by_block(table[absmax.int()], parts["nested_absmax"].float(), state["nested_blocksize"])
        absmax = absmax + state["nested_offset"]
    # The first of two numbers is in the upper half of a byte; both are looked up at once.
    code = parts["quant_map"].float()
    pairs = torch.stack([code.repeat_interleave(16), code.repeat(16)], dim=1)
    packed = data_bytes(parts["data"])
    values = pairs[packed.int()].reshape(-1)[: _count(shape)]
    return _by_block(values, absmax.float(), state["blocksize"]).reshape(shape)


def _by_block(values: torch.Tensor, scales: torch.Tensor, size: int) -> torch.Tensor:
    if values.numel() % size == 0:
        return (values.reshape(-1, size) * scales.reshape(-1, 1)).reshape(-1)
    return values * scales.reshape(-1).repeat_interleave(size)[: values.numel()]


def data_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, without a copy."""
    return tensor.reshape(-1).view(torch.uint8)


def _state(tensor: torch.Tensor) -> dict[str, Any]:
    """What bitsandbytes says of a weight of 4 bits."""
    state = _json(tensor)
    shape, size = state.get("shape"), state.get("blocksize")
    nested, offset = state.get("nested_blocksize", 256), state.get("nested_offset", 0.0)
    is_shape = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or any(type(n) is not int or not 0 < n <= 1 << 20 for n in (size, nested)):
        raise _misfit(f"its state is {str(state)[:200]}")
    if not isinstance(offset, (int, float)):
        raise _misfit(f"its offset is {str(offset)[:80]}")
    return {"shape": shape, "blocksize": size, "nested_blocksize": nested, "nested_offset": float(offset)}


def _json(tensor: torch.Tensor) -> dict[str, Any]:
    if tensor.numel() > _MAX_STATE_BYTES:
        raise _misfit(f"a note of {tensor.numel():,} bytes")
    try:
        value = json.loads(bytes(tensor.to(torch.uint8).tolist()))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _misfit("a note beside it cannot be read")
    return value


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for dimension in shape:
        count *= dimension
    return count


def _misfit(detail: str) -> InvalidModelException:
    return InvalidModelException(
        f"A quantised weight cannot be read: {detail}.",
        metadata={"detail": f"quantised: {detail}"},
        remedy=_AS_PLAIN,
    )
