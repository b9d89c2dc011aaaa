"""JSON Web Tokens: signed by an issuer that the settings name, whose public keys lie in a file.

Only what the settings allow is looked at: algorithms of public keys by a list, and a key is used for the
algorithm that it is for, whatever a token says of itself. What is wrong is said without anything out of the
token, since a caller need not know what he passes on.

A token that was good is known by its digest for as long as it lasts and the keys stay: to check a signature
costs as much as the rest of a call. One that is no good is checked each time, so nobody fills the room of
others.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import jwt

from modelkeep.exceptions import CredentialsInvalidException

from ._entries import EntryFile
from .principal import OWNER, ROLES, Principal

#: An issuer elsewhere cannot know whose files the suite's are.
_GIVEN: Final = ROLES - {OWNER}
#: What every token has to say.
#: A second beyond all that clocks show, and no more than a float holds.
_NEVER: Final = 1 << 53
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*").fullmatch
_MAX_SUBJECT: Final = 256
#: Good tokens that are remembered.
_MAX_KEPT: Final = 10_000
#: The claims by which tokens are denied.
_NAMING: Final = ("jti", "sub")

#: By the kind of a key, what algorithms it can be for. One that says "alg" is for that one alone.
_OF_KIND: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

#: Algorithm and ``kid`` (empty if it has none) to the key.
Keys: TypeAlias = Mapping[tuple[str, str], "jwt.PyJWK"]
#: Claims with the value that a denied token has: ``("jti", "…")``, ``("sub", "…")``.
Denied: TypeAlias = Set[tuple[str, str]]


class _Known(NamedTuple):
    """What a good token says.

    Attributes:
        principal: Whose it is.
        until: When it is over, as ``time.time()`` counts.
        names: By what it may be denied.
        keys: Those that it was checked with.
    """

    principal: Principal
    until: float
    names: frozenset[tuple[str, str]]
    keys: Keys


class JwtTokens:
    """The tokens of one issuer.

    Args:
        keys: Gives the issuer's public keys.
        issuer: The ``iss`` of its tokens.
        audience: What their ``aud`` must name.
        skew_s: Seconds by which its clock may differ.
        roles_claim: The claim with the roles; names of objects that it lies in stand before it, with dots.
        denied: Gives what is taken no longer.
    """

    def __init__(
        self,
        keys: Callable[[], Keys],
        *,
        issuer: str,
        audience: str,
        skew_s: float,
        roles_claim: str,
        denied: Callable[[], Denied] = frozenset,
    ) -> None:
        self._keys, self._denied = keys, denied
        #: By the token's SHA-256: tokens themselves are secrets.
        self._known: dict[bytes, _Known] = {}
        self._issuer, self._audience, self._skew_s = issuer, audience, skew_s
        self._claim = roles_claim

    def principal_of(self, token: str) -> Principal | None:
        """See :class:`modelkeep_common.auth.tokens.Tokens`."""
        if not _FORM(token):
            return None
        digest = hashlib.sha256(token.encode("ascii")).digest()
        known = self._known.get(digest)
        if known is None or known.until <= time.time() or known.keys is not self._keys():
            self._known.pop(digest, None)
            known = self._read(token)
            self._keep(digest, known)
        if not known.names.isdisjoint(self._denied()):
            raise _invalid("it was withdrawn")
        return known.principal

    def _keep(self, digest: bytes, known: _Known) -> None:
        if len(self._known) >= _MAX_KEPT:
            now = time.time()
            self._known = {key: one for key, one in self._known.items() if one.until > now}
            if len(self._known) >= _MAX_KEPT:
                self._known.clear()
        self._known[digest] = known

    def _read(self, token: str) -> _Known:
        keys = self._keys()
        claims = self._verified(token, keys)
        subject, roles = claims["sub"], self._roles_of(claims)
        if not subject or len(subject) > _MAX_SUBJECT or not subject.isprintable():
            raise _invalid(f"its subject (sub) must be 1 to {_MAX_SUBJECT} printable characters")
        if not roles:
            raise _invalid(
                f"its claim {self._claim} names none of the roles that this service knows: "
                f"{', '.join(sorted(_GIVEN))}"
            )
        if subject in ROLES - roles:
            # So are the suite's own callers called: nobody may share their limits, or seem to be one in logs.
            raise _invalid("its subject (sub) is the name of a role that it does not have")
        names = frozenset((name, claims[name]) for name in _NAMING if isinstance(claims.get(name), str))
        return _Known(Principal(subject, roles), min(int(claims["exp"]), _NEVER) + self._skew_s, names, keys)

    def _verified(self, token: str, keys: Keys) -> Mapping[str, Any]:
        try:
            key = _key_of(jwt.get_unverified_header(token), keys)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._skew_s,
                options={"require": list(_REQUIRED)},
            )
        except jwt.ExpiredSignatureError:
            raise _invalid("it has expired") from None
        except jwt.ImmatureSignatureError:
            raise _invalid("it is not good yet: compare this service's clock with its issuer's") from None
        except jwt.InvalidAudienceError:
            raise _invalid(f"it is for others (aud); this service wants one for {self._audience}") from None
        except jwt.InvalidIssuerError:
            raise _invalid(f"it is of others (iss); this service wants one of {self._issuer}") from None
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f"it has no claim {error.claim}") from None
        except jwt.InvalidSignatureError:
            raise _invalid("its signature is wrong") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise _invalid("it cannot be read") from None
        return claims

    def _roles_of(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """The roles that claims give; those that are none of this project are left out."""
        found: Any = claims
        names = [self._claim] if self._claim in claims else self._claim.split(".")
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        roles = found.split() if isinstance(found, str) else found if isinstance(found, list) else ()
        return frozenset(role for role in roles if isinstance(role, str)) & _GIVEN


def read_keys(path: Path, algorithms: Sequence[str]) -> Keys:
    """The public keys of an issuer. Blocks.

    Args:
        path: A JWKS file.
        algorithms: What a token may be signed with.

    Raises:
        UnusableError: It cannot be read, others could change it, or no key in it is for these algorithms.
    """
    file = EntryFile("jwt_jwks_file", path)
    keys: dict[tuple[str, str], jwt.PyJWK] = {}
    for place, said in enumerate(file.entries("keys", secret=False)):
        if not isinstance(said, dict):
            raise file.bad(f"entry {place} must be an object")
        if said.get("kty") == "oct":
            raise file.bad(f"entry {place} is a shared secret (oct): who checks tokens could make them")
        if "d" in said:
            raise file.bad(f"entry {place} is a private key: only its issuer may have that")
        for algorithm in _algorithms_of(said):
            if algorithm not in algorithms:
                continue
            try:
                key = jwt.PyJWK(said, algorithm)
            except (jwt.PyJWTError, ValueError, TypeError):
                raise file.bad(f"entry {place} is no public key that can be read") from None
            if key.Algorithm.check_key_length(key.key):
                raise file.bad(f"entry {place} is too short to be safe")
            name = (algorithm, str(said.get("kid", "")))
            if name in keys:
                raise file.bad(f"entry {place} has the algorithm and the kid of one before it")
            keys[name] = key
    if not keys:
        raise file.bad(f"it has no key for {' or '.join(algorithms)}, which jwt_algorithms allows")
    return keys


def read_denied(path: Path) -> frozenset[tuple[str, str]]:
    """What tokens are taken no longer. Blocks.

    ::

        {"denied": [{"jti": "0e9c…"}, {"sub": "somebody@example.org"}]}

    Raises:
        UnusableError: It cannot be read, others could change it, or it is of another form.
    """
    file = EntryFile("jwt_denied_file", path)
    denied = set[tuple[str, str]]()
    for place, said in enumerate(file.entries("denied", secret=False)):
        entry = file.keys_of(place, said, set(_NAMING))
        ((name, value), *more) = entry.items() or [("", "")]
        if more or not isinstance(value, str) or not value:
            raise file.bad(f'entry {place} must have either "jti" or "sub", as a text')
        denied.add((name, value))
    return frozenset(denied)


def _key_of(header: Mapping[str, Any], keys: Keys) -> Any:
    """The key that a token says it is signed with."""
    algorithm, kid = header.get("alg"), header.get("kid", "")
    fitting = {kid: key for (name, kid), key in keys.items() if name == algorithm}
    if not fitting:
        allowed = ", ".join(sorted({name for name, _ in keys}))
        raise _invalid(f"its algorithm (alg) is none of those that this service takes: {allowed}")
    if not kid and len(fitting) == 1:
        return next(iter(fitting.values()))
    if kid not in fitting:
        raise _invalid(
            "it is signed with a key (kid) that jwt_jwks_file does not have: if its issuer has a new "
            "one, have the operator of this service renew the file"
        )
    return fitting[kid]


def _algorithms_of(said: Mapping[str, Any]) -> tuple[str, ...]:
    """What a key signs with: none if it is for something else, or of a kind that is not known."""
    if said.get("use", "sig") != "sig":
        return ()
    able = _OF_KIND.get((str(said.get("kty")), str(said.get("crv", ""))), ())
    return tuple(name for name in able if said.get("alg", name) == name)


def _invalid(why: str) -> CredentialsInvalidException:
    return CredentialsInvalidException(
        f"The token is a JWT that this service does not take: {why}.",
        remedy="Have who issued it give another one.",
    )
