"""Answers in the hub's forms: JSON, pages, and each of its refusals with the codes that clients read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from modelkeep.hubs import HUGGING_FACE
from support.httpresources import Resource
from support.hub.repositories import Commit, Repository

GATED = "GatedRepo"
DISABLED = "Access to this resource is disabled."
BAD_TOKEN = "Invalid credentials in Authorization header"
NO_LOGIN = "Invalid username or password."
FINE_GRAINED = (
    "Please enable access to public gated repositories in your fine-grained token settings to view this"
    " repository."
)


@dataclass(frozen=True)
class Caller:
    """Who asks: the user whose token came; nobody where none came."""

    user: str | None = None
    #: The token was made without the right to read public gated repositories.
    is_fine_grained: bool = False


def json_answer(value: object, headers: Mapping[str, str] | None = None) -> Resource:
    """200 with JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Resource(
        body, etag=None, content_type="application/json; charset=utf-8", ranges=False, headers=headers or {}
    )


def page(title: str, status: int = 200) -> Resource:
    """A page for people."""
    text = f"<!doctype html><html><head><title>{escape(title)}</title></head><body></body></html>"
    return Resource(
        text.encode(), etag=None, content_type="text/html; charset=utf-8", ranges=False, status=status
    )


def refusal(status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> Resource:
    """An error as the hub tells it: in headers, and in the body again."""
    told = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
    return Resource(
        json.dumps({"error": message}).encode(), content_type="application/json", status=status, headers=told
    )


def no_repository(caller: Caller) -> Resource:
    """Missing, or private: the hub does not tell which; to somebody who may need to log in it is a 401."""
    if caller.user is None:
        return refusal(401, NO_LOGIN, "RepoNotFound")
    return refusal(404, "Repository not found", "RepoNotFound")


def no_revision(revision: str) -> Resource:
    """Neither branch nor tag nor commit."""
    return refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def no_entry(commit: Commit) -> Resource:
    """No such file in that commit."""
    return refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.sha})


def refused(repository: Repository, caller: Caller, *, contents: bool) -> Resource | None:
    """Why somebody may not read a repository; ``contents``: what is in its files, not only their names."""
    granted = repository.is_granted(caller.user)
    if repository.private and not granted:
        return no_repository(caller)
    if repository.disabled:
        return refusal(403, DISABLED)
    if not contents or not repository.gated:
        return None
    if caller.user is None:
        said = f"Access to model {repository.name} is restricted."
        return refusal(
            401, f"{said} You must have access to it and be authenticated to access it. Please log in.", GATED
        )
    if caller.is_fine_grained:
        return refusal(403, FINE_GRAINED)
    if not granted:
        said = f"Access to model {repository.name} is restricted and you are not in the authorized list."
        return refusal(403, f"{said} Visit {HUGGING_FACE}/{repository.name} to ask for access.", GATED)
    return None
