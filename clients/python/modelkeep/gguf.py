"""The block types of GGUF files: how many numbers a block has, and how many bytes it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Block:
    """A type of ggml's: how many numbers a block has, and how many bytes it takes."""

    elements: int
    size_bytes: int


#: By ggml's name of the type.
BLOCKS: Final[Mapping[str, Block]] = {
    "Q4_0": Block(32, 18),
    "Q4_1": Block(32, 20),
    "Q5_0": Block(32, 22),
    "Q5_1": Block(32, 24),
    "Q8_0": Block(32, 34),
    "Q2_K": Block(256, 84),
    "Q3_K": Block(256, 110),
    "Q4_K": Block(256, 144),
    "Q5_K": Block(256, 176),
    "Q6_K": Block(256, 210),
    "IQ4_NL": Block(32, 18),
    "IQ4_XS": Block(256, 136),
}
