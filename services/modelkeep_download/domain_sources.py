"""Source strings: what is a URL, what is a secret in it, and what may be shown and stored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from modelkeep.exceptions import FieldInvalidException, FieldViolation

#: Query parameters that grant access: tokens, and the parts of signed URLs. Compared in lower case.
SECRET_PARAMETERS = frozenset(
    {
        *("token", "access_token", "auth_token", "api_key", "apikey", "api-key", "key", "secret", "password"),
        *("auth", "authorization", "sig", "signature", "policy", "key-pair-id", "hdnea", "jwt", "sas"),
        *("x-amz-signature", "x-amz-credential", "x-amz-security-token", "awsaccesskeyid"),
        *("x-goog-signature", "x-goog-credential", "googleaccessid"),
    }
)
#: Any parameter with one of these in its name counts as well: "private_token", "x-oss-signature".
_SECRET_PARTS = ("token", "secret", "signature", "password", "credential")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}\Z")
_MAX_URL = 8192


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A checked http(s) URL."""

    #: As it is asked for, with its secrets, without user information and fragment. In memory only.
    url: str
    #: Without secrets: what may be stored and shown.
    shown: str
    #: "user:password" of the URL, or empty.
    userinfo: str

    @property
    def has_secret(self) -> bool:
        """Whether `shown` is not enough to ask the source."""
        return bool(self.userinfo) or self.url != self.shown


def bad_source(description: str, field: str = "source") -> FieldInvalidException:
    """The error for a source that is malformed; `description` must not repeat the URL's secrets."""
    return FieldInvalidException("the source cannot be used", violations=[FieldViolation(field, description)])


def parse_url(text: str, field: str = "source") -> SourceUrl:
    """Check an http(s) URL and take its secrets apart.

    Raises:
        FieldInvalidException: Not http or https, no host, a bad port, blanks or control characters.
    """
    text = text.strip()
    if len(text) > _MAX_URL:
        raise bad_source(f"a URL has at most {_MAX_URL} characters", field)
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in text) or "\\" in text:
        raise bad_source("a URL has no blanks, control characters or backslashes", field)
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise bad_source("the URL's host or port is malformed", field) from error
    if parts.scheme not in ("http", "https"):
        raise bad_source("a URL begins with http:// or https://", field)
    if not host:
        raise bad_source("the URL names no host", field)
    if ":" in host:
        netloc = f"[{host}]"
    else:
        try:
            netloc = host if host.isascii() else host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise bad_source("the URL's host is no valid name", field) from error
        if not _HOST.match(netloc):
            raise bad_source("the URL's host has characters that no host name has", field)
    if port is not None:
        if port == 0:
            raise bad_source("port 0 is no port", field)
        netloc = f"{netloc}:{port}"
    userinfo = ""
    if "@" in parts.netloc:
        userinfo = unquote(parts.netloc.rpartition("@")[0])
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._") or "/"
    query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]|")
    url = urlunsplit((parts.scheme, netloc, path, query, ""))
    return SourceUrl(url, redact(url), userinfo)


def redact(url: str) -> str:
    """The URL without user information, fragment, and the values of secret query parameters."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    kept = []
    for pair in re.split("([&;])", parts.query):  # some servers take a semicolon for an ampersand
        name, equals, _ = pair.partition("=")
        kept.append(f"{name}=REDACTED" if equals and _is_secret(unquote(name).lower()) else pair)
    return urlunsplit((parts.scheme, netloc, parts.path, "".join(kept), ""))


def _is_secret(name: str) -> bool:
    return name in SECRET_PARAMETERS or any(part in name for part in _SECRET_PARTS)


def without_query(url: str) -> str:
    """The URL without user information, query and fragment: signed addresses keep no signature."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def looks_like_url(source: str) -> bool:
    """Whether a source string means a URL rather than a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source.strip()) is not None


def check_token(token: str) -> None:
    """Make sure that a token can stand in a header; empty is none.

    Raises:
        FieldInvalidException: It has blanks, line ends, or characters that are not ASCII.
    """
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise FieldInvalidException(
            "the access token cannot be used",
            violations=[FieldViolation("access_token", "has blanks, line ends or characters beyond ASCII")],
        )


def check_sha256(text: str) -> str:
    """The expected hash in lower case; "sha256:" in front is allowed. Empty stays empty.

    Raises:
        FieldInvalidException: Not 64 hexadecimal digits.
    """
    digest = text.strip().lower().removeprefix("sha256:")
    if digest and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise FieldInvalidException(
            "the expected hash cannot be used",
            violations=[FieldViolation("expected_sha256", "a SHA-256 has 64 hexadecimal digits")],
        )
    return digest
