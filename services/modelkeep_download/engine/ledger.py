"""Which small files of several are whole."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from modelkeep_download.engine import piece_map


class Ledger:
    """A line for each small file that is whole: it outlives the process, not a power cut.

    A map beside each of them (see `piece_map`) would cost as much as the file itself. Safe to share between
    threads.

    Attributes:
        told: By number: which object the file is of, and its bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.told: dict[int, tuple[str, int]] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in path.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):  # the last one may be torn
                    boot, number, object_id, size = json.loads(line)
                    if boot == piece_map.boot_id():
                        self.told[int(number)] = str(object_id), int(size)

    def note(self, number: int, object_id: str, size: int) -> None:
        """A file is whole, and of this object. On a full disk that stays untold."""
        self.told[number] = object_id, size
        line = json.dumps([piece_map.boot_id(), number, object_id, size]) + "\n"
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as ledger:
            ledger.write(line)

    def forget(self, number: int) -> None:
        """A file is not what was told of it."""
        if number in self.told:
            self.note(number, "", 0)
