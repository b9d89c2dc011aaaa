"""Models of Civitai, by its REST API: which version, which file of it, and what is told of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import httpx

from modelkeep.exceptions import EarlyAccessException, ModelkeepError, SourceNotFoundException
from modelkeep.hubs import CIVITAI, CivitaiModel, civitai_of
from modelkeep_common import civitai
from modelkeep_common.urls import authority_of, origin_of, parse_url
from modelkeep_download.domain.checks import bad_source
from modelkeep_download.domain.refusals import clean
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import Session
from modelkeep_download.resolve.civitai_files import VersionFile, choose, files_of, listed
from modelkeep_download.resolve.civitai_versions import (
    NOT_YET,
    date_of,
    deadline_of,
    early_access,
    name_of,
    plan_of,
    refuse_disabled,
    versions_of,
)
from modelkeep_download.resolve.guarded import refusal_error
from modelkeep_download.resolve.looking import Looked, look
from modelkeep_download.resolve.plans import Asked, Plan

_FIELD: Final = "source.source"
#: Versions in early access that are asked for whether this caller may have them.
_MAX_EARLY: Final = 3


class CivitaiResolver:
    """A `Resolver` of Civitai's models.

    Args:
        client: Asks the API.
        session: Asks for the beginning of the chosen file, as a download does: whether this caller may have
            it, and how long it is.
        endpoint: Origin of the site that is asked; one other than Civitai's own is asked for everything.
    """

    def __init__(self, client: httpx.AsyncClient, session: Session, endpoint: str = CIVITAI) -> None:
        self._client, self._session = client, session
        self._endpoint = endpoint.rstrip("/")
        self._hosts = frozenset({authority_of(endpoint)})

    def takes(self, asked: Asked) -> bool:
        """See `Resolver`."""
        return self._named(asked) is not None

    def _named(self, asked: Asked) -> CivitaiModel | None:
        try:
            return civitai_of(asked.source, self._hosts)
        except ValueError as error:
            raise bad_source(
                f"{error}: give the address of a model's page, https://civitai.com/models/ID", _FIELD
            ) from error

    async def resolve(self, asked: Asked) -> Plan:
        """See `Resolver`.

        Raises:
            SourceNotFoundException: There is no such model or version; `available` has those that are.
            SourceDisabledException: It is archived, taken down, or not to be downloaded.
            EarlyAccessException: It is for those who pay, so far.
            UnknownVariantException: No file of the version is as it was asked for.
            NotAModelFileException: It is nothing that can be installed.
            UnsafeFormatException: Civitai's scans found it to be dangerous.
            TokenRequiredException, TokenRejectedException, TransientError: As for a download.
        """
        named = self._named(asked)
        assert named is not None, "takes() was asked before"
        site = self._endpoint if self._endpoint != CIVITAI else named.site or self._endpoint
        lookup = _Lookup(self._client, self._session, site, asked.access_token)
        model, version = await _find(lookup, named)
        refuse_disabled(model, version, lookup.host)
        shown = named.site or CIVITAI
        if version is not None:
            return await _plan(lookup, model, version, named, asked.variant, shown)
        return await _newest(lookup, model, named, asked.variant, shown)


class _Lookup:
    """The requests of one lookup."""

    def __init__(self, client: httpx.AsyncClient, session: Session, site: str, token: str) -> None:
        self._client, self._session, self.site, self._token = client, session, site, token

    @property
    def host(self) -> str:
        """Who is asked."""
        return origin_of(self.site).host

    async def get(self, path: str) -> Mapping[str, Any]:
        """An object of the API.

        Raises:
            SourceNotFoundException: There is none.
            TransientError, ModelkeepError: See `error_of`.
        """
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            answer = await self._client.get(f"{self.site}/api/v1{path}", headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransientError(
                f"{self.host} does not answer as it should: {type(error).__name__}"
            ) from error
        if answer.status_code == 200:
            return await asyncio.to_thread(self._parsed, answer.content)
        refusal, why = await asyncio.to_thread(refusal_error, self._session, answer, self._token)
        if isinstance(why, SourceNotFoundException):
            raise SourceNotFoundException(
                f"{refusal.answers}{refusal.quoted}: it has no such model, or has not published it.",
                metadata={"host": refusal.host, "status": str(refusal.status), "said": refusal.sentence},
                remedy="Look at the number in the address of the model's page.",
            )
        raise why

    def _parsed(self, body: bytes) -> Mapping[str, Any]:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise TransientError(f"{self.host} answers with what is no JSON") from error
        if not isinstance(found, dict):
            raise TransientError(f"{self.host} answers with another JSON than was asked for")
        return found

    async def look(self, file: VersionFile) -> Looked | None:
        """What a file's address serves; None where it serves nothing just now.

        Raises:
            ModelkeepError: This caller may not have it.
        """
        stop, source = StopSignal(), parse_url(f"{self.site}{file.path()}", _FIELD)
        try:
            return await asyncio.to_thread(look, self._session, source, self._token or None, stop)
        except TransientError:
            return None  # what the API tells is a plan all the same
        except asyncio.CancelledError:
            stop.stop()
            raise


async def _find(lookup: _Lookup, named: CivitaiModel) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The model, and the version that is named; None where none is."""
    if named.model:
        model = await lookup.get(f"/models/{named.model}")
        if not named.version:
            return model, None
        for version in versions_of(model):
            if civitai.number(version.get("id")) == named.version:
                return model, version
        raise await _no_version(lookup, model, named)
    path = f"/model-versions/{named.version or f'by-hash/{named.hash}'}"
    version = await lookup.get(path)
    number, told = civitai.number(version.get("modelId")), civitai.mapping(version.get("model"))
    try:
        whole = await lookup.get(f"/models/{number}") if number else {}
    except SourceNotFoundException:
        whole = {}  # a version tells enough by itself
    # of its state a version has a word of its own
    return {"id": number, **told, **whole, "mode": whole.get("mode") or told.get("mode")}, version


