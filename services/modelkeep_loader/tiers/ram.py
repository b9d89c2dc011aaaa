"""The RAM tier's memory: sealed memfds."""

from __future__ import annotations

import os

from modelkeep import sealed


class SealedMemory:
    """Sealed memory that the loader keeps open, for reading only; a ``domain.components.Memory``.

    Args:
        descriptor: The only open file on it, made by :func:`modelkeep.sealed.open_readonly`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size

    def open_for_holder(self) -> int:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        return sealed.open_readonly(self.descriptor)

    def in_use(self) -> bool:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        return sealed.in_use_elsewhere(self.descriptor)

    def close(self) -> None:
        """See :class:`modelkeep_loader.domain.components.Memory`."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
