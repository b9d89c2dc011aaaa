"""Which characters and names not every file system can have. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: Separators, and what Windows has other uses for.
FORBIDDEN: Final = frozenset('/\\:*?"<>|')
#: Controls, formats (which turn the direction of writing), surrogates, separators of lines and paragraphs.
_INVISIBLE: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|\Z)", re.IGNORECASE)


def is_invisible(character: str) -> bool:
    """Whether a character is a control or format character, or breaks lines: nothing that a name shows."""
    return unicodedata.category(character) in _INVISIBLE


def is_forbidden(character: str) -> bool:
    """Whether a stranger's name may not have this character."""
    return character in FORBIDDEN or is_invisible(character)


def is_device(name: str) -> bool:
    """Whether Windows keeps a name for a device, whatever its suffix: `CON`, `nul.txt`."""
    return _DEVICE.match(name) is not None