async def _no_version(
    lookup: _Lookup, model: Mapping[str, Any], named: CivitaiModel
) -> SourceNotFoundException:
    """The error for a version that a model does not have, or no longer."""
    there = listed([f"{name_of(v)} ({v.get('id')})" for v in versions_of(model)])
    why = f"has no version {named.version}, or none that is published"
    try:
        found = await lookup.get(f"/model-versions/{named.version}")
        other = civitai.number(found.get("modelId"))
        if other and other != named.model:
            why = f"has no version {named.version}, which is one of model {other}"
    except SourceNotFoundException:
        pass
    return SourceNotFoundException(
        f"{clean(civitai.text(model.get('name')))} at {lookup.host} {why}.",
        metadata={"host": lookup.host, "available": there},
        remedy=f"It has {there}." if there else "",
    )


async def _newest(
    lookup: _Lookup, model: Mapping[str, Any], named: CivitaiModel, variant: str, shown: str
) -> Plan:
    """The plan for the newest version that this caller may have."""
    versions = versions_of(model)
    skipped: list[str] = []
    refusals: list[ModelkeepError] = []
    for version in versions:
        if not files_of(version, civitai.number(version.get("id"))):
            continue
        deadline = deadline_of(version)
        if deadline is None or len(refusals) < _MAX_EARLY:
            try:
                plan = await _plan(lookup, model, version, named, variant, shown)
            except EarlyAccessException as error:
                refusals.append(error)
            else:
                word = "newest version that is published" + (" and free" if skipped else "")
                return replace(plan, reasons=(f"{name_of(version)} is the {word}.", *skipped, *plan.reasons))
        until = f" until {date_of(deadline)}" if deadline else ""
        skipped.append(f"{name_of(version)} is newer, and in early access{until}: it is left out.")
    if refusals:
        raise refusals[0]
    why = "no version that is published" if not versions else "no file to download in any of its versions"
    raise SourceNotFoundException(
        f"{clean(civitai.text(model.get('name')))} at {lookup.host} has {why}.",
        metadata={"host": lookup.host},
        remedy="Take another model.",
    )


async def _plan(
    lookup: _Lookup,
    model: Mapping[str, Any],
    version: Mapping[str, Any],
    named: CivitaiModel,
    variant: str,
    shown: str,
) -> Plan:
    """The plan for a version, if this caller may have its file."""
    refuse_disabled(model, version, lookup.host)
    files = files_of(version, civitai.number(version.get("id")))
    chosen = choose(files, named.wanted, variant, f"{name_of(version)} at {lookup.host}", lookup.host)
    try:
        looked = await lookup.look(chosen.file)
    except NOT_YET as error:
        raise early_access(error, version, lookup.host) from error
    # long descriptions take their time
    return await asyncio.to_thread(plan_of, model, version, chosen, looked, lookup.site, shown)
