"""One module per family of models: each looks at names and shapes, and says why it matched or did not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from modelkeep.headers import Header

from ..result import Match, NoMatch
from .lora import LoraFile
from .main_checkpoint import MainCheckpoint
from .vae import VaeFile


class FileFamily(Protocol):
    """A family that a single safetensors file may belong to."""

    #: What the answer calls it in ``ruled_out``.
    name: str

    def match(self, header: Header) -> Match | NoMatch:
        """Whether the file is of this family, by its header alone."""


#: Every family that is tried; none depends on the order.
FILE_FAMILIES: Sequence[FileFamily] = (MainCheckpoint(), VaeFile(), LoraFile())

__all__ = ["FILE_FAMILIES", "FileFamily"]
