"""The toy service ``beta``."""

from __future__ import annotations

from toy import main

main("beta")
