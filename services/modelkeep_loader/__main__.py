"""`python -m modelkeep_loader`: serve LoaderService alone."""

from __future__ import annotations

import sys

import modelkeep.safe_path  # noqa: F401  before all others
from modelkeep_common.serving import run
from modelkeep_common.settings import load_settings
from modelkeep_loader.app import LoaderApplication
from modelkeep_loader.config import LoaderSettings

if __name__ == "__main__":
    sys.exit(run(LoaderApplication, load_settings(LoaderSettings)))
