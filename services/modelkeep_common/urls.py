"""Addresses: how one is checked and taken apart, what in it is a secret, and how it is shown.

The only place that knows either. What is shown errs on the side of hiding: of a query and of `name=value`
in a path only values under names known to be harmless are told, of any other at most three characters.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit, urlunsplit

from modelkeep.exceptions import FieldInvalidException, FieldViolation

#: Stands where a secret stood.
HIDDEN = "REDACTED"

#: A name with one of these in it, blanks and signs aside, names a secret, in an address as in a text.
_SECRET_PARTS = (
    *("token", "secret", "signature", "password", "passwd", "passphrase", "credential", "apikey"),
    *("authkey", "accesskey", "privatekey", "accountkey", "authorization", "sessid", "sessionid"),
    *("cookie", "bearer"),
)
#: A name with one of these as a whole word does so too, though only in an address.
_SECRET_WORDS = frozenset(
    {
        *("key", "auth", "oauth", "pass", "pwd", "pw", "pin", "otp", "code", "sig", "sign", "sid"),
        *("session", "sess", "jwt", "sas", "pat", "mac", "hmac", "ticket", "policy", "hdnea"),
        *("hdnts", "hdntl", "cred", "creds", "login", "user", "username", "googleaccessid"),
        *("awsaccesskeyid", "rlkey", "nonce", "phpsessid"),
    }
)
#: Names whose values tell which object is meant, and open nothing.
_HARMLESS = frozenset(
    {
        *("id", "ids", "modelid", "model_id", "modelversionid", "versionid", "version_id", "fileid"),
        *("file_id", "version", "v", "revision", "rev", "ref", "branch", "tag", "commit"),
        *("generation", "author", "owner", "repo", "repository", "model", "name", "filename", "file"),
        *("path", "dir", "folder", "subfolder", "type", "format", "size", "fp", "variant", "quant"),
        *("precision", "dtype", "download", "dl", "raw", "inline", "attachment", "export", "alt"),
        *("lang", "language", "page", "limit", "offset", "sort", "order", "q", "query"),
        *("search", "filter", "date", "dt", "year", "month", "day", "region", "bucket", "part"),
    }
)
#: Names, signs aside, whose values open what is asked for and never choose it: of two addresses that differ
#: in these only, one is the other with a fresh credential. Any other hidden value may name an object.
_CREDENTIALS = frozenset(
    {
        *(f"{of}token" for of in ("", "access", "auth", "oauth", "private", "job", "security", "session")),
        *(f"{of}token" for of in ("refresh", "bearer", "api", "user", "deploy", "download", "hf", "id")),
        *("authorization", "bearer", "jwt", "sig", "signature", "hmac", "secret", "clientsecret"),
        *("secretkey", "password", "passwd", "passphrase", "pwd", "otp", "nonce", "apikey", "authkey"),
        *("accesskey", "accesskeyid", "awsaccesskeyid", "ossaccesskeyid", "googleaccessid", "privatekey"),
        *("accountkey", "keypairid", "sas", "hdnea", "hdnts", "hdntl", "sessionid", "sessid", "phpsessid"),
        *("jsessionid", "cookie", "credential", "expires", "qsignalgorithm", "qak", "qsigntime"),
        *("qkeytime", "qheaderlist", "qurlparamlist", "qsignature"),
        *(
            f"x{of}{name}"
            for of in ("amz", "goog", "oss", "obs", "tos", "cos")
            for name in (
                *("algorithm", "credential", "date", "expires", "signedheaders", "signature"),
                *("securitytoken", "signatureversion", "additionalheaders", "contentsha256"),
            )
        ),
    }
)
#: Names that are as sure of themselves only in a query that has a signature.
_BESIDE_SIGNATURE = frozenset(
    {
        *("exp", "expire", "expiry", "policy", "se", "st", "sp", "sv", "sr", "spr", "skoid", "sktid"),
        *("ske", "skt", "sks", "skv", "e"),
    }
)
_SIGNATURES = frozenset({"sig", "signature", "hmac", "sign"})
#: Stands where a credential stood, in what is hashed; no address has such a character.
_GONE = "\0"
#: Of this process alone: what it makes means nothing to any other, nor after a restart.
_MARK_KEY = secrets.token_bytes(32)
#: What credentials of well-known services look like, wherever they stand.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{8,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[a-z]-[\w-]{10,}|sk-(?:proj-|ant-)?[A-Za-z0-9]{20,}|A[KS]IA[A-Z0-9]{12,}|AIza[\w-]{30,}"
    r"|ya29\.[\w.-]{16,}|eyJ[\w-]{8,400}\.[\w-]{4,}(?:\.[\w-]*)?)"
)
#: Parts of paths that are credentials: of bots, of webhooks, of signed pictures.
_SECRET_PATH = re.compile(
    r"(?<=/bot)\d+:[\w-]{20,}|(?<=/services/)T\w+/B\w+/\w+|(?<=/webhooks/)\d+/[\w-]{20,}|(?<=/)s--[\w-]{8,}--(?=/)"
)
_PARTS = re.compile(  # RFC 3986, appendix B, for schemes before a slash; fits every text
    r"(?:([A-Za-z][A-Za-z0-9+.-]*):(?=/))?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL
)
_IS_ADDRESS = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//|[A-Za-z][A-Za-z0-9+.-]+:/|[^/.\s][^?\s]*\?\S*=|[^/\s:@]+:[^/\s@]+@"
)
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f-\x9f\ud800-\udfff\\]")
_CONTROL = re.compile(r"[\x00-\x1f]")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}\Z")
_AUTHORITY = re.compile(r"[\w.-]*(?::\d{0,5})?|\[[0-9A-Fa-f:.]*\](?::\d{0,5})?")
_NAME = re.compile(r"[\w.\-\[\]$ ]{1,40}")
_PLAIN_VALUE = re.compile(r"[\w.\-+,:/()\[\]| ]*")
_SHORT = 3
_MAX_URL = 8192

_ADDRESS = r"\b[a-z][a-z0-9+.-]{0,20}:(?://|\\\\)[^\s\"'<>`]+"
_ADDRESS_IN_TEXT = re.compile(_ADDRESS, re.IGNORECASE)
_IN_TEXT = re.compile(
    rf"(?i)(?P<url>{_ADDRESS})"
    r"|(?P<user>//)[^\s/@\"']*:[^\s/@\"']*@"
    r"|(?P<head>\b(?:proxy-)?authorization\b[\"']?\s*[:=]\s*|\b(?:set-)?cookie2?\b[\"']?\s*:\s*)[^\r\n]+"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[^\s\"',;]+"
    r"|(?P<pair>[?&;][^\s=&;?\"']{1,100}=)[^&\s\"']+"
    r"|(?P<named>(?<![\w-])[\w-]*(?:token|secret|signature|passw(?:or)?d|passphrase|credentials?"
    r"|(?:api|auth|access|private|account)[-_]?key|sess(?:ion)?[-_]?id|pwd)[\"']?\s*[:=]\s*)"
    r"(?P<value>\"[^\"\r\n]*\"?|'[^'\r\n]*'?|[^\s\"',;&}]+)"
)


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A checked http(s) URL. Its repr has no secrets."""

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

    @property
    def mark(self) -> bytes:
        """Equal for two addresses that name the same object, whatever their credentials; see `mark_of`."""
        return mark_of(self.url)

    def __repr__(self) -> str:
        return f"SourceUrl({self.shown!r})"


