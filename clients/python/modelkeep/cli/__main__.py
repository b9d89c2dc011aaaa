"""``python -m modelkeep.cli``."""

import modelkeep.safe_path  # noqa: F401  before all others
from modelkeep.cli import start

if __name__ == "__main__":
    start()
