"""What this host has already of what is to be fetched: files that may have the expected hash.

Whether they have it, the copy's own hash tells. The network is asked where none has.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from modelkeep.exceptions import ModelkeepError
from modelkeep_common.paths import AllowedRoots
from modelkeep_common.urls import last_component
from modelkeep_download.engine.hub_cache import HubCache
from modelkeep_download.engine.transfer import Partial
from modelkeep_download.sources import tree


@dataclass(frozen=True, slots=True)
class Present:
    """Where files may lie that are to be fetched.

    Args:
        hub: The cache of the hub's client.
        roots: Where a file may lie that a request names as a copy; None: nowhere.
    """

    hub: HubCache = field(default_factory=HubCache)
    roots: AllowedRoots | None = None

    def files_of(self, there: Partial, url: str) -> Generator[int]:
        """Descriptors of files that may be the whole of what is to be fetched, one after the other.

        Each is closed when the next is asked for.

        Args:
            there: What is to be fetched.
            url: Its address. What has no file's name by it, the source's answer has to name.
        """
        if there.local_copy and self.roots is not None:
            fd = _opened(self.roots, Path(there.local_copy))
            if fd is not None:
                try:
                    yield fd
                finally:
                    os.close(fd)
        if there.local_copy or "." in last_component(url):
            yield from self.hub.files_of(there.expected_sha256)


def _opened(roots: AllowedRoots, path: Path) -> int | None:
    try:
        return tree.regular(tree.open_source(roots, path), path)
    except (OSError, ModelkeepError):
        return None
