"""What a source that serves no file says of it: its own sentence, and which of the known kinds it is. Pure.

The words come from whoever answers: they are cut, cleaned of control characters and of what looks like a
secret, and shown in quotation marks. Kinds are told by status, by the codes that registries send, by words.
"""

from __future__ import annotations

import http
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from modelkeep.contents import MAX_QUOTE, TEXTS, Content, Kind, content_of, is_in_place_of, said
from modelkeep.exceptions import (
    AddressExpiredException,
    EarlyAccessException,
    LicenseNotAcceptedException,
    ModelkeepError,
    NotAModelFileException,
    PurchaseRequiredException,
    SourceDisabledException,
    SourceNotFoundException,
    TokenRejectedException,
    TokenRequiredException,
)
from modelkeep_common.urls import HIDDEN, redact
from modelkeep_download.domain.credentials import CredentialKind
from modelkeep_download.domain.retry import TransientError, is_transient

#: Bytes of a refusal's body that are worth reading.
MAX_BODY_BYTES = 16 * 1024
#: Media types of pages for people.
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
#: Suffixes of small files beside a model, which are texts.
_TEXT_SUFFIXES = (".json", ".txt", ".md", ".yaml", ".yml", ".jinja", ".bpe", ".py")

_LICENSE = re.compile(
    r"licen[cs]e|terms of|\bagree(?:d|ments?)?\b|\bgated\b|authori[sz]ed list|ask for access|request access"
    r"|accept(?:ed)? (?:the|its|these|our)|share your contact|access to (?:model|dataset|this) .*restricted",
    re.IGNORECASE | re.DOTALL,
)
_EARLY = re.compile(r"early[ -]?access", re.IGNORECASE)
_PURCHASE = re.compile(
    r"\bpurchas|\bbuy\b|\bpay(?:wall|ments?)?\b|\bpaid\b|subscri(?:be|ption)|\bmembers? only\b", re.IGNORECASE
)
_EXPIRED = re.compile(
    r"expired|has run out|signature (?:does not|doesn.t) match|SignatureDoesNotMatch|no longer valid",
    re.IGNORECASE,
)
_LOGIN = re.compile(
    r"log(?:ged)?[ -]?in|sign(?:ed)? in|authenticat|api[ -]?key|(?:access|bearer) token|unauthori[sz]ed",
    re.IGNORECASE,
)
_DEADLINE = re.compile(r'"deadline"\s*:\s*"([^"]{1,60})"')
_NO_SUCH_KEY = re.compile(r"<Code>(?:NoSuchKey|NoSuchBucket|BlobNotFound|ContainerNotFound)</Code>")
#: Said of what is there and given to nobody.
_DISABLED = re.compile(
    r"\barchived\b|\btak(?:en|e)[ -]?down\b|\bDMCA\b|resource is disabled|repository is disabled"
    r"|disabled downloads|downloads? (?:is|are|(?:has|have) been) disabled",
    re.IGNORECASE,
)
_OF_DISABLED = frozenset({401, 403, 404, 410, 451})
_ABSENT_CODES = frozenset({"RepoNotFound", "EntryNotFound", "RevisionNotFound"})
#: Kinds of bodies whose every word is about the refusal; a web page has links to its terms and its log-in.
_IN_WORDS = frozenset({Kind.JSON, Kind.XML, Kind.TEXT})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is neither a file nor a redirect."""

    status: int
    #: Whoever answers.
    host: str
    #: Its own words, cut and cleaned; may be empty.
    sentence: str = ""
    #: Its code for the reason (`GatedRepo`, `RepoNotFound`); may be empty.
    code: str = ""
    #: All that it says, for looking at, never for showing.
    words: str = field(default="", repr=False)
    #: Until when, as it says; may be empty.
    deadline: str = ""
    #: Seconds that it asks to wait, or None.
    retry_after: float | None = None
    #: The proxy that it came through; may be empty.
    via: str = ""

    @property
    def answers(self) -> str:
        """The beginning of a message."""
        return f"{self.host} answers {self.status}" + (f" through the proxy {self.via}" if self.via else "")

    @property
    def quoted(self) -> str:
        """The end of a message: what it says, if anything."""
        return f' and says "{self.sentence}"' if self.sentence else ""


@dataclass(frozen=True, slots=True)
class Asked:
    """How a source was asked."""

    #: Whether it is the source's own host that answers, the only one that saw a token.
    at_source: bool = True
    #: What it was shown.
    shown: CredentialKind = CredentialKind.NONE
    #: Whether the same address has served bytes of the object before.
    worked: bool = False
    #: What `modelkeep auth login` keeps a token for the source under; may be empty.
    kept_under: str = ""

    @property
    def had_token(self) -> bool:
        """Whether it was shown any."""
        return self.shown is not CredentialKind.NONE


def read_refusal(
    status: int,
    host: str,
    header: Callable[[str], str | None],
    body: bytes,
    *,
    secrets: Collection[str] = (),
    retry_after: float | None = None,
    via: str = "",
) -> Refusal:
    """What an answer says of its reason.

    Args:
        status: The HTTP status.
        host: Who answers.
        header: Gives the value of a header field.
        body: The beginning of the body.
        secrets: What must not be shown, though the answer may repeat it.
        retry_after: Seconds that the answer asks to wait, if any.
        via: The proxy that it came through, if any.
    """
    body = without(secrets, body)
    content = content_of(body)
    text = body.decode("utf-8", "replace") if content.kind in _IN_WORDS else ""
    sentence = clean(_latin(header("X-Error-Message") or "") or said(body), secrets)
    deadline = _DEADLINE.search(text)
    return Refusal(
        status,
        host,
        "" if _says_nothing(status, sentence) else sentence,
        code=clean(header("X-Error-Code") or "", secrets),
        words=f"{sentence} {text}",
        deadline=clean(deadline[1], secrets) if deadline else "",
        retry_after=retry_after,
        via=via,
    )


def without(secrets: Iterable[str | None], body: bytes) -> bytes:
    """What a source sent, without what must not be shown: before anything is cut."""
    for secret in filter(None, secrets):
        body = body.replace(secret.encode(), HIDDEN.encode())
    return body


def is_no_file(content: Content, content_type: str, name: str) -> bool:
    """Whether what comes is something else in place of the file of this name: a page, an error, a pointer."""
    # What the bytes are known to be counts for more than what they are called, and a page has words.
    wordless = content.kind in (Kind.JSON, Kind.TEXT) and not any(c.isalpha() for c in content.quote)
    is_text_file = wordless and name.lower().endswith(_TEXT_SUFFIXES)
    is_page = content_type in HTML_TYPES and content.kind in (*TEXTS, Kind.UNKNOWN) and not is_text_file
    return is_page or is_in_place_of(content, name)


def other_content(
    host: str, content: Content, content_type: str, secrets: Collection[str] = ()
) -> NotAModelFileException:
    """The error for an answer of success that holds something else than the file."""
    quote = clean(content.quote, secrets)
    what, advice = content.what.replace(content.quote, quote) if quote else content.what, content.advice
    advice = f"{advice[:1].upper()}{advice[1:]}." if advice else ""
    if content_type in HTML_TYPES and content.kind is not Kind.WEB_PAGE:
        what = "what it calls a web page"
    if content_type in HTML_TYPES or content.kind is Kind.WEB_PAGE:
        advice = "Take the file's own link, or give a token if the page asks to log in."
    if what == "empty" or what.startswith("compressed"):
        what = f"what is {what}"
    facts = {"host": host, "content_type": content_type, "said": quote}
    instead = "" if content.kind is Kind.LFS_POINTER else " in place of a file"
    return NotAModelFileException(
        f"{host} serves {what}{instead}.",
        metadata={name: text for name, text in facts.items() if text or name == "content_type"},
        remedy=advice,
    )


def error_of(refusal: Refusal, asked: Asked) -> Exception:
    """The exception that a refusal stands for: TransientError, or one that does not pass."""
    status, host = refusal.status, refusal.host
    if is_transient(status):
        return TransientError(f"{refusal.answers}{refusal.quoted}", refusal.retry_after, status=status)
    if not asked.at_source and status in (400, 401, 403):
        # A storage host behind a redirect: its signed address has run out. Ask the source anew.
        text = f"{refusal.answers} to the address that the source gave{refusal.quoted}"
        return TransientError(text, status=status)
    kind, because, remedy = _kind(refusal, asked)
    facts = {"host": host, "status": str(status), "said": refusal.sentence}
    if refusal.deadline:
        facts["deadline"] = refusal.deadline
    if kind is AddressExpiredException:
        facts["needs"] = "source_url"
    if kind is TokenRejectedException:
        facts["credential"] = asked.shown.value
    if kind is TokenRequiredException:
        facts["kept_under"] = asked.kept_under or host
    return kind(
        f"{refusal.answers}{refusal.quoted}: {because}.",
        metadata={name: text for name, text in facts.items() if text},
        remedy=remedy,
    )


def _kind(refusal: Refusal, asked: Asked) -> tuple[type[ModelkeepError], str, str]:
    """The kind of a refusal, what it means, and what to do about it."""
    status, words = refusal.status, refusal.words
    if refusal.code == "DisabledRepo" or (status in _OF_DISABLED and _DISABLED.search(words)):
        return SourceDisabledException, "it gives this to nobody", ""
    if refusal.code in _ABSENT_CODES or status in (404, 410) or _NO_SUCH_KEY.search(words):
        private = "Look at its name; if it is private, give an access token."
        return SourceNotFoundException, "there is no such file", private if status in (401, 403) else ""
    if status not in (400, 401, 402, 403, 407, 451):
        return SourceNotFoundException, "it serves no file there", ""
    if _EARLY.search(words):
        until = f" (until {refusal.deadline})" if refusal.deadline else ""
        return (
            EarlyAccessException,
            f"the file is in early access{until}",
            "Buy access at the source and give that account's access token, or wait until it is free.",
        )
    if status == 402 or _PURCHASE.search(words):
        return (
            PurchaseRequiredException,
            "the file is for sale",
            "Buy it at the source, then give that account's access token.",
        )
    if refusal.code == "GatedRepo" or (_LICENSE.search(words) and not _EXPIRED.search(words)):
        return (
            LicenseNotAcceptedException,
            "the file is given only to those who accepted its terms",
            "Accept them on the model's own page, then give an access token of the account that did.",
        )
    if status == 451:
        return SourceNotFoundException, "it may not serve the file, for legal reasons", ""
    return _about_access(refusal, asked, words)


def _about_access(refusal: Refusal, asked: Asked, words: str) -> tuple[type[ModelkeepError], str, str]:
    status = refusal.status
    ran_out = asked.worked and status != 401 and not _LOGIN.search(words)
    if not asked.had_token and (ran_out or _EXPIRED.search(words)):
        return (
            AddressExpiredException,
            "the address has probably run out",
            "Get a new address of the same file, and give it to the same job: import it again, or start the"
            " download with it as source_url. What is there is kept.",
        )
    if status == 400:
        return SourceNotFoundException, "it serves no file there", ""
    if asked.had_token:
        return (
            TokenRejectedException,
            f"it refuses {asked.shown.named}",
            "Check that it is valid and may read the file, or"
            f" {asked.shown.another(asked.kept_under or refusal.host)}.",
        )
    return (
        TokenRequiredException,
        "it wants an access token"
        + ("" if status == 401 or _LOGIN.search(words) else ", or serves this file to nobody"),
        "Give an access token of the source, or keep one for it:"
        f" modelkeep auth login {asked.kept_under or refusal.host}.",
    )


def clean(text: str, secrets: Collection[str] = ()) -> str:
    """A stranger's words on one line: cut, without control characters, quotation marks and secrets."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    plain = redact(" ".join(plain.split())).replace('"', "'")
    return plain if len(plain) <= MAX_QUOTE else f"{plain[: MAX_QUOTE - 1].rstrip()}…"


def _says_nothing(status: int, text: str) -> bool:
    """Whether words only repeat what the status means."""
    try:
        phrase = http.HTTPStatus(status).phrase.lower()
    except ValueError:
        phrase = ""
    plain = re.sub(r"[^a-z ]", "", text.lower()).strip()
    return plain in ("", "error", phrase, f"error {phrase}")


def _latin(text: str) -> str:
    """A header's text, which is read as Latin-1, though many send UTF-8."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
