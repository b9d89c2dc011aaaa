"""``python -m modelkeep_record``: serve RecordService until a signal asks to stop."""

from __future__ import annotations

import sys

import modelkeep.safe_path  # noqa: F401  before all others
from modelkeep_common.serving import run
from modelkeep_common.settings import load_settings

from .app import RecordApplication
from .config import RecordSettings


def main(argv: list[str] | None = None) -> int:
    """Run the service; returns its exit code."""
    return run(RecordApplication, load_settings(RecordSettings, argv))


if __name__ == "__main__":
    sys.exit(main())
