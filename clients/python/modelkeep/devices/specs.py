"""Which accelerators a process is told to use, as settings and command lines say it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SIMULATED: Final = re.compile(r"sim:([1-9]\d?)x([1-9]\d{0,8})MiB(?:,faults=(/.*))?")


@dataclass(frozen=True, slots=True)
class Spec:
    """What was said.

    Attributes:
        text: As it was said.
        kind: "auto", "none", "cuda" or "sim".
        sizes: Bytes of each simulated accelerator.
        faults: The file that says what goes wrong on simulated ones, for tests.
    """

    text: str
    kind: str
    sizes: tuple[int, ...] = ()
    faults: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read one: "auto", "none", "cuda", or "sim:2x256MiB" for two simulated accelerators of that size.

        "sim" alone has no accelerators of its own: it maps what others made.

        Raises:
            ValueError: It is none of these.
        """
        if text in ("auto", "none", "cuda", "sim"):
            return cls(text, text)
        if found := _SIMULATED.fullmatch(text):
            count, mebibytes, faults = found.groups()
            sizes = (int(mebibytes) << 20,) * int(count)
            return cls(text, "sim", sizes, Path(faults) if faults else None)
        raise ValueError(
            f"{text!r} names no accelerators: say auto, none or cuda, or sim:2x256MiB for two simulated ones."
        )
