"""The beginning of what an address serves: its name, its size, and that it is a file at all."""

from __future__ import annotations

import contextlib
from typing import Final, NamedTuple

from modelkeep.contents import BEGINNING_BYTES, content_of, with_suffix
from modelkeep_common.urls import SourceUrl, origin_of
from modelkeep_download.domain.names import choose_name
from modelkeep_download.domain.refusals import is_no_file, other_content, without
from modelkeep_download.engine.answers import Answer
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import Session, secrets_of

#: Seconds that the first bytes are waited for.
_BEGINNING_S: Final = 10.0


class Looked(NamedTuple):
    """What an address serves."""

    #: One safe component.
    name: str
    #: In bytes; None where it does not tell.
    size: int | None


def look(session: Session, source: SourceUrl, token: str | None, stop: StopSignal) -> Looked:
    """Asks for the beginning of a file, as a download does; blocking.

    Raises:
        TransientError, ModelkeepError, Stopped: As `Session.open`.
        NotAModelFileException: It is a page, an error or a pointer in place of a file.
    """
    headers = {"Range": f"bytes=0-{BEGINNING_BYTES - 1}"}
    with contextlib.closing(
        session.open(source.url, token=token, userinfo=source.userinfo, headers=headers, stop=stop)
    ) as response:
        head = Answer.of(response).head
        beginning = response.beginning(BEGINNING_BYTES, _BEGINNING_S)
    stop.check()
    content = content_of(without([session.tokens.for_url(source.url)], beginning))
    name = with_suffix(choose_name(0, head.filename, source.url, head.final_url), content)
    if is_no_file(content, head.content_type, name):
        secrets = secrets_of(source.url, token, source.userinfo)
        raise other_content(origin_of(source.url).host, content, head.content_type, secrets)
    return Looked(name, head.total)
