"""Addresses of pages about models, which hold no file: what to give in their place."""

from __future__ import annotations

import re

from modelkeep.exceptions import FieldInvalidException, FieldViolation, NotAModelFileException
from modelkeep.hubs import CANNOT, HUGGING_FACE, remedy_for, repository_in
from modelkeep_common.urls import origin_of, request_target

_HUGGING_FACE = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_CIVITAI = frozenset({"civitai.com", "www.civitai.com"})
_GITHUB = frozenset({"github.com", "www.github.com"})
#: Begins the path of a repository of another kind than models.
_OTHER_REPOSITORIES = ("datasets", "spaces")
_VERSION = re.compile(r"(?:^|&)modelVersionId=([0-9]+)(?:&|$)")
_FILE = "This is the page of a file, not the file."


def no_repository(text: str, field: str) -> None:
    """FieldInvalidException of what names a repository of Hugging Face in place of an address."""
    if (named := repository_in(text.strip())) is not None:
        violation = FieldViolation(field, "must be the address of a file.")
        raise FieldInvalidException(CANNOT, violations=[violation], remedy=remedy_for(named[0]))


def refuse_page(url: str) -> None:
    """NotAModelFileException of the address of a page of a well-known site, with the file's own as remedy."""
    host = origin_of(url).host
    way, _, query = request_target(url).partition("?")
    path = [part for part in way.split("/") if part]
    if host in _HUGGING_FACE:
        told = _hugging_face(path)
    elif host in _CIVITAI:
        told = _civitai(path, _VERSION.search(query))
    elif host in _GITHUB:
        told = _github(path)
    else:
        return
    if told is not None:
        what, remedy = told
        raise NotAModelFileException(
            f"{what} {remedy}", metadata={"host": host, "content_type": ""}, remedy=remedy
        )


def _hugging_face(path: list[str]) -> tuple[str, str] | None:
    kind = path.pop(0) if path[:1] and path[0] in _OTHER_REPOSITORIES else ""
    # those of old models have no owner
    if path[:1] == ["api"] or {"resolve", "raw"}.intersection(path[1:3]):
        return None
    name = path[:1] if path[1:2] in (["blob"], ["tree"]) else path[:2] or ["OWNER", "NAME"]
    home = "/".join((HUGGING_FACE, *([kind] if kind else []), *name))
    within = path[len(name) :]
    if within[:1] == ["blob"] and len(within) > 2:
        return _FILE, f"Give the file's own address: {home}/resolve/{'/'.join(within[1:])}"
    return (
        f"This is the page of a repository. {CANNOT}",
        f"Give the address of one of its files: {home}/resolve/main/FILE",
    )


def _civitai(path: list[str], version: re.Match[str] | None) -> tuple[str, str] | None:
    if path[:1] != ["models"]:
        return None
    number = version[1] if version is not None else "VERSION"
    return (
        "This is the page of a Civitai model, which cannot be fetched yet.",
        f"Give the address of its download: https://civitai.com/api/download/models/{number}",
    )


def _github(path: list[str]) -> tuple[str, str] | None:
    if path[2:3] == ["blob"] and len(path) > 4:
        raw = "/".join(("https://github.com", *path[:2], "raw", *path[3:]))
        return _FILE, f"Give the file's own address: {raw}"
    return None
