"""The hub itself: two hosts, its users, limits and faults."""

from __future__ import annotations

import contextlib
import gzip
import re
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, unquote, urlencode

from support.httpfaults import Fault
from support.httpresources import Request, Resource
from support.httpserver import HttpServer
from support.hub.answers import (
    BAD_TOKEN,
    Caller,
    no_entry,
    no_repository,
    no_revision,
    page,
    refusal,
    refused,
)
from support.hub.api import Api, xet_route
from support.hub.contents import Blob, Contents
from support.hub.repositories import Commit, Repository
from support.hub.storage import Storage

Kind = Literal["api", "resolvers", "pages"]
_CACHE = "/api/resolve-cache/models/"
_WAYS = ("resolve", "raw", "blob", "tree")
#: Of these and larger ones clients that can unpack get a packed stream without a length.
_PACKED_FROM_BYTES = 1000
_TEXT_ENDINGS = (".json", ".txt", ".md", ".py", ".yaml", ".yml", ".xml", ".csv", ".jinja")
_WINDOW_S = 300


@dataclass
class _Quota:
    """How many requests of a kind pass in a window of time."""

    quota: int
    left: int
    ends: float


class Hub:
    """The hub's API and files at `url`, large files at another host name; both on the loopback.

    Args:
        page_size: Entries on a page of a repository's tree.
        valid_s: How long a signed address of a large file leads anywhere.
        storage_name: Host name in those addresses.

    Attributes:
        site: The server of `url`.
        storage: The server of large files.
        url: What to give as the endpoint.
    """

    def __init__(
        self, *, page_size: int = 1000, valid_s: float = 3600, storage_name: str = "localhost"
    ) -> None:
        self.site = HttpServer(route=self._route)
        self.storage = HttpServer(route=self._route_storage)
        self.url = self.site.url("")
        self._storage_url = self.storage.url("", host=storage_name)
        self._stored = Storage(valid_s)
        self._api = Api(self._find, page_size)
        self._repositories: dict[str, Repository] = {}
        self._renamed: dict[str, str] = {}
        self._tokens: dict[str, Caller] = {}
        self._faults: list[tuple[HttpServer, re.Pattern[str], list[Fault]]] = []
        self._lock = threading.Lock()
        self._quotas: dict[Kind, _Quota] = {
            "api": _Quota(500, 500, 0.0),
            "resolvers": _Quota(3000, 3000, 0.0),
            "pages": _Quota(100, 100, 0.0),
        }
        self._limited: set[Kind] = set()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Hub:
        with contextlib.ExitStack() as starting:
            starting.enter_context(self.site)
            starting.enter_context(self.storage)
            self._open = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def repository(self, name: str, files: Contents, **options: Any) -> Repository:
        """Have a model repository with one commit; the options are those of `Repository`."""
        made = self._repositories[name] = Repository(name, files, **options)
        return made

    def rename(self, old: str, new: str) -> None:
        """Move a repository; its old name leads to the new one."""
        repository = self._repositories.pop(old)
        repository.name = new
        self._repositories[new] = repository
        self._renamed[old] = new

    def token(self, user: str, *, fine_grained: bool = False) -> str:
        """A token of a user; a fine-grained one does not read gated repositories, granted or not."""
        token = f"hf_{'fine' if fine_grained else 'read'}_{user}"
        self._tokens[token] = Caller(user, fine_grained)
        return token

    def limit(self, kind: Kind, *, left: int = 0, resets_s: float = 55) -> None:
        """Let so many more requests of a kind pass, then none until the window ends."""
        with self._lock:
            self._quotas[kind].left = left
            self._quotas[kind].ends = time.monotonic() + resets_s
            self._limited.add(kind)

    def fail(self, pattern: str, *faults: Fault) -> None:
        """Give the next requests of `site` whose path (with query, quoted) has the pattern these faults."""
        self._faults.append((self.site, re.compile(pattern), list(faults)))

    def fail_storage(self, pattern: str, *faults: Fault) -> None:
        """The same of `storage`; the file's name, without folders, is in the address."""
        self._faults.append((self.storage, re.compile(pattern), list(faults)))

    def expire_addresses(self) -> None:
        """All signed addresses given so far have expired."""
        self._stored.expire()

    def _route(self, request: Request) -> Resource:
        kind = _kind_of(request.path)
        headers, over = self._count(kind)
        answer = over or self._answer(request)
        answer.headers = {**answer.headers, **headers, "X-Request-Id": f"Root=1-{id(request):024x}"}
        return self._with_fault(self.site, request, answer)

    def _route_storage(self, request: Request) -> Resource:
        return self._with_fault(self.storage, request, self._stored.answer(request))

    def _with_fault(self, server: HttpServer, request: Request, answer: Resource) -> Resource:
        with self._lock:
            for at, pattern, faults in self._faults:
                if at is server and faults and pattern.search(request.path):
                    answer.faults = [faults.pop(0)]
                    break
        return answer

    def _count(self, kind: Kind) -> tuple[dict[str, str], Resource | None]:
        with self._lock:
            quota, now = self._quotas[kind], time.monotonic()
            if now >= quota.ends:
                self._limited.discard(kind)
                quota.left, quota.ends = quota.quota, now + _WINDOW_S
            refuses = kind in self._limited and quota.left <= 0
            quota.left = max(0 if kind in self._limited else 1, quota.left - 1)
            resets, left = max(1, round(quota.ends - now)), 0 if refuses else quota.left
        headers = {
            "RateLimit": f'"{kind}";r={left};t={resets}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={quota.quota};w={_WINDOW_S}',
        }
        hit = f"you hit the quota of {quota.quota} {kind} requests per 5 minutes period."
        return headers, refusal(429, f"We had to rate limit you, {hit}") if refuses else None

    def _answer(self, request: Request) -> Resource:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        caller = self._tokens.get(token) if token else Caller()
        if caller is None:
            return refusal(401, BAD_TOKEN)
        path = request.path.partition("?")[0]
        if path.startswith(_CACHE):
            return self._cached(path.removeprefix(_CACHE), request, caller)
        if path.startswith("/api/"):
            return self._api.answer(request, self.url, caller)
        return self._of_repository(request, caller)

    def _find(self, name: str) -> Repository | str | None:
        return self._renamed.get(name) or self._repositories.get(name)

    def _of_repository(self, request: Request, caller: Caller) -> Resource:
        path, _, query = request.path.partition("?")
        parts = path.split("/")[1:]
        length = 1 if len(parts) == 1 or parts[1] in _WAYS else 2
        name, way, rest = "/".join(parts[:length]), parts[length : length + 1], parts[length + 1 :]
        found = self._find(name)
        if isinstance(found, str):
            to = "/".join(["", found, *parts[length:]])
            return Resource(b"", redirect=to + ("?" + query if query else ""), redirect_code=307)
        if found is None:
            return no_repository(caller) if way else page("404", 404)
        told = refused(found, caller, contents=way in (["resolve"], ["raw"]))
        if told is not None:
            return told
        revision, inside = _revision_and_path(rest)
        try:
            commit = found.at(revision or "main")
        except KeyError:
            return no_revision(revision)
        if way not in (["resolve"], ["raw"]):
            return page(found.name)
        blob = commit.files.get(inside)
        if blob is None:
            return no_entry(commit)
        if way == ["raw"]:
            return _plain(commit, inside, blob, request)
        return self._resolve(found, commit, inside, blob)

    def _resolve(self, repository: Repository, commit: Commit, path: str, blob: Blob) -> Resource:
        """Large files lie at the second host; small ones are led to a path that may be cached."""
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes", "X-Linked-Size": str(blob.size)}
        if not blob.is_lfs:
            etag = f'"{blob.oid}"'
            query = urlencode({f"/{repository.name}/resolve/{commit.sha}/{path}": "", "etag": etag})
            to = f"{_CACHE}{repository.name}/{commit.sha}/{quote(path)}?{query}"
            return Resource(b"", redirect=to, redirect_code=307, headers={**headers, "X-Linked-ETag": etag})
        headers["X-Linked-ETag"] = f'"{blob.sha256}"'
        if blob.is_xet:
            headers["X-Xet-Hash"] = blob.xet_hash
            headers["Link"] = (
                f'<{xet_route(self.url, repository, commit)}>; rel="xet-auth", '
                f'<{self._storage_url}/v1/reconstructions/{blob.xet_hash}>; rel="xet-reconstruction-info"'
            )
        to = self._stored.address(self._storage_url, repository, blob, path.rpartition("/")[2])
        return Resource(b"", redirect=to, redirect_code=302, headers=headers)

    def _cached(self, rest: str, request: Request, caller: Caller) -> Resource:
        parts = rest.split("/")
        length = 2 if "/".join(parts[:2]) in self._repositories else 1
        repository = self._repositories.get("/".join(parts[:length]))
        if repository is None:
            return no_repository(caller)
        commit, path = repository.at(parts[length]), unquote("/".join(parts[length + 1 :]))
        return refused(repository, caller, contents=True) or _plain(commit, path, commit.files[path], request)