class Origin(NamedTuple):
    """Who is asked: scheme, host (an IPv6 address without brackets) and port."""

    scheme: str
    host: str
    port: int


def parse_url(text: str, field: str = "source") -> SourceUrl:
    """Check an http(s) URL and take its secrets apart.

    Raises:
        FieldInvalidException: Not http or https, no host, a bad port, blanks or control characters.
    """
    text = text.strip()
    if len(text) > _MAX_URL:
        raise _malformed(f"a URL has at most {_MAX_URL} characters", field)
    if _NOT_IN_URL.search(text):
        raise _malformed("a URL has no blanks, control characters or backslashes", field)
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise _malformed("the URL's host or port is malformed", field) from None
    if parts.scheme == "file":
        raise _malformed("what lies on a disk is named by its path, not by a URL", field)
    if parts.scheme not in ("http", "https"):
        raise _malformed("a URL begins with http:// or https://", field)
    if not host:
        raise _malformed("the URL names no host", field)
    netloc = f"[{host}]" if ":" in host else _ascii_host(host, field)
    if port is not None:
        if port == 0:
            raise _malformed("port 0 is no port", field)
        netloc = f"{netloc}:{port}"
    userinfo = unquote(parts.netloc.rpartition("@")[0]) if "@" in parts.netloc else ""
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._") or "/"
    query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]|")
    url = urlunsplit((parts.scheme, netloc, path, query, ""))
    return SourceUrl(url, shown(url), userinfo)


