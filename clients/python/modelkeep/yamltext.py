"""What is wrong with a text that PyYAML cannot read. It trusts tags: a value that does not fit one raises
whatever its conversion stumbles over, ``!!bool x`` a KeyError and ``!!int ''`` an IndexError.
"""

from __future__ import annotations

from typing import Final

#: What reading raises besides ``yaml.YAMLError``, which is not here, so that nobody imports yaml for it.
ODD: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_MOST_SAID: Final = 200


def said_of(error: Exception) -> str:
    """It in words, in one line and of bounded length.

    Args:
        error: A ``yaml.YAMLError``, or one of :data:`ODD`.
    """
    if isinstance(error, ODD) and not isinstance(error, (ValueError, RecursionError)):
        return "a value does not fit its tag"
    return " ".join(str(error).split())[:_MOST_SAID]
