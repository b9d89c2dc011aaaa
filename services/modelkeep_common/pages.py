"""Addresses of pages about models, which hold no file: what to give in their place."""

from __future__ import annotations

from modelkeep.exceptions import FieldInvalidException, FieldViolation, NotAModelFileException
from modelkeep.hubs import CIVITAI_HOSTS, HUGGING_FACE, HUGGING_FACE_HOSTS, hub_of
from modelkeep_common.urls import is_address, origin_of, request_target

_GITHUB = frozenset({"github.com", "www.github.com"})
#: Begins the path of a repository of another kind than models.
_OTHER_REPOSITORIES = ("datasets", "spaces")
_FILE = "This is the page of a file, not the file."
_REMEDY = "Give it as source.remote, which looks up what to fetch."


def no_repository(text: str, field: str) -> None:
    """FieldInvalidException of what names a model of a hub in place of an address."""
    text = text.strip()
    if is_address(text) and not text.lower().startswith("hf:"):
        return
    try:
        names_one = hub_of(text) is not None
    except ValueError:
        names_one = True
    if names_one:
        violation = FieldViolation(field, "must be the address of a file, and this names a model of a hub.")
        raise FieldInvalidException("", violations=[violation], remedy=_REMEDY)


def refuse_page(url: str) -> None:
    """NotAModelFileException of the address of a page of a well-known site, with the file's own as remedy."""
    host = origin_of(url).host
    path = [part for part in request_target(url).partition("?")[0].split("/") if part]
    if host in HUGGING_FACE_HOSTS:
        told = _hugging_face(url, path)
    elif host in CIVITAI_HOSTS:
        told = _civitai(path)
    elif host in _GITHUB:
        told = _github(path)
    else:
        return
    if told is not None:
        what, remedy = told
        raise NotAModelFileException(
            f"{what} {remedy}", metadata={"host": host, "content_type": ""}, remedy=remedy
        )


def _hugging_face(url: str, path: list[str]) -> tuple[str, str] | None:
    kind = path.pop(0) if path[:1] and path[0] in _OTHER_REPOSITORIES else ""
    # those of old models have no owner
    if path[:1] == ["api"] or {"resolve", "raw"}.intersection(path[1:3]):
        return None
    name = path[:1] if path[1:2] in (["blob"], ["tree"]) else path[:2] or ["OWNER", "NAME"]
    home = "/".join((HUGGING_FACE, *([kind] if kind else []), *name))
    within = path[len(name) :]
    if within[:1] == ["blob"] and len(within) > 2:
        return _FILE, f"Give the file's own address: {home}/resolve/{'/'.join(within[1:])}"
    try:
        hub_of(url)
    except ValueError:
        if not kind and len(path) == 1:
            return (
                "This is the page of an owner, or of a repository without one.",
                f"Name one of the owner's repositories, {path[0]}/NAME; without an owner it is hf:{path[0]}",
            )
        return (
            "This is a page of Hugging Face, and no model's.",
            f"Give the address of one of its files: {home}/resolve/main/FILE",
        )
    return "This is the page of a repository.", _REMEDY


def _civitai(path: list[str]) -> tuple[str, str] | None:
    return ("This is the page of a Civitai model.", _REMEDY) if path[:1] == ["models"] else None


def _github(path: list[str]) -> tuple[str, str] | None:
    if path[2:3] == ["blob"] and len(path) > 4:
        raw = "/".join(("https://github.com", *path[:2], "raw", *path[3:]))
        return _FILE, f"Give the file's own address: {raw}"
    return None
