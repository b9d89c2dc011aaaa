"""Repositories of Hugging Face, or of a mirror of it: which files, of which commit, and what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from modelkeep.exceptions import SourceNotFoundException, XetOnlyException
from modelkeep.hubs import HUGGING_FACE, Repository, hub_of
from modelkeep_common.urls import authority_of, parse_url
from modelkeep_download.domain.checks import bad_source
from modelkeep_download.domain.sets import MAX_TEXT_BYTES
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import Session
from modelkeep_download.resolve import card
from modelkeep_download.resolve.listing import Entry, size_of
from modelkeep_download.resolve.plans import Asked, Metadata, Plan, PlanKind, PlannedFile
from modelkeep_download.resolve.selection import Repo, Selection

if TYPE_CHECKING:  # the hub's library takes long to import
    from modelkeep_download.resolve.hub_client import HubClient, Model

_FIELD: Final = "source.source"
_README: Final = "README.md"
#: Bytes of a model_index.json.
_MAX_INDEX: Final = 1 << 20


class HuggingFaceResolver:
    """A `Resolver` of repositories, their folders and their files.

    Args:
        session: What the hub is asked through.
        endpoint: Address of the hub or of a mirror, as `endpoint_of` gives it.
    """

    def __init__(self, session: Session, endpoint: str = HUGGING_FACE) -> None:
        self._session, self._endpoint = session, endpoint
        self._mirrors: Collection[str] = () if endpoint == HUGGING_FACE else (authority_of(endpoint),)

    def takes(self, asked: Asked) -> bool:
        """See `Resolver`."""
        return self._repository(asked) is not None

    async def resolve(self, asked: Asked) -> Plan:
        """See `Resolver`."""
        repository = self._repository(asked)
        assert repository is not None, "it was taken"
        stop = StopSignal()
        try:
            return await asyncio.to_thread(self._resolve, repository, asked, stop)
        except asyncio.CancelledError:
            stop.stop()
            raise

    def _repository(self, asked: Asked) -> Repository | None:
        text = asked.source.strip()
        if text.startswith(f"{self._endpoint}/"):  # which may have a path of its own
            text = HUGGING_FACE + text[len(self._endpoint) :]
        try:
            found = hub_of(text, self._mirrors)
        except ValueError as error:
            raise bad_source(str(error), _FIELD) from None
        if not isinstance(found, Repository):
            return None
        subfolder = "/".join(part for part in asked.subfolder.split("/") if part)
        path = found.path or subfolder
        if any(part in (".", "..") for part in path.split("/")):
            raise bad_source('a folder of a repository has no "." or ".." in it', _FIELD)
        return replace(found, path=path, revision=found.revision or asked.revision)

    def _resolve(self, repository: Repository, asked: Asked, stop: StopSignal) -> Plan:
        from modelkeep_download.resolve.hub_client import HubClient

        hub = HubClient(self._session, self._endpoint, asked.access_token, stop)
        try:
            model = hub.model(repository.id, repository.revision)
            return self._plan(hub, model, repository, asked.variant)
        finally:
            hub.close()

    def _plan(self, hub: HubClient, model: Model, asked: Repository, variant: str) -> Plan:
        named = replace(asked, id=model.id)
        entries, is_all = _listing(hub, model, named)
        repo = Repo.of(entries, partial(_spelled, named))
        index = _index(hub, model, entries, repo.index(named.path))
        chosen = repo.select(named.path, variant, index)
        _check(chosen, named)
        if model.is_gated or model.is_private:
            hub.check_access(model, max(chosen.files, key=lambda entry: entry.size).path)
        files = [
            PlannedFile(hub.address(model, entry.path), _beneath(chosen, entry), entry.size, entry.sha256)
            for entry in chosen.files
        ]
        if sum(len(file.url) + len(file.path.encode()) for file in files) > MAX_TEXT_BYTES:
            raise bad_source("has too many files: name a folder of it", _FIELD)
        reasons = list(chosen.reasons)
        if model.id.casefold() != asked.id.casefold():
            reasons.insert(0, f"{asked.id} has moved to {model.id}.")
        name = _name(model, chosen, named)
        return Plan(
            PlanKind.HUGGING_FACE,
            named.shown,
            name,
            files,
            is_folder=chosen.is_folder,
            revision=model.commit,
            source_size=size_of(entries) if is_all else None,
            variant=chosen.variant,
            reasons=reasons,
            choices=chosen.choices,
            metadata=self._metadata(hub, model, entries, name),
            code_files=chosen.code_files,
        )

    def _metadata(self, hub: HubClient, model: Model, entries: Collection[Entry], name: str) -> Metadata:
        has_readme = any(entry.path == _README and entry.size <= card.MAX_README for entry in entries)
        readme = hub.content(model, _README).decode("utf-8", "replace") if has_readme else ""
        address = partial(hub.address, model)
        return Metadata(
            name=name,
            description=card.description(readme),
            author=card.line(model.author) or model.id.partition("/")[0] * ("/" in model.id),
            license=card.license_of(model.card, address),
            tags=card.tags(model.tags),
            trigger_phrases=card.trigger_phrases(model.card, readme),
            type=card.line(model.pipeline_tag) or card.line(model.library),
            base=card.base_of(model.card),
            page_url=f"{self._endpoint}/{model.id}",
            preview_url=card.preview(model.card, readme, address),
            publish_time=model.modified.timestamp() if model.modified else None,
        )


def endpoint_of(setting: str, environment: Mapping[str, str]) -> str:
    """The hub's address: the setting, else HF_ENDPOINT, else Hugging Face's own; no slash at its end.

    Raises:
        ValueError: It is no http or https address, or has secrets or a query.
    """
    text = (setting or environment.get("HF_ENDPOINT", "") or HUGGING_FACE).strip().rstrip("/")
    try:
        source = parse_url(text)
    except Exception:
        source = None
    if source is None or source.has_secret or "?" in source.url:
        raise ValueError("the hub's endpoint must be an http or https address without secrets and query")
    return source.url.rstrip("/")


def _listing(hub: HubClient, model: Model, asked: Repository) -> tuple[list[Entry], bool]:
    """The files, and whether these are all that the repository has."""
    entries = hub.files(model)
    if entries is not None:
        return entries, True
    within = asked.path.rpartition("/")[0] if "." in asked.path.rpartition("/")[2] else asked.path
    entries = hub.files(model, within) if within else None
    if entries is None:
        raise bad_source("has more than 10,000 files: name a folder of it, owner/name:folder", _FIELD)
    return entries, False


def _index(hub: HubClient, model: Model, entries: Collection[Entry], path: str) -> dict[str, Any] | None:
    if not path:
        return None
    size = next(entry.size for entry in entries if entry.path == path)
    try:
        told = json.loads(hub.content(model, path)) if size <= _MAX_INDEX else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise SourceNotFoundException(
            f"{path} of {model.id} is no list of a pipeline's components.",
            metadata={"source": model.id, "path": path},
            remedy=f"Name a folder or a file of it, such as {model.id}:vae.",
        )
    return told


def _check(chosen: Selection, asked: Repository) -> None:
    from modelkeep_download.resolve.hub_client import MAX_HTTP_BYTES

    for entry in chosen.files:
        if entry.is_xet and entry.size > MAX_HTTP_BYTES:
            raise XetOnlyException(
                f"{entry.path} of {asked.id} has {entry.size:,} bytes: the hub serves so large a file by its"
                " xet protocol alone.",
                metadata={"source": asked.shown, "path": entry.path, "size": str(entry.size)},
                remedy="Take a variant of it in smaller files, or fetch it with the hub's own client and"
                " install it by its path.",
            )


def _spelled(asked: Repository, path: str) -> str:
    """A path of a repository as a source; as an address where it has blanks."""
    here = replace(asked, path=path)
    if not any(c.isspace() for c in path):
        return here.shown
    return f"{HUGGING_FACE}/{asked.id}/blob/{quote(asked.revision or 'main', safe='')}/{quote(path)}"


def _beneath(chosen: Selection, entry: Entry) -> str:
    """Where a file goes: beneath the model's folder, or its name."""
    if not chosen.is_folder:
        return entry.name
    return entry.path[len(chosen.base) :].lstrip("/")


def _name(model: Model, chosen: Selection, asked: Repository) -> str:
    name = model.id.rpartition("/")[2]
    if not asked.path:
        return name
    last = asked.path.rpartition("/")[2]
    return f"{name}-{last}" if chosen.is_folder else last.rpartition(".")[0] or last
