"""Who may read what a service writes.

The data folder is the user's alone, and so is all that is made in it (umask 077). Models that lie outside it
are there to be read by others, as by a loader of another user (umask 022).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PRIVATE, SHARED = 0o077, 0o022


def umask_for(data_dir: Path, models: Iterable[Path]) -> int:
    """The umask of a service that writes to these folders of models."""
    home = os.path.realpath(data_dir)
    inside = all(Path(os.path.realpath(folder)).is_relative_to(home) for folder in models)
    return PRIVATE if inside else SHARED


def read_only_in(folder: Path) -> int:
    """The mode of a finished file: nobody writes to it, and others may read it if they may its folder."""
    return 0o400 | (os.stat(folder).st_mode & 0o044)
