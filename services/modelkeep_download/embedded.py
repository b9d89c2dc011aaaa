"""DownloadService inside another program's process, for a session that cannot travel to another one.

All that holds of downloads holds of these: checks, resumption, limits, queues.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelkeep_common.paths import STAGING, AllowedRoots
from modelkeep_common.serving.embedded import EmbeddedService
from modelkeep_download.app import DownloadApplication, limits_of
from modelkeep_download.config import DownloadSettings
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.places import Places
from modelkeep_download.engine.sessions import RequestsSession


class EmbeddedDownloads(EmbeddedService):
    """A DownloadService in this process that fetches through a session; it serves once it is made.

    Args:
        session: What URLs are asked through, like a `requests.Session`; whom it asks is its own matter.
        max_parallel_downloads: Downloads at once.
        data_dir: Where it keeps its jobs, so that the next one on that folder goes on with them; None: in a
            temporary folder, which goes at :meth:`close`.
        quiet: Log nothing at INFO and above; see :class:`modelkeep_common.serving.embedded.EmbeddedService`.
        settings: Further settings of the service, by name.

    Raises:
        StartupError: It cannot start.
    """

    def __init__(
        self,
        session: Any,
        *,
        max_parallel_downloads: int = 5,
        data_dir: Path | None = None,
        quiet: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._session = session
        self._wanted = {
            "max_parallel_downloads": max_parallel_downloads,
            "allow_private_addresses": True,
            **(settings or {}),
        }
        self._app: _Application | None = None
        super().__init__("download", data_dir=data_dir, quiet=quiet)

    def _settings(self, common: Mapping[str, Any]) -> DownloadSettings:
        return DownloadSettings(**{**common, **self._wanted})

    def _application(self, settings: DownloadSettings) -> DownloadApplication:
        guard = AddressGuard(allow_private=settings.allow_private_addresses)
        session = RequestsSession(self._session, guard, limits_of(settings))
        self._app = _Application(settings, session=session)
        return self._app

    def _tidy(self) -> None:
        if self._app is not None:
            self._app.tidy()


@dataclass(frozen=True, slots=True)
class _AnyPlace(Places):
    """Wherever this process's user may write. A job's bytes are staged in the folder that they go into."""

    used: set[Path] = field(default_factory=set)

    def root_of(self, destination: Path) -> Path:
        """The innermost folder that exists."""
        folder = next(folder for folder in (destination, *destination.parents) if folder.is_dir())
        self.used.add(folder)
        return folder


class _Application(DownloadApplication):
    """Takes no folder for itself: it writes wherever the program that embeds it could."""

    _places: _AnyPlace | None = None

    @contextlib.contextmanager
    def _take_roots(self) -> Iterator[tuple[Places, Mapping[str, str]]]:
        settings = self._settings
        anywhere = AllowedRoots([Path("/")], data_dir=settings.data_dir, models=[settings.models])
        self._places = _AnyPlace(anywhere, anywhere, settings.models)
        yield self._places, {}

    def tidy(self) -> None:
        """Leave no empty staging folders behind."""
        for folder in self._places.used if self._places is not None else ():
            with contextlib.suppress(OSError):
                os.rmdir(folder / STAGING)
