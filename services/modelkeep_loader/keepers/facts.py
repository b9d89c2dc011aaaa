"""Facts as a small sealed memory, so that they travel, and are kept, as descriptors are."""

from __future__ import annotations

import os
from typing import Final

from modelkeep import sealed

#: How such memory is called in /proc; it is none of a component.
_NAME: Final = "modelkeep-facts"
#: Facts are short; whatever is longer is none.
_MOST_BYTES: Final = 64 << 20


def written(facts: bytes) -> int:
    """A new descriptor of a sealed memory with the facts; the caller closes it.

    Raises:
        OSError: Out of descriptors, or out of memory.
    """
    memory = sealed.create(_NAME, len(facts))
    try:
        sealed.write(memory, 0, facts)
        sealed.seal(memory)
    except BaseException:
        os.close(memory)
        raise
    return memory


def read(memory: int) -> bytes:
    """What stands in it.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no memory with facts.
    """
    size = os.fstat(memory).st_size
    if not sealed.is_sealed(memory) or size > _MOST_BYTES:
        raise ValueError("what should be facts is something else")
    return os.pread(memory, size, 0)
