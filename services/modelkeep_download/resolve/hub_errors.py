"""What Hugging Face's refusals mean, and what to do about each. Pure.

The hub answers 401 for repositories that are missing and for those that are private: it does not tell which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from modelkeep.exceptions import (
    LicenseNotAcceptedException,
    ModelkeepError,
    RateLimitedException,
    SourceDisabledException,
    SourceNotFoundException,
    TokenRejectedException,
    TokenRequiredException,
)
from modelkeep_common.urls import origin_of
from modelkeep_download.domain.credentials import CredentialKind
from modelkeep_download.domain.refusals import Asked, Refusal, error_of
from modelkeep_download.domain.retry import TransientError

_BAD_TOKEN: Final = re.compile(
    r"invalid (?:user )?(?:credentials|access token|token)|token .*expired", re.IGNORECASE
)
_BAD_LOGIN: Final = re.compile(r"invalid username or password", re.IGNORECASE)
_PENDING: Final = re.compile(r"await|pending|under review", re.IGNORECASE)
_DECLINED: Final = re.compile(r"reject|declin|denied", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class About:
    """What was asked for."""

    repo: str
    endpoint: str
    #: What the hub was shown.
    shown: CredentialKind = CredentialKind.NONE
    #: What `modelkeep auth login` keeps a token for the hub under.
    kept_under: str = ""
    revision: str = ""
    path: str = ""

    @property
    def had_token(self) -> bool:
        """Whether it was shown any."""
        return self.shown is not CredentialKind.NONE

    @property
    def page(self) -> str:
        """Where people read about it."""
        return f"{self.endpoint}/{self.repo}"


def transient(refusal: Refusal) -> TransientError:
    """The error for an answer that may be another one later."""
    text = f"{refusal.answers}{refusal.quoted}"
    if refusal.status != 429:
        return TransientError(text, refusal.retry_after, status=refusal.status)
    final = RateLimitedException(
        f"{text}: it has answered too many requests.",
        metadata=_facts(refusal),
        retry_after=refusal.retry_after,
    )
    return TransientError(text, refusal.retry_after, status=429, final=final)


def gated(about: About, refusal: Refusal) -> ModelkeepError:
    """The repository is given to those alone who accepted its terms."""
    said = _said(refusal)
    if refusal.status == 401:
        return TokenRequiredException(
            f"{about.repo} is given to those who accepted its terms{said}.",
            metadata={"kept_under": about.kept_under, "terms": about.page, **_facts(refusal)},
            remedy=f"Accept them at {about.page}, then give an access token of the account that did, or keep"
            f" it: modelkeep auth login {about.kept_under}.",
        )
    if _PENDING.search(refusal.words):
        remedy = f"Wait until its authors have granted the request; {about.page} shows how it stands."
    elif _DECLINED.search(refusal.words):
        remedy = f"Ask its authors at {about.page}, or take another model."
    else:
        remedy = f"Accept the terms at {about.page} with the account that the access token is of."
    return LicenseNotAcceptedException(
        f"{about.repo} is given to those who accepted its terms, and this account is none of them{said}.",
        metadata=_facts(refusal),
        remedy=remedy,
    )


def disabled(about: About, refusal: Refusal | None) -> ModelkeepError:
    """The hub has taken the repository down."""
    return SourceDisabledException(
        f"{about.repo} is disabled{_said(refusal) if refusal else ' at the hub'}.",
        metadata=_facts(refusal) if refusal else {"host": origin_of(about.endpoint).host},
        remedy=f"Take another model; {about.page} may say why.",
    )


def no_repository(about: About, refusal: Refusal) -> ModelkeepError:
    """There is no such repository, or it is hidden from this caller."""
    if _BAD_TOKEN.search(refusal.words) or (about.had_token and _BAD_LOGIN.search(refusal.words)):
        return _bad_token(about, refusal)
    whose = "this access token may not read it" if about.had_token else "it is private"
    # the words for a log-in that failed come to whoever tries none, too
    said = "" if _BAD_LOGIN.search(refusal.words) else _said(refusal)
    return SourceNotFoundException(
        f"There is no repository {about.repo}, or {whose} (the hub does not tell which){said}.",
        metadata={"source": about.repo, **_facts(refusal)},
        remedy="Look at its name, or at the path if one was meant; if it is private, give an access token of"
        " an account that may read it.",
    )


def no_revision(about: About, refusal: Refusal) -> ModelkeepError:
    """The repository has no such branch, tag or commit."""
    return SourceNotFoundException(
        f"{about.repo} has no branch, tag or commit {about.revision!r}.",
        metadata={"source": about.repo, **_facts(refusal)},
        remedy=f"{about.page}/tree/main lists the revisions that there are.",
    )


def no_file(about: About, refusal: Refusal) -> ModelkeepError:
    """The repository has no such file or folder."""
    return SourceNotFoundException(
        f"There is no file or folder {about.path!r} in {about.repo}.",
        metadata={"source": about.repo, "path": about.path, **_facts(refusal)},
        remedy=f"{about.page}/tree/main lists the files that there are.",
    )


def other(about: About, refusal: Refusal) -> Exception:
    """Any other answer that is none of success."""
    if refusal.status == 401:  # the hub's library knows it by its address alone, which a mirror does not have
        return no_repository(about, refusal)
    if refusal.status == 403 and about.had_token:
        return _bad_token(about, refusal)
    return error_of(refusal, Asked(shown=about.shown, kept_under=about.kept_under))


def _bad_token(about: About, refusal: Refusal) -> ModelkeepError:
    return TokenRejectedException(
        f"{refusal.answers}{refusal.quoted}: it refuses {about.shown.named}.",
        metadata={"credential": str(about.shown), **_facts(refusal)},
        remedy=f"Check that it is valid and may read {about.repo}, or"
        f" {about.shown.another(about.kept_under)}.",
    )


def _said(refusal: Refusal) -> str:
    """The end of a message that is not about the hub: what it says, if anything."""
    return f': the hub says "{refusal.sentence}"' if refusal.sentence else ""


def _facts(refusal: Refusal) -> dict[str, str]:
    facts = {"host": refusal.host, "status": str(refusal.status), "said": refusal.sentence}
    return {name: text for name, text in facts.items() if text}
