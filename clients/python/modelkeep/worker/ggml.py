"""The block types of ggml, which GGUF files have: from blocks to float32, with torch.

A row is a series of blocks; each has numbers of few bits, and scales in half precision. The layouts are those
of ggml's ``ggml-common.h``; the order of the operations is that of its reference code in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch

from modelkeep.gguf import BLOCKS

#: The 16 numbers that the types IQ4_NL and IQ4_XS choose from.
_NONLINEAR: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def dequantise(type_name: str, data: torch.Tensor) -> torch.Tensor:
    """All numbers of some blocks, flat and in float32.

    Args:
        type_name: ggml's name in lower case: "q4_k". One of those of :data:`KNOWN`.
        data: Whole blocks, as bytes.
    """
    blocks = data.reshape(-1, BLOCKS[type_name.upper()].size_bytes)
    return KNOWN[type_name](blocks).reshape(-1)


def _split(blocks: torch.Tensor, *sizes: int) -> list[torch.Tensor]:
    """Fields of the blocks; the last one is what remains. Each with its own memory, to be viewed as."""
    rest = blocks.shape[1] - sum(sizes)
    return [part.contiguous() for part in torch.split(blocks, [*sizes, rest], dim=1)]


def _half(field: torch.Tensor) -> torch.Tensor:
    return field.view(torch.float16).float()


def _bits(field: torch.Tensor, width: int, shifts: tuple[int, ...], run: int) -> torch.Tensor:
    """Numbers of few bits. Of each run of bytes first the lowest bits of all, then the next."""
    mask = (1 << width) - 1
    bytes_ = field.reshape(field.shape[0], -1, 1, run)
    steps = torch.tensor(shifts, dtype=torch.uint8, device=field.device).reshape(1, 1, -1, 1)
    return (bytes_ >> steps) & mask


def _fifth_bits(field: torch.Tensor) -> torch.Tensor:
    """32 single bits of each block, the lowest of the first byte first."""
    steps = torch.arange(8, dtype=torch.uint8, device=field.device)
    return ((field.unsqueeze(-1) >> steps) & 1).reshape(field.shape[0], 32)


def _nibbles(field: torch.Tensor, run: int) -> torch.Tensor:
    return _bits(field, 4, (0, 4), run).reshape(field.shape[0], -1)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    d, qs = _split(blocks, 2)
    return _half(d) * (_nibbles(qs, 16).to(torch.int8) - 8)


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    d, m, qs = _split(blocks, 2, 2)
    return _half(d) * _nibbles(qs, 16) + _half(m)


def _q5_0(blocks: torch.Tensor) -> torch.Tensor:
    d, qh, qs = _split(blocks, 2, 4)
    return _half(d) * ((_nibbles(qs, 16) | _fifth_bits(qh) << 4).to(torch.int8) - 16)


def _q5_1(blocks: torch.Tensor) -> torch.Tensor:
    d, m, qh, qs = _split(blocks, 2, 2, 4)
    return _half(d) * (_nibbles(qs, 16) | _fifth_bits(qh) << 4) + _half(m)


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    d, qs = _split(blocks, 2)
    return _half(d) * qs.view(torch.int8)


def _six_bit_scales(field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8 scales and 8 minima of 6 bits, packed into 12 bytes."""
    d, m, high = field.reshape(-1, 3, 4).unbind(dim=1)
    scales = torch.cat([d & 0x3F, (high & 0x0F) | ((d >> 2) & 0x30)], dim=1)
    minima = torch.cat([m & 0x3F, (high >> 4) | ((m >> 2) & 0x30)], dim=1)
    return scales, minima


def _q2_k(blocks: torch.Tensor) -> torch.Tensor:
    scales, qs, d, dmin = _split(blocks, 16, 64, 2)
    step = (_half(d) * (scales & 0x0F)).unsqueeze(-1)
    low = (_half(dmin) * (scales >> 4)).unsqueeze(-1)
    return step * _bits(qs, 2, (0, 2, 4, 6), 32).reshape(-1, 16, 16) - low


def _q3_k(blocks: torch.Tensor) -> torch.Tensor:
    hmask, qs, packed, d = _split(blocks, 32, 64, 12)
    low = _bits(packed[:, :8], 4, (0, 4), 8).reshape(-1, 16)
    high = _bits(packed[:, 8:], 2, (0, 2, 4, 6), 4).reshape(-1, 16)
    scales = (low | high << 4).to(torch.int8) - 32
    step = (_half(d) * scales).unsqueeze(-1)
    q = _bits(qs, 2, (0, 2, 4, 6), 32).reshape(-1, 16, 16).to(torch.int8)
    absent = _bits(hmask, 1, tuple(range(8)), 32).reshape(-1, 16, 16).to(torch.int8) ^ 1
    return step * (q - (absent << 2))


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    d, dmin, packed, qs = _split(blocks, 2, 2, 12)
    scales, minima = _six_bit_scales(packed)
    step, low = (_half(d) * scales).unsqueeze(-1), (_half(dmin) * minima).unsqueeze(-1)
    return step * _nibbles(qs, 32).reshape(-1, 8, 32) - low


def _q5_k(blocks: torch.Tensor) -> torch.Tensor:
    d, dmin, packed, qh, qs = _split(blocks, 2, 2, 12, 32)
    scales, minima = _six_bit_scales(packed)
    step, low = (_half(d) * scales).unsqueeze(-1), (_half(dmin) * minima).unsqueeze(-1)
    q = _nibbles(qs, 32).reshape(-1, 8, 32) | _bits(qh, 1, tuple(range(8)), 32).reshape(-1, 8, 32) << 4
    return step * q - low


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    ql, qh, scales, d = _split(blocks, 128, 64, 16)
    step = (_half(d) * scales.view(torch.int8)).unsqueeze(-1)
    low = _bits(ql, 4, (0, 4), 64).reshape(-1, 8, 32)
    high = _bits(qh, 2, (0, 2, 4, 6), 32).reshape(-1, 8, 32)
    q = (low | high << 4).to(torch.int8) - 32
    return step * q.reshape(-1, 16, 16)


def _chosen(indices: torch.Tensor) -> torch.Tensor:
    table = torch.tensor(_NONLINEAR, dtype=torch.float32, device=indices.device)
    return table[indices.int()]


def _iq4_nl(blocks: torch.Tensor) -> torch.Tensor:
    d, qs = _split(blocks, 2)
    return _half(d) * _chosen(_nibbles(qs, 16))


def _iq4_xs(blocks: torch.Tensor) -> torch.Tensor:
    d, scales_h, scales_l, qs = _split(blocks, 2, 2, 4)
    low = _nibbles(scales_l.reshape(-1, 1), 1).reshape(-1, 8)
    high = _bits(scales_h.reshape(-1, 1), 2, (0, 2, 4, 6), 1).reshape(-1, 8)
    step = (_half(d) * ((low | high << 4).to(torch.int8) - 32)).unsqueeze(-1)
    return step * _chosen(_nibbles(qs, 16).reshape(-1, 8, 32))


#: ggml's name of a type in lower case → from blocks to numbers.
KNOWN: Final[Mapping[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "iq4_nl": _iq4_nl,
    "iq4_xs": _iq4_xs,
}
