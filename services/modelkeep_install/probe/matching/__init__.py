"""One module per kind of file or folder: each looks at names and shapes, by the table of families, and says
why it matched or did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from modelkeep.headers import Header

from ..result import Match, NoMatch
from .lora import LoraFile
from .main_checkpoint import MainCheckpoint
from .vae import VaeFile


class FileKind(Protocol):
    """A kind that a single safetensors file may belong to."""

    #: What the answer calls it in ``ruled_out``.
    name: str

    def match(self, header: Header) -> Match | NoMatch:
        """Whether the file is of this kind, by its header alone."""


#: Every kind that is tried; none depends on the order.
FILE_KINDS: Sequence[FileKind] = (MainCheckpoint(), VaeFile(), LoraFile())

__all__ = ["FILE_KINDS", "FileKind"]