def page_violations(text: str, field: str) -> Sequence[FieldViolation]:
    """What keeps a text from being the address of a page; nothing if it is one, or empty."""
    try:
        if text:
            parse_url(text, field)
    except FieldInvalidException as error:
        return error.violations
    return ()


def _ascii_host(host: str, field: str) -> str:
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise _malformed("the URL's host is no valid name", field) from None
    if not _HOST.match(name):
        raise _malformed("the URL's host has characters that no host name has", field)
    return name


def _malformed(description: str, field: str) -> FieldInvalidException:
    # Never from the error that told: its text may quote the address.
    return FieldInvalidException("the source cannot be used", violations=[FieldViolation(field, description)])


def redirected(url: str, target: str) -> SourceUrl:
    """The address that a redirect from a checked URL leads to.

    Raises:
        FieldInvalidException: It leads to no http(s) address.
    """
    try:
        return parse_url(urljoin(url, target), "location")
    except ValueError:  # urljoin has its own idea of brackets
        raise _malformed("the redirect is malformed", "location") from None


def origin_of(url: str) -> Origin:
    """Whom a checked URL asks; the default port where it names none."""
    parts = urlsplit(url)
    return Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def authority_of(url: str) -> str:
    """Host and port of a checked URL as it has them: the value of a Host header."""
    return urlsplit(url).netloc


def request_target(url: str) -> str:
    """Path and query of a checked URL: what a request line asks for."""
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def last_component(url: str) -> str:
    """The last component of a URL's path, percent-decoded, without matrix parameters; may be empty.

    Of a component that is a whole key of an object store (`models%2Fvae%2Fx.bin`) the last part.
    """
    path = _split(url)[2]
    return unquote(path.rpartition("/")[2].partition(";")[0]).rpartition("/")[2].strip()


def unescaped(text: str) -> str:
    """A text percent-decoded as UTF-8.

    Raises:
        UnicodeError: What is encoded is no UTF-8.
    """
    return unquote(text, errors="strict")


def without_query(url: str) -> str:
    """The URL as it is shown, without its query: signed addresses keep no signature."""
    return shown(url).partition("?")[0]


def hidden_parts(url: str) -> list[str]:
    """What of a URL's query is not shown, as it is written and decoded: for texts that may repeat it."""
    told = shown(url)
    pieces = {piece for piece in re.split("[&;=]", _split(url)[3] or "") if len(piece) > _SHORT}
    hidden = {piece for piece in pieces if piece not in told}
    return sorted(hidden | {unquote(piece) for piece in hidden})


