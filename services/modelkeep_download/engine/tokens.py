"""Tokens that are kept for sources, by host: what a request is shown that brings nothing of its own.

They come from the settings, from the hub's own variable and file, and from the file that `modelkeep auth`
keeps, in this order. Files are read anew when they have changed.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from modelkeep.source_tokens import HostPattern, TokensFileError, is_token, read_tokens
from modelkeep_common.urls import has_credentials
from modelkeep_download.domain.credentials import CredentialKind
from modelkeep_download.engine.hub_home import hub_token_file, is_own

T = TypeVar("T")

_log = logging.getLogger(__name__)
_MAX_HUB_FILE_BYTES = 64 << 10
#: What the hub's client takes for true.
_TRUE = frozenset({"1", "on", "yes", "true"})


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token that is kept. Its repr does not show it."""

    token: str = field(repr=False)
    kind: CredentialKind
    host: HostPattern


class Kept(NamedTuple):
    """That there is a token for a host."""

    host: str
    kind: CredentialKind


class SourceTokens:
    """The tokens that are kept on this host. Safe to share between threads; may read a file.

    Args:
        settings: By host.
        hub: Address of the hub, whose own token is used for it alone; "" for none.
        environ: Where the hub's own token is, or what leads to it.
        file: What `modelkeep auth` keeps; None for none.
    """

    def __init__(
        self,
        settings: Mapping[HostPattern, str] | None = None,
        *,
        hub: str = "",
        environ: Mapping[str, str] | None = None,
        file: Path | None = None,
    ) -> None:
        environ = environ or {}
        self.file = file
        self._settings = dict(settings or {})
        self._hub = HostPattern.of_url(hub) if hub else None
        self._variable = _clean(environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN") or "")
        hub_file = hub_token_file(environ) if hub else None
        if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
            self._variable, hub_file = "", None
        self._of_hub = _Watched(hub_file, _read_hub_file, "")
        self._of_file = _Watched(file, read_tokens, dict[HostPattern, str]())

    def found(self, url: str) -> StoredToken | None:
        """The token to show to whoever serves a checked URL; None for one that has credentials of its own."""
        if has_credentials(url):
            return None
        fitting = (one for one in self._all() if one.host.fits(url))
        return next(fitting, None)

    def for_url(self, url: str) -> str | None:
        """As `found`, the token alone."""
        stored = self.found(url)
        return stored.token if stored is not None else None

    def kept(self) -> list[Kept]:
        """For which hosts there are tokens; the first of one host is the one that counts."""
        return [Kept(str(one.host), one.kind) for one in self._all()]

    def _all(self) -> Iterator[StoredToken]:
        yield from _sorted(self._settings, CredentialKind.SETTING)
        if self._hub is not None:
            if self._variable:
                yield StoredToken(self._variable, CredentialKind.ENVIRONMENT, self._hub)
            if token := self._of_hub.read():
                yield StoredToken(token, CredentialKind.HUB_FILE, self._hub)
        yield from _sorted(self._of_file.read(), CredentialKind.FILE)


class _Watched(Generic[T]):
    """What a file says, read anew when it has changed; what is wrong with it is logged once."""

    def __init__(self, path: Path | None, parse: Callable[[Path], T], nothing: T) -> None:
        self._path, self._parse, self._nothing = path, parse, nothing
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._said = nothing

    def read(self) -> T:
        """What it says; nothing if it is not there, or no good."""
        if self._path is None:
            return self._nothing
        with self._lock:
            try:
                found = os.stat(self._path)
            except OSError:
                self._seen, self._said = (), self._nothing
                return self._said
            seen = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            if seen != self._seen:
                self._seen, self._said = seen, self._nothing
                try:
                    self._said = self._parse(self._path)
                except TokensFileError as error:
                    _log.warning("tokens for sources: %s; until then it counts for nothing", error)
            return self._said


def _sorted(tokens: Mapping[HostPattern, str], kind: CredentialKind) -> list[StoredToken]:
    """The most exact first."""
    hosts = sorted(tokens, key=lambda host: host.exactness, reverse=True)
    return [StoredToken(tokens[host], kind, host) for host in hosts]


def _read_hub_file(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            if not is_own(os.fstat(file.fileno())):
                return ""
            return _clean(file.read(_MAX_HUB_FILE_BYTES).decode("utf-8", "replace"))
    except OSError:
        return ""


def _clean(text: str) -> str:
    """A token as a person or the hub's client has written it; "" for what cannot be one."""
    text = text.strip()
    return text if is_token(text) else ""


#: Of a session that is shown none.
NO_TOKENS = SourceTokens()
