"""``python -m modelkeep.cli``."""

import modelkeep.safe_path  # noqa: F401  before all others
from modelkeep.cli.main import main

if __name__ == "__main__":
    main()
