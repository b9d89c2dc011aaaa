"""What `make soak` runs: the kills of downloads, or those of installs if they are named first."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Hand over to the one that is named."""
    if argv[:1] == ["installs"]:
        from support import installkills  # needs torch, which the other does not

        return installkills.main(argv[1:])
    from support import kills

    return kills.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
