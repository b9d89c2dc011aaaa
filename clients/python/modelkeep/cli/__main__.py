"""``python -m modelkeep.cli``."""

from modelkeep.cli.main import main

if __name__ == "__main__":
    main()
