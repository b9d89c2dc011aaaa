"""URLs as sources: what of one is a secret, and what may be stored and shown."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from modelkeep.exceptions import FieldInvalidException, FieldViolation

#: Query parameters that grant access, in lower case: tokens, and the parts of signed URLs.
SECRET_PARAMETERS = frozenset(
    {
        *("token", "access_token", "auth_token", "api_key", "apikey", "api-key", "key", "secret", "password"),
        *("auth", "authorization", "sig", "signature", "policy", "key-pair-id", "hdnea", "jwt", "sas"),
        *("x-amz-signature", "x-amz-credential", "x-amz-security-token", "awsaccesskeyid"),
        *("x-goog-signature", "x-goog-credential", "googleaccessid"),
    }
)


@dataclass(frozen=True, slots=True)
class SplitUrl:
    """A URL without its secrets, and whether it had any."""

    shown: str
    has_secret: bool


def split_secrets(url: str) -> SplitUrl:
    """Takes user information, fragment and secret parameters out of a URL; the host in lower case.

    Raises:
        FieldInvalidException: It is no http or https address.
    """
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
        _ = parts.port  # a malformed one raises
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise FieldInvalidException(
            "source.url is no http or https address.",
            violations=[FieldViolation("source.url", "must begin with http:// or https:// and name a host")],
        )
    userinfo, at, netloc = parts.netloc.rpartition("@")
    kept = []
    hidden = bool(at and userinfo)
    for pair in parts.query.split("&") if parts.query else []:
        name, equals, _value = pair.partition("=")
        if equals and unquote(name).lower() in SECRET_PARAMETERS:
            hidden = True
        else:
            kept.append(pair)
    return SplitUrl(urlunsplit((parts.scheme, netloc.lower(), parts.path or "/", "&".join(kept), "")), hidden)
