"""Quantised weights through a conversion, as they are stored.

A checkpoint's conversion renames weights, splits them and puts rows together anew. It does the same with any
tensors: so it is done once more with the *numbers of rows* in place of the weights, and what comes out tells
which rows of which quantised weights each result is made of. Rows of quantised numbers can be taken apart
wherever blocks and scales do not reach over several rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import torch

from modelkeep.quantised import BNB_INT8, CAST, FLOAT8, GGUF, SCALED
from modelkeep.worker.dequantise import data_bytes
from modelkeep_convert.quantised.sources import Quantised, Source


class _Piece(NamedTuple):
    """Some rows of one weight, in this order."""

    source: Quantised
    rows: torch.Tensor

    @property
    def is_whole(self) -> bool:
        count = self.source.shape()[0]
        return len(self.rows) == count and bool((self.rows == torch.arange(count)).all())


class RowNumbers:
    """Stands in for a checkpoint's quantised weights in a conversion.

    Args:
        sources: The weights, by the names that the conversion knows.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.stand_ins: dict[str, torch.Tensor] = {}
        self._sources: list[Quantised] = []
        self._begins: list[int] = []
        count = 0
        for name, source in sources.items():
            shape = source.shape()
            sizes = [*shape[:1], *(1 for _ in shape[1:])]
            if source.code() in FLOAT8:
                source = Quantised(CAST, {"data": source}, tuple(shape))
            if not isinstance(source, Quantised) or not shape:
                continue
            self.stand_ins[name] = torch.arange(count, count + shape[0]).reshape(sizes)
            self._sources.append(source)
            self._begins.append(count)
            count += shape[0]

    def found(
        self, converted: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Source]:
        """Quantised weights under the names of the class: those that the rows can be taken apart for.

        Args:
            converted: What the conversion made of the stand-ins; other tensors are passed over.
            shapes: Of the weights under these names.
        """
        made: dict[str, Source] = {}
        for name, numbers in converted.items():
            shape = shapes.get(name, ())
            if (
                numbers.dtype != torch.int64
                or not shape
                or tuple(numbers.shape) != (shape[0], *(1 for _ in shape[1:]))
            ):
                continue
            pieces = self._pieces(numbers.reshape(-1))
            if pieces and (one := _put_together(pieces, shape)) is not None:
                made[name] = one
        return made

    def _pieces(self, numbers: torch.Tensor) -> list[_Piece]:
        """Rows by the weights that they are of; none where one is of no quantised weight."""
        if not len(numbers) or int(numbers.min()) < 0:
            return []
        begins = torch.tensor(self._begins)
        owners = torch.bucketize(numbers, begins, right=True) - 1
        cuts = (torch.nonzero(owners[1:] != owners[:-1]).reshape(-1) + 1).tolist()
        pieces: list[_Piece] = []
        for first, last in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
            at = bisect_right(self._begins, int(numbers[first])) - 1
            pieces.append(_Piece(self._sources[at], numbers[first:last] - self._begins[at]))
        return pieces


def _put_together(pieces: list[_Piece], shape: tuple[int, ...]) -> Quantised | None:
    """One weight of some rows; None if they cannot be taken apart."""
    first = pieces[0].source
    if len(pieces) == 1 and pieces[0].is_whole and prod(first.shape()) == prod(shape):
        return Quantised(first.scheme, first.parts, shape)
    row = prod(shape[1:])
    kinds = {(p.source.scheme, p.source.parts["data"].code(), prod(p.source.shape()[1:])) for p in pieces}
    if kinds != {(first.scheme, first.parts["data"].code(), row)}:
        return None
    data = first.parts["data"]
    if first.scheme.startswith(GGUF):
        blocks, size = data.shape()
        if blocks % first.shape()[0]:
            return None
        each = blocks // first.shape()[0]
        return Quantised(first.scheme, {"data": _Rows(pieces, "data", [shape[0] * each, size])}, shape)
    if first.scheme == CAST:
        return Quantised(CAST, {"data": _Rows(pieces, "data", list(shape))}, shape)
    if first.scheme == BNB_INT8:
        parts = {"data": _Rows(pieces, "data", [shape[0], row]), "scb": _Rows(pieces, "scb", [shape[0]])}
        return Quantised(first.scheme, parts, shape)
    if first.scheme != SCALED or len({p.source.parts["scale"].code() for p in pieces}) != 1:
        return None
    if all(prod(p.source.parts["scale"].shape()) in (1, p.source.shape()[0]) for p in pieces):
        scale = _Rows(pieces, "scale", [shape[0], *(1 for _ in shape[1:])])
        return Quantised(first.scheme, {"data": _Rows(pieces, "data", list(shape)), "scale": scale}, shape)
    return None


class _Rows:
    """One part of a weight that is put together; where all rows share a scale, it stands for each of them."""

    def __init__(self, pieces: list[_Piece], role: str, shape: list[int]) -> None:
        self._pieces = pieces
        self._role = role
        self._shape = shape

    def shape(self) -> list[int]:
        return self._shape

    def code(self) -> str:
        return self._pieces[0].source.parts[self._role].code()

    def read(self) -> torch.Tensor:
        taken: list[torch.Tensor] = []
        for source, rows in self._pieces:
            part = source.parts[self._role].read()
            dtype, count = part.dtype, source.shape()[0]
            # Not every type can be indexed; bytes can.
            lines = data_bytes(part).reshape(1 if part.numel() == 1 else count, -1)
            taken.append(lines.expand(count, -1)[rows])
        return torch.cat(taken).reshape(-1).view(dtype).reshape(self._shape)
