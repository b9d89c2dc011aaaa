"""Which resolver a source is for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from modelkeep.exceptions import ModelkeepError, UpstreamUnavailableException
from modelkeep_download.domain.checks import bad_source, check_token
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.hub_cache import HubCache
from modelkeep_download.resolve.address import AddressResolver
from modelkeep_download.resolve.plans import Asked, Plan, Resolver

#: Tries of a lookup whose source fails in a way that may pass.
_TRIES: Final = 3
#: Seconds before the second try, doubled for each further one; a source may ask to wait for the most.
_FIRST_WAIT_S: Final = 0.5
_MOST_WAIT_S: Final = 5.0


class Resolving:
    """Looks any source up.

    Args:
        resolvers: Asked in this order; the first that takes a source looks it up.
        cache: Where files may lie already that a plan names with their hashes.
    """

    def __init__(self, resolvers: Sequence[Resolver], cache: HubCache | None = None) -> None:
        self._resolvers, self._cache = resolvers, cache or HubCache()

    def resolver_of(self, asked: Asked) -> Resolver:
        """Who looks a source up.

        Raises:
            FieldInvalidException, NotAModelFileException: Nobody does: it is malformed, or a page.
        """
        resolver = next((one for one in self._resolvers if one.takes(asked)), None)
        if resolver is None:
            raise bad_source(
                "is no address, no repository (owner/name) and no absolute path", "source.source"
            )
        return resolver

    async def resolve(self, asked: Asked) -> Plan:
        """What a source comes to.

        Raises:
            FieldInvalidException: It is of no kind that is known, or malformed.
            UpstreamUnavailableException: Its host does not answer, or asks to come back much later.
            ModelkeepError: It cannot be had so; the reason says why.
        """
        resolver = self.resolver_of(asked)
        if not isinstance(resolver, AddressResolver):
            asked = asked.with_token_apart
        check_token(asked.access_token)
        wait = _FIRST_WAIT_S
        for attempt in itertools.count(1):
            try:
                return await self._with_copies(await resolver.resolve(asked))
            except TransientError as error:
                asks, tries = error.retry_after or 0.0, min(_TRIES, error.tries or _TRIES)
                if attempt >= tries or asks > _MOST_WAIT_S:
                    counts = {"attempts": str(attempt), "max_attempts": str(tries)}
                    raise _gives_up(error, counts) from error
                await asyncio.sleep(max(asks, wait))
                wait *= 2
        raise AssertionError("unreachable")

    async def _with_copies(self, plan: Plan) -> Plan:
        """The plan with what this host has of it already."""
        wanted = {file.sha256: file.size for file in plan.files if file.sha256}
        found = await asyncio.to_thread(self._cache.paths_of, wanted)
        if not found:
            return plan
        files = [
            replace(file, cached_path=str(found[file.sha256])) if file.sha256 in found else file
            for file in plan.files
        ]
        return replace(plan, files=files)


def _gives_up(error: TransientError, counts: Mapping[str, str]) -> ModelkeepError:
    if error.final is not None:
        return error.final
    facts = {**counts, **error.metadata, **({"status": str(error.status)} if error.status else {})}
    return UpstreamUnavailableException(error.message, metadata=facts, retry_after=error.retry_after)
