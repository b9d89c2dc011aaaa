"""The toy service ``alpha``."""

from __future__ import annotations

from toy import main

main("alpha")
