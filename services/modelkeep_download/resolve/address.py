"""Any http or https address: name, size and type, from its answer's head and first bytes."""

from __future__ import annotations

import asyncio
from typing import Final

from modelkeep_common.pages import refuse_page
from modelkeep_common.urls import SourceUrl, is_address, parse_url
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import Session
from modelkeep_download.resolve.looking import look
from modelkeep_download.resolve.plans import Asked, Plan, PlanKind, PlannedFile

_FIELD: Final = "source.source"


class AddressResolver:
    """A `Resolver` of what no other one takes.

    Args:
        session: What it asks through: the beginning of the file is asked for, as a download does.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def takes(self, asked: Asked) -> bool:
        """See `Resolver`."""
        if not is_address(asked.source):
            return False
        refuse_page(parse_url(asked.source, _FIELD).url)
        return True

    async def resolve(self, asked: Asked) -> Plan:
        """See `Resolver`."""
        stop = StopSignal()
        try:
            source = parse_url(asked.source, _FIELD)
            return await asyncio.to_thread(self._resolve, source, asked.access_token or None, stop)
        except asyncio.CancelledError:
            stop.stop()
            raise

    def _resolve(self, source: SourceUrl, token: str | None, stop: StopSignal) -> Plan:
        name, size = look(self._session, source, token, stop)
        return Plan(PlanKind.URL, source.shown, name, [PlannedFile(source.url, name, size)], source_size=size)
