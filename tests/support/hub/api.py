"""What the hub answers below /api."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

from support.httpresources import Request, Resource
from support.hub.answers import (
    NO_LOGIN,
    Caller,
    json_answer,
    no_entry,
    no_repository,
    no_revision,
    refusal,
    refused,
)
from support.hub.contents import Blob
from support.hub.repositories import Commit, Repository, card_of

_ABOUT = frozenset(
    {"revision", "tree", "refs", "commits", "paths-info", "xet-read-token", "auth-check", "resolve-cache"}
)
#: The most entries on a page of a tree with all details.
_EXPANDED_PAGE = 100
#: Told of a gated repository's files in place of the hash, to whom they are not granted.
_REDACTED = "*" * 64


class Api:
    """Answers for models.

    Attributes:
        page_size: Entries on a page of a tree.
    """

    def __init__(self, find: Callable[[str], Repository | str | None], page_size: int) -> None:
        self._find = find
        self.page_size = page_size

    def answer(self, request: Request, base: str, caller: Caller) -> Resource:
        """Answer what is asked of /api/…; ``base`` is the server's own address, ``/`` not included."""
        path, _, query = request.path.partition("?")
        asked = parse_qs(query)
        match path.split("/")[2:]:
            case ["whoami-v2"]:
                return _whoami(caller)
            case ["models", *parts] if parts and parts[0]:
                length = 1 if len(parts) == 1 or parts[1] in _ABOUT else 2
                name, rest = "/".join(parts[:length]), parts[length:]
            case _:
                return no_repository(caller)
        found = self._find(name)
        if isinstance(found, str):
            to = "/".join(["/api/models", found, *rest])
            return Resource(b"", redirect=to + ("?" + query if query else ""), redirect_code=307)
        if found is None:
            return no_repository(caller)
        told = refused(found, caller, contents=rest[:1] in (["xet-read-token"], ["auth-check"]))
        if told is not None:
            return told
        return self._of(found, rest, asked, request, base, caller)

    def _of(
        self,
        repository: Repository,
        rest: list[str],
        asked: dict[str, list[str]],
        request: Request,
        base: str,
        caller: Caller,
    ) -> Resource:
        what, revision = rest[0] if rest else "", unquote(rest[1]) if len(rest) > 1 else "main"
        if what == "refs":
            return json_answer(_references(repository))
        if what == "auth-check":
            return json_answer({})
        try:
            commit = repository.at(revision)
        except KeyError:
            return no_revision(revision)
        hides = bool(repository.gated) and not repository.is_granted(caller.user)
        if what in ("", "revision"):
            return json_answer(_model(repository, commit, asked))
        if what == "tree":
            return self._tree(repository, commit, rest, asked, base, hides)
        if what == "paths-info" and request.method == "POST":
            return _paths_info(commit, request, hides)
        if what == "commits":
            return json_answer(list(_history(repository, commit)))
        if what == "xet-read-token":
            return _xet_token(base, commit)
        return refusal(404, "Sorry, we can't find the page you are looking for.")

    def _tree(
        self,
        repository: Repository,
        commit: Commit,
        rest: list[str],
        asked: dict[str, list[str]],
        base: str,
        hides: bool,
    ) -> Resource:
        folder = "/".join(map(unquote, rest[2:])).strip("/")
        if folder not in commit.folders:
            return no_entry(commit)
        expand, recursive = _is_set(asked, "expand"), _is_set(asked, "recursive")
        under = f"{folder}/" if folder else ""
        entries = [
            _entry(commit, path, hides, expand)
            for path in sorted({*commit.files, *commit.folders})
            if path.startswith(under) and path != folder and (recursive or "/" not in path[len(under) :])
        ]
        most = min(self.page_size, _EXPANDED_PAGE) if expand else self.page_size
        size = min(most, int(asked.get("limit", [str(most)])[0]))
        start = int(asked.get("cursor", ["0"])[0])
        headers = {}
        if start + size < len(entries):
            given = {name: values[0] for name, values in asked.items()}
            more = urlencode({**given, "limit": size, "cursor": start + size})
            way = "/".join(["/api/models", repository.name, "tree", *rest[1:]])
            headers = {"Link": f'<{base}{way}?{more}>; rel="next"'}
        return json_answer(entries[start : start + size], headers)


def xet_route(base: str, repository: Repository, commit: Commit) -> str:
    """Where a client gets the right to read a repository's files from xet."""
    return f"{base}/api/models/{repository.name}/xet-read-token/{commit.sha}"


