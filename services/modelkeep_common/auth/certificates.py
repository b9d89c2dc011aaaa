"""Callers by their certificates: whose a name is that an authority vouches for, from one file.

::

    {"callers": [{"uri": "spiffe://modelkeep/install", "name": "install", "roles": ["install"]},
                 {"uri": "spiffe://example.org/ns/research/sa/*", "roles": ["worker"]},
                 {"dns": "*.ci.example.org", "name": "ci", "roles": ["operator"]},
                 {"dns": "gateway.example.org", "name": "gateway", "roles": []}]}

``uri`` and ``dns`` are compared with the subject's alternative names of that kind, and nothing else of a
certificate is; ``*`` stands for anything within one part, between slashes or dots. The first entry that fits
decides. Without ``name`` a caller is called as in his certificate. Without roles it is nobody, only a place
where others pass, such as a gateway: who calls is then said by a token, and without one he is whatever
``anonymous`` says. A certificate that no entry fits is refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelkeep.exceptions import CredentialsInvalidException
from modelkeep.renewed import UnusableError

from ..certificates import lifetime_of
from ._entries import EntryFile
from .principal import Metadata, Principal, Transport

#: Kind of name to where the transport tells those of a certificate, and to what parts its parts.
_KINDS: Final = {"uri": ("peer_uri", "/"), "dns": ("peer_dns", ".")}
_MAX_NAME: Final = 256
_MAX_KNOWN: Final = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """An entry of the file.

    Attributes:
        kind: Of the names that it is compared with: "uri" or "dns".
        fits: Whether a name is this caller's.
        name: Who it is; None: as the name says.
        roles: What roles he has.
    """

    kind: str
    fits: Callable[[str], object]
    name: str | None
    roles: frozenset[str]

    @property
    def example(self) -> Principal:
        """One whom this entry is about."""
        return Principal(self.name or "a caller with a certificate", self.roles)


class CertificateAuthenticator:
    """Knows callers by the certificate that they showed when they connected.

    Args:
        callers: Gives whom certificates name.
    """

    def __init__(self, callers: Callable[[], Sequence[Caller]]) -> None:
        self._callers = callers

    def authenticate(self, peer: str, metadata: Metadata, transport: Transport) -> Principal | None:
        """See :class:`Authenticator`."""
        if peer.startswith("unix:"):
            return None
        told = transport()
        names = {kind: _texts(told.get(key, ())) for kind, (key, _) in _KINDS.items()}
        for caller in self._callers():
            for name in names[caller.kind]:
                if caller.fits(name):
                    return Principal(caller.name or name, caller.roles) if caller.roles else None
        said = ", ".join((*names["uri"], *names["dns"])) or "without a URI or a DNS name in his certificate"
        raise CredentialsInvalidException(
            f"The certificate is good, but this service knows no caller {said}.",
            remedy="Have the operator of this service add one to tls_callers_file.",
        )


class LivingCertificates:
    """Refuses callers whose certificate has ended since they connected: TLS looks at it only then.

    Knows nobody.
    """

    def __init__(self) -> None:
        #: Certificate, as PEM, to when it ends.
        self._ends: dict[bytes, float] = {}

    def authenticate(self, peer: str, metadata: Metadata, transport: Transport) -> Principal | None:
        """See :class:`Authenticator`."""
        if peer.startswith("unix:"):
            return None
        for certificate in transport().get("x509_pem_cert", ()):
            if self._end_of(certificate) <= time.time():
                raise CredentialsInvalidException(
                    "The certificate of this connection has ended.",
                    remedy="Connect anew, with the certificate that has taken its place.",
                )
        return None

    def _end_of(self, certificate: bytes) -> float:
        end = self._ends.get(certificate)
        if end is None:
            if len(self._ends) >= _MAX_KNOWN:
                self._ends.clear()
            try:
                end = lifetime_of(certificate, "the caller's certificate").end
            except UnusableError:  # TLS may take what is not as it should be
                raise CredentialsInvalidException(
                    "When the certificate of this connection ends cannot be read.",
                    remedy="Connect with one that is made anew.",
                ) from None
            self._ends[certificate] = end
        return end


def read_callers(path: Path) -> tuple[Caller, ...]:
    """Whom certificates name. Blocks.

    Raises:
        UnusableError: It cannot be read, others could change it, or it is of another form.
    """
    file = EntryFile("tls_callers_file", path)
    callers = []
    for place, said in enumerate(file.entries("callers", secret=False)):
        entry = file.keys_of(place, said, {"uri", "dns", "name", "roles"})
        kinds = [kind for kind in _KINDS if kind in entry]
        pattern = entry[kinds[0]] if len(kinds) == 1 else None
        if not isinstance(pattern, str) or not pattern or len(pattern) > _MAX_NAME:
            raise file.bad(f'entry {place} must have either "uri" or "dns", of 1 to {_MAX_NAME} characters')
        name = file.name_of(place, entry) if "name" in entry else None
        roles = file.roles_of(name or pattern, entry, may_be_none=True)
        callers.append(Caller(kinds[0], _fits(kinds[0], pattern), name, roles))
    return tuple(callers)


def _fits(kind: str, pattern: str) -> Callable[[str], object]:
    parted = _KINDS[kind][1]
    parts = (re.escape(part) for part in pattern.split("*"))
    # DNS knows no case; of a URI only the host's, which SPIFFE has in lower case.
    return re.compile(f"[^{parted}]+".join(parts), re.IGNORECASE if kind == "dns" else 0).fullmatch


def _texts(names: Sequence[bytes]) -> list[str]:
    """The names that can be compared and shown."""
    texts = (name.decode("ascii", "replace") for name in names)
    return [text for text in texts if len(text) <= _MAX_NAME and text.isprintable()]
