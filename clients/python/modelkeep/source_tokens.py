"""Tokens for sources, by host: which addresses a host means, and the file that ``modelkeep auth`` keeps.

Asks nobody. What is raised or shown here has no token in it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from modelkeep.locks import LockedError, remove_lock, take_lock
from modelkeep.private import NotPrivateError, check_private, write_private

#: Name of the file in DownloadService's folder.
FILE_NAME: Final = "source_tokens.json"
_MAX_FILE_BYTES: Final = 1 << 20
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[a-z0-9_][a-z0-9._-]{0,252}")
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")
#: Seconds that a change waits for another one.
_PATIENCE_S: Final = 10.0
_LOOK_S: Final = 0.02


class TokensFileError(Exception):
    """The file of tokens cannot be used; the text says why, and what helps."""


class _Asked(NamedTuple):
    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HostPattern:
    """Which addresses a token is for.

    ``models.example.com`` and ``models.example.com:8443`` are one host each, at https alone;
    ``*.example.com`` is every host below it, and not itself; ``http://models.lan`` is at http alone. A
    loopback host is at both unless it says which. Without a port it is the scheme's own.
    """

    #: Empty: https, and of a loopback host http, too.
    scheme: str
    #: Lowercase, an IPv6 address without brackets; without the wildcard.
    host: str
    #: 0: the scheme's own.
    port: int = 0
    #: Whether it is what lies below the host.
    below: bool = False

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Read a pattern as people write it.

        Raises:
            ValueError: It is none; the text says why.
        """
        scheme, has_scheme, rest = text.strip().partition("://")
        scheme, rest = (scheme.lower(), rest) if has_scheme else ("", scheme)
        if scheme not in ("", "http", "https"):
            raise ValueError("a host is at http:// or https://, and at no other scheme")
        rest = rest.removesuffix("/")
        below, rest = rest.startswith("*."), rest.removeprefix("*.")
        if re.search(r"[\s/?#@*\\]", rest):
            raise ValueError("write a host, as in huggingface.co, models.example.com:8443 or *.example.com")
        try:
            parts = urlsplit(f"//{rest}")
            host, port = _plain(parts.hostname or ""), parts.port
        except (ValueError, UnicodeError):
            raise ValueError("the host or its port is malformed") from None
        if not host or port == 0 or not (_is_number(host) or _HOST.fullmatch(host)):
            raise ValueError("the host or its port is malformed")
        if below and ("." not in host or _is_number(host)):
            raise ValueError("a wildcard stands for the hosts below a domain, as in *.example.com")
        if scheme == "https" and not _is_loopback(host):
            scheme = ""
        own = _DEFAULT_PORTS[scheme] if scheme else 0 if _is_loopback(host) else _DEFAULT_PORTS["https"]
        return cls(scheme, host, 0 if port in (None, own) else port or 0, below)

    @classmethod
    def of_url(cls, url: str) -> HostPattern:
        """The shortest pattern that fits the host of a checked URL."""
        scheme, host, port = _asked(url)
        at = f"[{host}]" if ":" in host else host
        plain = _is_loopback(host) or scheme == "https"
        return cls.parse(f"{'' if plain else 'http://'}{at}:{port}")

    def fits(self, url: str) -> bool:
        """Whether the token may go to this checked URL."""
        scheme, host, port = _asked(url)
        if scheme != (self.scheme or "https") and (self.scheme or not _is_loopback(host)):
            return False
        is_host = host.endswith(f".{self.host}") if self.below else host == self.host
        return is_host and port == (self.port or _DEFAULT_PORTS.get(scheme))

    @property
    def exactness(self) -> tuple[bool, int, bool]:
        """Greater for the one of two patterns that counts where both fit."""
        return not self.below, len(self.host), bool(self.scheme)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme, below = f"{self.scheme}://" if self.scheme else "", "*." if self.below else ""
        return f"{scheme}{below}{host}" + (f":{self.port}" if self.port else "")


def is_token(text: str) -> bool:
    """Whether a text can be a token: printable ASCII without blanks, 4,096 characters at most."""
    return _TOKEN.fullmatch(text) is not None


def tokens_path(data_dir: Path) -> Path:
    """Where the tokens of the suite of a data folder are kept, unless a setting says otherwise."""
    return data_dir / "download" / FILE_NAME


def read_tokens(path: Path) -> dict[HostPattern, str]:
    """The tokens of a file; none if there is no file. Blocks.

    Raises:
        TokensFileError: Others could read or change it, or it is no such file.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            check_private(path, os.fstat(file.fileno()))
            text = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except NotPrivateError as error:
        raise TokensFileError(str(error)) from None
    except OSError as error:
        raise TokensFileError(f"{path} cannot be read: {error.strerror}") from None
    if len(text) > _MAX_FILE_BYTES:
        raise TokensFileError(f"{path} has more than {_MAX_FILE_BYTES:,} bytes")
    try:
        tokens = json.loads(text)["tokens"]
        found = {HostPattern.parse(host): token for host, token in tokens.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        form = '{"tokens": {HOST: TOKEN}}'
        raise TokensFileError(f"{path} is no file of tokens: it must be {form}") from None
    if not all(isinstance(token, str) and is_token(token) for token in found.values()):
        raise TokensFileError(f"{path} is no file of tokens: a token is printable ASCII without blanks")
    return found


def keep_token(path: Path, host: HostPattern, token: str) -> None:
    """Keep a token, in place of what there was for the host. Blocks.

    Raises:
        TokensFileError: The file is no good, or cannot be written.
    """
    with _changing(path) as tokens:
        tokens[host] = token


def forget_token(path: Path, host: HostPattern) -> bool:
    """Keep no token for a host; whether there was one. Blocks.

    Raises:
        TokensFileError: The file is no good, or cannot be written.
    """
    with _changing(path) as tokens:
        return tokens.pop(host, None) is not None


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[HostPattern, str]]:
    """The tokens, which take the place of those in the file at the end, if they are others then."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        lock_path = path.with_name(f"{path.name}.lock")
        lock = _locked(lock_path)
        try:
            tokens = read_tokens(path)
            before = dict(tokens)
            yield tokens
            if tokens != before:
                _write(path, tokens)
        finally:
            remove_lock(lock_path, lock)
    except OSError as error:
        raise TokensFileError(f"{path} cannot be written: {error.strerror}") from error


def _locked(path: Path) -> int:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return take_lock(path)
        except LockedError as error:
            if time.monotonic() > until:
                raise TokensFileError(f"{path} is locked by process {error.holder}: end that first") from None
            time.sleep(_LOOK_S)


def _write(path: Path, tokens: Mapping[HostPattern, str]) -> None:
    text = json.dumps({"tokens": {str(host): token for host, token in tokens.items()}}, indent=2) + "\n"
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)  # of a change that was cut short: the lock is held
    try:
        write_private(scratch, text)
        owner = os.stat(path.parent)
        if os.geteuid() == 0 and owner.st_uid != 0:  # root keeps it for the user whose suite it is
            os.chown(scratch, owner.st_uid, owner.st_gid, follow_symlinks=False)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # or a power cut may bring back what was forgotten
    finally:
        os.close(folder)


def _asked(url: str) -> _Asked:
    parts = urlsplit(url)
    return _Asked(
        parts.scheme, _plain(parts.hostname or ""), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    )


def _plain(host: str) -> str:
    """A host in the spelling by which it is compared."""
    host = host.lower()
    if not host.isascii():
        return host.encode("idna").decode("ascii")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _is_number(host: str) -> bool:
    """Whether a host is written as an address of IP, or as what some resolvers take for one."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