def _plain(commit: Commit, path: str, blob: Blob, request: Request) -> Resource:
    """What git holds of a file; packed where that is asked for, as a stream whose length nobody tells."""
    name = path.rpartition("/")[2]
    answer = Resource(
        blob.in_git,
        etag=f'"{blob.oid}"',
        content_type="text/plain; charset=utf-8",
        disposition=f"inline; filename*=UTF-8''{quote(name)}; filename=\"{name}\";",
        headers={"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"},
    )
    packs = "gzip" in request.headers.get("accept-encoding", "") and request.range is None
    if packs and path.endswith(_TEXT_ENDINGS) and blob.size >= _PACKED_FROM_BYTES:
        answer.body, answer.etag = gzip.compress(blob.in_git), f'W/"{blob.oid}"'
        answer.content_encoding, answer.chunked = "gzip", True
    return answer


def _revision_and_path(rest: list[str]) -> tuple[str, str]:
    """Revision and path behind `/resolve/`: the first has its slashes quoted, or is refs/pr/NUMBER."""
    length = 3 if rest[:1] == ["refs"] else 1
    return unquote("/".join(rest[:length])), unquote("/".join(rest[length:]))


def _kind_of(path: str) -> Kind:
    if "/resolve/" in path or "/raw/" in path or path.startswith(_CACHE):
        return "resolvers"
    return "api" if path.startswith("/api/") else "pages"