def path_of_file_url(text: str, field: str = "source") -> str:
    """The path that a file:// address names.

    Raises:
        FieldInvalidException: It is another host's, or malformed.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        raise _malformed("the address is malformed", field) from None
    if parts.netloc.lower() not in ("", "localhost"):
        raise _malformed("a file:// address names a path of this host alone: file:///path", field)
    return unquote(parts.path)


def token_apart(text: str) -> tuple[str, str]:
    """An address without the token that is written into it (`token=`, or user information), and the token.

    Only for a hub, where it opens what the rest names and chooses nothing. Other texts stay as they are.
    """
    try:
        parts = urlsplit(text.strip())
    except ValueError:
        return text, ""
    if not is_address(text):
        return text, ""
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    kept = [pair for pair in pairs if pair[0].lower() != "token"]
    query = parts.query if len(kept) == len(pairs) else urlencode(kept)
    userinfo, _, host = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    token = next((value for pair in pairs if pair not in kept for value in pair[1:]), "")
    return urlunsplit(parts._replace(netloc=host, query=query)), token or unquote(password or user)


def is_address(text: str) -> bool:
    """Whether a source string means an address rather than a local path or a repository's name."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text.strip()) is not None


def shown(text: str) -> str:
    """A source without its secrets: what may be stored, logged and answered.

    Takes any text, malformed addresses too, and raises nothing. Paths and names of repositories stay as
    they are. Doing it twice changes nothing more.
    """
    plain = _CONTROL.sub("", text).strip().replace("\\", "/")
    if not _IS_ADDRESS.match(plain):
        return _TOKEN.sub(HIDDEN, text)
    scheme, authority, path, query = _split(plain)
    authority = None if authority is None else authority.rpartition("@")[2]
    if authority and not _AUTHORITY.fullmatch(authority):
        authority = HIDDEN
    host = ("" if scheme is None else f"{scheme}:") + ("" if authority is None else f"//{authority}")
    return host + _shown_path(path) + ("" if not query else f"?{_shown_query(query)}")


def mark_of(source: str) -> bytes:
    """What tells apart two sources of one shown form: a hash of all but their credentials.

    Only for the memory of this process, whose random key it is made with. 32 bytes.
    """
    return hmac.digest(_MARK_KEY, _without_credentials(source).encode(errors="surrogatepass"), hashlib.sha256)


def has_credentials(url: str) -> bool:
    """Whether a checked URL brings credentials of its own: a token, or a signature."""
    return _GONE in _without_credentials(url)


def may_hide_objects(shown_url: str) -> bool:
    """Whether an address, as it is shown, may stand for several objects: more than credentials are hidden."""
    return HIDDEN in _without_credentials(shown_url)


def redact(text: str) -> str:
    """A text for a log or a message, without what looks like a credential in it."""
    return _TOKEN.sub(HIDDEN, _IN_TEXT.sub(_redacted, text))


def shown_addresses(text: str) -> str:
    """A text that somebody wrote, to be kept: its addresses without their secrets, its words as they are."""
    return _TOKEN.sub(HIDDEN, _ADDRESS_IN_TEXT.sub(lambda match: shown(match[0]), text))


def is_credential(name: str) -> bool:
    """Whether a field of this name holds what opens something, and nothing else."""
    compact = _compact(name)
    return compact in _CREDENTIALS and compact != "expires"


def is_secret_name(name: str) -> bool:
    """Whether a parameter, a header or a setting of this name holds what opens something."""
    plain = _decoded(name)
    compact = _compact(name)
    words = re.split(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])", plain)
    return any(part in compact for part in _SECRET_PARTS) or any(w.lower() in _SECRET_WORDS for w in words)


def _without_credentials(url: str) -> str:
    scheme, authority, path, query = _split(url)
    origin = ("" if scheme is None else f"{scheme}:") + ("" if authority is None else f"//{authority}")
    names = (_compact(pair.partition("=")[0]) for pair in re.split("[&;]", query or "") if "=" in pair)
    signed = any(name in _SIGNATURES or "signature" in name for name in names)
    path = _without_values("([/;&~])", path, signed=signed)
    return origin + path + ("" if query is None else f"?{_without_values('([&;])', query, signed=signed)}")