def _whoami(caller: Caller) -> Resource:
    if caller.user is None:
        return refusal(401, NO_LOGIN)
    role = "fineGrained" if caller.is_fine_grained else "read"
    token = {"displayName": "test", "role": role, "createdAt": _time(datetime.now())}
    return json_answer(
        {
            "type": "user",
            "id": "0" * 24,
            "name": caller.user,
            "fullname": caller.user,
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def _references(repository: Repository) -> dict[str, Any]:
    def told(names: dict[str, Commit], prefix: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"{prefix}{name}", "targetCommit": commit.sha}
            for name, commit in names.items()
        ]

    branches = {name: commit for name, commit in repository.branches.items() if "refs/pr/" not in name}
    pulls = {name: commit for name, commit in repository.branches.items() if name not in branches}
    return {
        "branches": told(branches, "refs/heads/"),
        "converts": [],
        "tags": told(repository.tags, "refs/tags/"),
        "pullRequests": told(pulls, ""),
    }


def _model(repository: Repository, commit: Commit, asked: dict[str, list[str]]) -> dict[str, Any]:
    card = card_of(commit)
    info: dict[str, Any] = {
        "_id": repository.number,
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.author,
        "sha": commit.sha,
        "lastModified": _time(commit.date),
        "createdAt": _time(_first(commit).date),
        "private": repository.private,
        "gated": repository.gated,
        "disabled": repository.disabled,
        "downloads": 1,
        "likes": 0,
        "tags": list(card.tags),
        "config": card.config,
        "cardData": card.data,
        "spaces": [],
        "usedStorage": sum(blob.size for blob in commit.files.values()),
        "siblings": [_sibling(path, blob, _is_set(asked, "blobs")) for path, blob in commit.files.items()],
    }
    if card.library:
        info["library_name"] = card.library
    if card.pipeline:
        info["pipeline_tag"] = card.pipeline
    if _is_set(asked, "securityStatus"):
        bad = [
            {"path": path, "level": blob.scan}
            for path, blob in commit.files.items()
            if blob.scan not in ("safe", "queued")
        ]
        done = all(blob.scan != "queued" for blob in commit.files.values())
        info["securityRepoStatus"] = {"scansDone": done, "filesWithIssues": bad}
    if wanted := {*asked.get("expand", []), *asked.get("expand[]", [])}:
        return {key: value for key, value in info.items() if key in wanted | {"_id", "id"}}
    return info


def _sibling(path: str, blob: Blob, details: bool) -> dict[str, Any]:
    if not details:
        return {"rfilename": path}
    told: dict[str, Any] = {"rfilename": path, "blobId": blob.oid, "size": blob.size}
    if blob.is_lfs:
        told["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.in_git)}
    return told


def _entry(commit: Commit, path: str, hides: bool, expand: bool) -> dict[str, Any]:
    told: dict[str, Any]
    blob = commit.files.get(path)
    if blob is None:
        told = {"type": "directory", "oid": commit.folders[path], "size": 0, "path": path}
    else:
        told = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
        if blob.is_lfs:
            told["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.in_git)}
        if blob.is_xet:
            told["xetHash"] = _REDACTED if hides else blob.xet_hash
    if expand:
        told["lastCommit"] = {"id": commit.sha, "title": commit.title, "date": _time(commit.date)}
        if blob is not None:
            level = "dangerous" if blob.scan == "unsafe" else "innocuous"
            told["securityFileStatus"] = {
                "status": blob.scan,
                "avScan": {"virusFound": False, "virusNames": None, "status": "safe"},
                "pickleImportScan": {"highestSafetyLevel": level, "pickleImports": []},
            }
    return told


def _paths_info(commit: Commit, request: Request, hides: bool) -> Resource:
    if "json" in request.headers.get("content-type", ""):
        sent = json.loads(request.body)
        paths, expand = sent["paths"], bool(sent.get("expand"))
    else:
        form = parse_qs(request.body)
        paths, expand = form.get("paths", []), _is_set(form, "expand")
    known = [path for path in paths if path in commit.files or path in commit.folders]
    return json_answer([_entry(commit, path, hides, expand) for path in known])


def _history(repository: Repository, commit: Commit | None) -> Iterator[dict[str, Any]]:
    while commit is not None:
        yield {
            "id": commit.sha,
            "title": commit.title,
            "message": "",
            "authors": [{"user": repository.author or "hub"}],
            "date": _time(commit.date),
        }
        commit = commit.parent


def _first(commit: Commit) -> Commit:
    while commit.parent is not None:
        commit = commit.parent
    return commit


def _xet_token(base: str, commit: Commit) -> Resource:
    until, token = int(time.time()) + 3600, f"xet-{commit.sha}"
    return json_answer(
        {"accessToken": token, "exp": until, "casUrl": f"{base}/cas"},
        {
            "X-Xet-Cas-Url": f"{base}/cas",
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(until),
        },
    )


def _is_set(asked: dict[str, list[str]], name: str) -> bool:
    return asked.get(name, ["false"])[0].lower() in ("true", "1")


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
