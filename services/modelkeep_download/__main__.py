"""`python -m modelkeep_download`: serve DownloadService alone."""

from __future__ import annotations

import sys

import modelkeep.safe_path  # noqa: F401  before all others
from modelkeep_common.serving import run
from modelkeep_common.settings import load_settings
from modelkeep_download.app import DownloadApplication
from modelkeep_download.config import DownloadSettings

if __name__ == "__main__":
    sys.exit(run(DownloadApplication, load_settings(DownloadSettings)))