def _without_values(between: str, text: str, *, signed: bool) -> str:
    pieces = re.split(between, text)
    for at in range(0, len(pieces), 2):
        name, equals, _ = pieces[at].partition("=")
        plain = _compact(name) if equals else ""
        if plain in _CREDENTIALS or (signed and plain in _BESIDE_SIGNATURE):
            pieces[at] = f"{name}={_GONE}"
    return "".join(pieces)


def _redacted(match: re.Match[str]) -> str:
    if match["url"]:
        return shown(match["url"])
    if match["user"]:
        return f"//{HIDDEN}@"
    if match["pair"]:
        name = match["pair"][1:-1]
        return match["pair"] + HIDDEN if is_secret_name(name) else match[0]
    return (match["head"] or match["scheme"] or match["named"]) + HIDDEN


def _split(text: str) -> tuple[str | None, str | None, str, str | None]:
    match = _PARTS.fullmatch(text)
    assert match is not None, "the pattern fits every text"
    return match[1], match[2], match[3], match[4]


def _shown_path(path: str) -> str:
    segments = _SECRET_PATH.sub(HIDDEN, path).split("/")
    last = len(segments) - 1
    for at in range(last, 0, -1):
        is_file = at == last and "." in segments[at]
        named = _compact(segments[at - 1]) in _CREDENTIALS and len(segments[at]) > _SHORT and not is_file
        segments[at] = HIDDEN if named else _shown_segment(segments[at])
    return "/".join([_shown_segment(segments[0]), *segments[1:]])


def _shown_segment(segment: str) -> str:
    plain = _decoded(segment)
    name, colon, _ = plain.partition(":")
    if colon and _compact(name) in _CREDENTIALS:
        return HIDDEN
    if plain != segment and (_TOKEN.search(plain) or ("=" in plain and "=" not in segment)):
        return HIDDEN
    before, at, after = _TOKEN.sub(HIDDEN, segment).rpartition("@")
    segment = f"{HIDDEN}@{after}" if ":" in before else before + at + after
    return _shown_pairs(segment, "([;&~])", in_path=True) if re.search("[=;]", segment) else segment


def _shown_query(query: str) -> str:
    return _shown_pairs(query, "([&;])", in_path=False)  # some servers take a semicolon for an ampersand


def _shown_pairs(text: str, between: str, *, in_path: bool) -> str:
    pieces = re.split(between, text)
    for at in range(0, len(pieces), 2):
        if in_path and at == 0 and "=" not in pieces[0]:
            continue  # the name that the parameters belong to
        goes_on = at > 0 and pieces[at - 1] == ";" and HIDDEN in pieces[at - 2]
        pieces[at] = _shown_pair(pieces[at], goes_on=goes_on)
    return "".join(pieces)


def _shown_pair(pair: str, *, goes_on: bool) -> str:
    """`name=value`, or a bare word, which `goes_on` where a hidden value may have had a semicolon in it."""
    name, equals, value = pair.partition("=")
    plain, content = _decoded(name), _decoded(value)
    if not equals:
        told = not goes_on and (len(name) <= _SHORT or plain.lower() in _HARMLESS)
        return pair if told or not name else HIDDEN
    if not _NAME.fullmatch(plain) or _TOKEN.search(plain):
        return f"{HIDDEN}={HIDDEN}"
    harmless = plain.lower() in _HARMLESS and _PLAIN_VALUE.fullmatch(content) and "//" not in content
    short = len(value) <= _SHORT and not is_secret_name(plain)
    return pair if not value or short or (harmless and redact(content) == content) else f"{name}={HIDDEN}"


def _compact(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _decoded(name).lower())


def _decoded(text: str) -> str:
    """Percent-decoded as often as it takes, within reason: a proxy may decode once more than its server."""
    for _ in range(4):
        before, text = text, unquote(text)
        if before == text:
            break
    return text
