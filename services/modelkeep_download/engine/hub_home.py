"""What the hub's own client keeps on this host, where the environment says that it is.

What is another user's is none of ours, and neither is anything where the environment names no home.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def hub_home(environ: Mapping[str, str]) -> Path | None:
    """The client's folder: HF_HOME, or huggingface in the user's folder for caches; None if none is named."""
    if named := environ.get("HF_HOME"):
        return _path(named, environ)
    if caches := environ.get("XDG_CACHE_HOME"):
        return _path(caches, environ) / "huggingface"
    home = environ.get("HOME")
    return Path(home) / ".cache" / "huggingface" if home else None


def hub_token_file(environ: Mapping[str, str]) -> Path | None:
    """Where the client keeps its token: HF_TOKEN_PATH, or token in its folder."""
    if named := environ.get("HF_TOKEN_PATH"):
        return _path(named, environ)
    home = hub_home(environ)
    return home / "token" if home else None


def hub_cache(environ: Mapping[str, str]) -> Path | None:
    """Where the client keeps files: HF_HUB_CACHE, or hub in its folder."""
    if named := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return _path(named, environ)
    home = hub_home(environ)
    return home / "hub" if home else None


def is_own(found: os.stat_result) -> bool:
    """Whether a file or a folder is this process's user's."""
    return found.st_uid == os.geteuid()


def _path(text: str, environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME")
    return Path(home) / text[2:] if home and text.startswith("~/") else Path(text)
