"""What Hugging Face's API is asked, through a download's session; blocking.

The hub's own library has one HTTP client for the whole process, which may be another program's
(`embedded.py`): setting another one closes that program's, and whoever sets one later takes it away again.
Its methods also ask and write more than they are called for (which agent runs them). So its data types and
its typed errors serve here, and requests go by a client of this module's, which that library never sees.
Import this lazily and on a thread: the library takes long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn
from urllib.parse import quote

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoFile
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

from modelkeep.exceptions import (
    FieldInvalidException,
    ForbiddenAddressException,
    UpstreamUnavailableException,
)
from modelkeep.hubs import HUGGING_FACE
from modelkeep.source_tokens import HostPattern
from modelkeep_common.urls import origin_of, redirected
from modelkeep_download.domain.credentials import CredentialKind
from modelkeep_download.domain.retry import TransientError, is_transient
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import Session
from modelkeep_download.resolve import hub_errors
from modelkeep_download.resolve.guarded import ask, refusal_of, still_at_source
from modelkeep_download.resolve.hub_errors import About
from modelkeep_download.resolve.listing import Entry

#: Files of a listing that are read, and of a plan.
MAX_FILES: Final = 10_000
#: Bytes beyond which the hub serves a file by xet alone.
MAX_HTTP_BYTES: Final = constants.MAX_HTTP_DOWNLOAD_SIZE
#: Pages of a listing, folders being entries, too.
_MAX_PAGES: Final = 60
#: Header fields that the hub's library would write into this process's log.
_UNHEEDED: Final = frozenset({"x-hf-warning"})
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,96}(?:/[A-Za-z0-9_.-]{1,96})?")
_MODEL_FIELDS: Final = (
    *("id", "author", "sha", "lastModified", "private", "gated", "disabled", "tags", "pipeline_tag"),
    *("library_name", "securityRepoStatus"),
)


@dataclass(frozen=True, slots=True)
class Model:
    """What the hub says of a repository at one commit."""

    id: str
    commit: str
    author: str = ""
    is_gated: bool = False
    is_private: bool = False
    is_disabled: bool = False
    modified: datetime | None = None
    tags: tuple[str, ...] = ()
    pipeline_tag: str = ""
    library: str = ""
    #: The metadata at the beginning of its README, as it came.
    card: Mapping[str, Any] = field(default_factory=dict)
    #: Verdicts of the hub's scanners, by path: of files that they have something to say of.
    verdicts: Mapping[str, str] = field(default_factory=dict)


class _Transport(httpx2.BaseTransport):
    """Sends a request through the session; nothing of the client's own header fields goes out."""

    def __init__(
        self, session: Session, endpoint: str, token: str, secrets: list[str], stop: StopSignal
    ) -> None:
        self._session, self._endpoint, self._token, self._stop = session, endpoint, token, stop
        self._secrets = secrets

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2.

        Raises:
            TransientError, ModelkeepError: As `Session.ask`; also of an answer that may be another one later.
        """
        url = rewritten(str(request.url), self._endpoint)
        at_home = origin_of(url) == origin_of(self._endpoint) and still_at_source(request.extensions, url)
        if self._endpoint.startswith("https:") and not url.startswith("https:"):
            raise ForbiddenAddressException(
                f"{origin_of(self._endpoint).host} redirects from https to http, which anyone on the way"
                " could read and change",
                metadata={
                    "host": origin_of(self._endpoint).host,
                    "address": origin_of(url).host,
                    "setting": "",
                },
            )
        headers = {"Authorization": f"Bearer {self._token}"} if self._token and at_home else {}
        answer = ask(self._session, request.method, url, headers, at_home, self._stop)
        told = [(name, value) for name, value in answer.headers if name.lower() not in _UNHEEDED]
        if any(name.lower() == "content-encoding" and value != "identity" for name, value in told):
            raise TransientError(f"{origin_of(url).host} packs its answer, which was not asked for", tries=1)
        response = httpx2.Response(answer.status, headers=told, content=answer.body, request=request)
        if is_transient(answer.status):
            raise hub_errors.transient(refusal_of(response, origin_of(url).host, self._secrets))
        return response


class HubClient:
    """Asks one hub for one caller. For one thread.

    Args:
        session: The way out.
        endpoint: The hub's address, without a slash at its end.
        token: For the hub alone; may be empty.
        stop: Ends what is waited for.

    Raises:
        UpstreamUnavailableException: The environment says that the hub is not to be asked.
    """

    def __init__(self, session: Session, endpoint: str, token: str, stop: StopSignal) -> None:
        if constants.is_offline_mode():
            raise UpstreamUnavailableException(
                "HF_HUB_OFFLINE is set for this service: Hugging Face is not asked.",
                metadata={"host": origin_of(endpoint).host},
                remedy="Start the service without HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or give a path.",
            )
        self._endpoint = endpoint
        stored = None if token else session.tokens.found(f"{endpoint}/")
        self._shown = CredentialKind.CALL if token else stored.kind if stored else CredentialKind.NONE
        self._secrets = [secret for secret in (token, stored.token if stored else "") if secret]
        self._client = httpx2.Client(
            transport=_Transport(session, endpoint, token, self._secrets, stop),
            follow_redirects=True,
            max_redirects=session.limits.max_redirects,
            trust_env=False,
        )

    def model(self, repo: str, revision: str) -> Model:
        """What the hub says of a repository, at a branch, tag or commit; empty: at its main branch."""
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        url = f"{self._endpoint}/api/models/{repo}{at}?securityStatus=true"
        about = self._about(repo, revision)
        told = self._json(url, about)
        try:
            info: Any = _model_info(**{name: told[name] for name in _MODEL_FIELDS if name in told})
            card = told.get("cardData")
            found = Model(
                str(info.id),
                str(info.sha),
                author=_text(info.author),
                is_gated=bool(info.gated),
                is_private=bool(info.private),
                is_disabled=bool(info.disabled),
                modified=info.last_modified,
                tags=tuple(tag for tag in info.tags or () if isinstance(tag, str)),
                pipeline_tag=_text(info.pipeline_tag),
                library=_text(info.library_name),
                card=card if isinstance(card, dict) else {},
                verdicts=_verdicts(info.security_repo_status),
            )
            well_formed = _ID.fullmatch(found.id) and _COMMIT.fullmatch(found.commit)
        except _MALFORMED:
            well_formed = None
        if not well_formed:
            self._odd()
        if found.is_disabled:
            raise hub_errors.disabled(self._about(found.id), None)
        return found

    def files(self, model: Model, folder: str = "") -> list[Entry] | None:
        """All files of a repository, or of one folder of it; None where there are more than `MAX_FILES`."""
        about = self._about(model.id, model.commit, folder)
        path = f"/{quote(folder)}" if folder else ""
        tree = f"{self._endpoint}/api/models/{model.id}/tree/{model.commit}{path}"
        url, found = f"{tree}?recursive=true", list[Entry]()
        for _ in range(_MAX_PAGES):
            response = self._get(url, about)
            found += self._entries(response, model)
            if len(found) > MAX_FILES:
                return None
            following = response.links.get("next", {}).get("url")
            if not following:
                return found
            url = self._following(url, following)
        return None

    def content(self, model: Model, path: str) -> bytes:
        """A small file of a repository."""
        about = self._about(model.id, model.commit, path)
        return self._get(self.address(model, path), about).content

    def check_access(self, model: Model, path: str) -> None:
        """Make sure that the hub would serve a file of a repository, without fetching any of it."""
        about = self._about(model.id, model.commit, path)
        response = self._send("HEAD", self.address(model, path), about, follow_redirects=False)
        self._raise_for_status(response, about)

    def address(self, model: Model, path: str) -> str:
        """What serves a file of a repository."""
        return f"{self._endpoint}/{model.id}/resolve/{model.commit}/{quote(path)}"

    def close(self) -> None:
        """Nothing will be asked any more."""
        self._client.close()

    def _following(self, url: str, target: str) -> str:
        """The address of a listing's next page, which has to be the hub's own."""
        try:
            found = rewritten(redirected(url, target).url, self._endpoint)
        except FieldInvalidException:
            self._odd()
        if origin_of(found) != origin_of(self._endpoint):
            self._odd()
        return found

    def _about(self, repo: str, revision: str = "", path: str = "") -> About:
        kept_under = str(HostPattern.of_url(f"{self._endpoint}/"))
        return About(repo, self._endpoint, self._shown, kept_under, revision, path)

    def _entries(self, response: httpx2.Response, model: Model) -> list[Entry]:
        try:
            return [_entry(item, model) for item in response.json() if item["type"] == "file"]
        except _MALFORMED:
            self._odd()

    def _json(self, url: str, about: About) -> dict[str, Any]:
        try:
            told = self._get(url, about).json()
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            self._odd()
        return told

    def _get(self, url: str, about: About) -> httpx2.Response:
        response = self._send("GET", url, about, follow_redirects=True)
        self._raise_for_status(response, about)
        return response

    def _send(self, method: str, url: str, about: About, *, follow_redirects: bool) -> httpx2.Response:
        try:
            return self._client.request(method, url, follow_redirects=follow_redirects)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            self._odd()

    def _raise_for_status(self, response: httpx2.Response, about: About) -> None:
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            refusal = refusal_of(response, response.url.host, self._secrets)
            raise _KINDS.get(type(error), hub_errors.other)(about, refusal) from None

    def _odd(self) -> NoReturn:
        host = origin_of(self._endpoint).host
        raise TransientError(f"{host} does not answer as a hub does", tries=1)


#: As constructors, which are not typed.
_model_info: Final[Any] = ModelInfo
_repo_file: Final[Any] = RepoFile
_MALFORMED: Final = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
_KINDS: Final = {
    GatedRepoError: hub_errors.gated,
    DisabledRepoError: hub_errors.disabled,
    RepositoryNotFoundError: hub_errors.no_repository,
    RevisionNotFoundError: hub_errors.no_revision,
    RemoteEntryNotFoundError: hub_errors.no_file,
}


def rewritten(url: str, endpoint: str) -> str:
    """An address of the hub as one of its mirror: a mirror passes the hub's own addresses on."""
    if endpoint != HUGGING_FACE and url.startswith(f"{HUGGING_FACE}/"):
        return endpoint + url[len(HUGGING_FACE) :]
    return url


def _entry(item: Mapping[str, Any], model: Model) -> Entry:
    file: Any = _repo_file(**item)
    if not isinstance(file.path, str) or type(file.size) is not int or file.size < 0:
        raise TypeError
    sha256 = file.lfs.sha256 if file.lfs else ""
    verdict = file.security.status if file.security else model.verdicts.get(file.path, "")
    return Entry(
        file.path,
        file.size,
        sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else "",
        bool(file.xet_hash),
        _text(verdict),
    )


def _verdicts(status: object) -> dict[str, str]:
    issues = status.get("filesWithIssues") if isinstance(status, dict) else None
    return {
        str(issue["path"]): str(issue.get("level", ""))
        for issue in (issues if isinstance(issues, list) else ())
        if isinstance(issue, dict) and "path" in issue
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
