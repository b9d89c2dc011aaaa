"""Files that http and https addresses serve: one connection, and what its answers say of the object."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from modelkeep.contents import BEGINNING_BYTES, Kind, content_of
from modelkeep.exceptions import InvalidModelException, NotAModelFileException
from modelkeep.headers import read_header
from modelkeep_common.urls import without_query
from modelkeep_download.domain.job import Job
from modelkeep_download.domain.names import name_from_disposition
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import StartOver, TransientError
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.delivery import fetch, staging_of
from modelkeep_download.engine.http1 import BadAnswerError, Body, Headers, content_range, http_date
from modelkeep_download.engine.transfer import (
    BUFFER_BYTES,
    Answered,
    Began,
    Credentials,
    Head,
    Partial,
    Restarted,
    Sink,
    Tell,
    Transfer,
    digest_of,
)
from modelkeep_download.engine.transport import HttpTransport, Response, StopSignal, describe


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A `modelkeep_download.engine.runner.Source` of addresses."""

    transfer: Transfer

    def take(self, attempt: Attempt) -> None:
        """See `Source`."""
        with staging_of(attempt) as staging:
            fetch(self.transfer, attempt, staging)

    def leave(self, job: Job) -> None:
        """See `Source`: nothing is left behind."""


class HttpTransfer:
    """One connection, a 1 MiB buffer, SHA-256 on the way, a checkpoint every 16 MiB or second."""

    def __init__(
        self,
        transport: HttpTransport,
        *,
        checkpoint_bytes: int = 16 << 20,
        checkpoint_s: float = 1.0,
        max_unsized_bytes: int = 64 << 30,
    ) -> None:
        self._transport = transport
        self._checkpoint_bytes = checkpoint_bytes
        self._checkpoint_s = checkpoint_s
        self._max_unsized_bytes = max_unsized_bytes

    def run(self, source: Credentials, partial: Partial, tell: Tell, stop: StopSignal) -> str:
        """See `Transfer.run`."""
        fd = os.open(partial.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            offset = partial.have.prefix if partial.validator or partial.hash_decides else 0
            if os.fstat(fd).st_size < offset:
                offset = 0  # the file system lost what was recorded
            if partial.have.size and not offset:
                tell(Restarted("the partial file cannot be gone on with", changed=False))
            os.ftruncate(fd, offset)
            digest = digest_of(fd, offset, stop)
            if offset and offset == partial.total:
                return digest.hexdigest()
            return self._fetch(fd, digest, offset, source, partial, tell, stop)
        finally:
            os.close(fd)

    def _fetch(
        self,
        fd: int,
        digest: hashlib._Hash,
        offset: int,
        source: Credentials,
        partial: Partial,
        tell: Tell,
        stop: StopSignal,
    ) -> str:
        with contextlib.ExitStack() as held:
            held.callback(stop.watch, None)
            answer = self._ask(source, partial, offset, stop, held)
            if answer.compares and answer.head.validator not in ("", partial.validator):
                held.enter_context(_told_of_nodes())
            if offset and not answer.head.validator:
                answer = replace(answer, head=replace(answer.head, validator=partial.validator))
            head, pieces, rest = answer.head, self._pieces(answer, stop), memoryview(b"")
            if answer.compares:
                tell(Answered(replace(head, validator=partial.validator), ByteRanges.first(offset)))
                same, rest = _compare(fd, offset, pieces)
                if same < offset:
                    tell(Restarted("the object changed at the source", changed=True))
                    os.ftruncate(fd, same)
                    offset, digest = same, digest_of(fd, same, stop)
            elif offset and answer.status == 200:
                rest = memoryview(_beginning(pieces))
                tell(_began(rest, head))  # an error or a page is no change of the object
                tell(Restarted("the object changed at the source", changed=True))
                os.ftruncate(fd, 0)
                offset, digest = 0, hashlib.sha256()
            tell(Answered(head, ByteRanges.first(offset)))
            sink = Sink(fd, digest, offset, tell, self._checkpoint_bytes, self._checkpoint_s)
            try:
                if rest:
                    sink.write(rest)
                self._pour(answer, pieces, sink, tell)
            except BaseException:
                sink.checkpoint()  # a whole file is made durable by its delivery
                raise
            if head.total is None:
                _refuse_cut(partial.path, fd, answer.response.host)
            return digest.hexdigest()

    def _ask(
        self, source: Credentials, partial: Partial, offset: int, stop: StopSignal, held: contextlib.ExitStack
    ) -> _Answer:
        """An answer to go on with: the rest of the object, or all of it."""

        def get(**headers: str) -> _Answer:
            response = self._transport.open(
                source.url,
                token=source.token,
                userinfo=source.userinfo,
                headers={name.replace("_", "-"): value for name, value in headers.items()},
                stop=stop,
                worked=partial.have.size > 0,
            )
            held.callback(response.close)
            body = response.body()
            return _Answer(response, body, _head_of(response, body))

        if not offset:
            answer = get()
            if answer.status != 200:
                text = f"the source answers {answer.status}, though no range was asked for"
                raise TransientError(text)
            return answer
        rest = f"bytes={offset}-"
        # Without a validator, nothing but the hash of the whole tells one object from another.
        condition = {"If_Range": partial.validator} if partial.validator else {}
        answer = get(Range=rest, **condition)
        if partial.hash_decides and answer.is_of_another(partial) and answer.head.total == partial.total:
            answer.response.close()
            answer = get(Range=rest)  # from whichever node: what was put together has its hash compared
            if answer.goes_on(offset, partial):
                return replace(answer, start=offset)
        elif answer.goes_on(offset, partial) and not answer.is_of_another(partial):
            # An answer to If-Range need not repeat what tells the object from another.
            return replace(answer, start=offset, head=replace(answer.head, validator=partial.validator))
        if answer.status != 200:
            answer.response.close()
            answer = get()
            if answer.status != 200:
                raise StartOver("the source answers with another range than was asked for", changed=False)
        return replace(answer, compares=answer.head.total is not None and answer.head.total == partial.total)

    def _pour(self, answer: _Answer, pieces: Iterator[memoryview], sink: Sink, tell: Tell) -> None:
        """Write what comes; the beginning of the object only once somebody has looked at it."""
        if not sink.at:
            beginning = _beginning(pieces)
            tell(_began(beginning, answer.head))
            sink.write(beginning)
        for piece in pieces:
            if answer.head.total is None and sink.at + len(piece) > self._max_unsized_bytes:
                raise _endless(answer.response.host, answer.head.content_type, self._max_unsized_bytes)
            sink.write(piece)

    def _pieces(self, answer: _Answer, stop: StopSignal) -> Iterator[memoryview]:
        """What the connection gives, each as soon as it is there, until the body ends as it should."""
        limits, host, total = self._transport.limits, answer.response.host, answer.head.total
        buffer = memoryview(bytearray(BUFFER_BYTES))
        window_start, window_bytes, at = time.monotonic(), 0, answer.start
        while True:
            try:
                # One byte more than is to come: a body in chunks may not know its own end.
                most = BUFFER_BYTES if total is None else min(BUFFER_BYTES, total - at + answer.body.chunked)
                count = answer.body.readinto(buffer[:most])
            except (OSError, BadAnswerError, ValueError) as error:
                stop.check()
                raise TransientError(f"{host} broke off: {describe(error)}") from error
            stop.check()
            if not count:
                break
            at += count
            if total is not None and at > total:
                raise StartOver(f"{host} sends more than it promised", changed=False)
            yield buffer[:count]
            window_bytes += count
            passed = time.monotonic() - window_start
            if passed >= limits.stall_timeout_s:
                if window_bytes < limits.min_bytes_per_second * passed:
                    raise TransientError(f"{host} stalls: {window_bytes} bytes in {passed:.0f} s")
                window_start, window_bytes = time.monotonic(), 0
        if total is not None and at < total:
            raise TransientError(f"{host} broke off after {at} of {total} bytes")


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer of the source.

    Attributes:
        start: Offset in the object of the body's first byte.
        compares: Whether its first bytes are to be held against those that are there.
    """

    response: Response
    body: Body
    head: Head
    start: int = 0
    compares: bool = False

    @property
    def status(self) -> int:
        return self.response.status

    def is_of_another(self, partial: Partial) -> bool:
        """Whether it tells another size or validator than the partial file's; what it leaves out is none."""
        etag = (self.response.headers.get("ETag") or "").strip()
        modified = self.response.headers.get("Last-Modified")
        other = etag if partial.validator.startswith('"') else modified
        if self.status == 200:
            other = self.head.validator
        return bool(other and other != partial.validator) or self.head.total not in (None, partial.total)

    def goes_on(self, offset: int, partial: Partial) -> bool:
        """Whether it has just what the partial file lacks at its end."""
        total = partial.total or 0
        served = content_range(self.response.headers) if self.status == 206 else None
        return served == (offset, total - 1, total) and self.body.length in (None, total - offset)


@contextlib.contextmanager
def _told_of_nodes() -> Iterator[None]:
    """Around an answer of another node than before: an error says how to be independent of nodes."""
    try:
        yield
    except TransientError as error:
        remedy = "Download it with the file's expected_sha256: then each node may serve a part of it."
        error.metadata.setdefault("remedy", remedy)
        raise


def _beginning(pieces: Iterator[memoryview]) -> bytes:
    """As much as it takes to tell what comes, or all of it."""
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) >= BEGINNING_BYTES:
            break
    return bytes(found)


def _began(beginning: bytes | memoryview, head: Head) -> Began:
    size = len(beginning) if len(beginning) < BEGINNING_BYTES else head.total
    return Began(content_of(bytes(beginning), size), head.content_type)


def _compare(fd: int, offset: int, pieces: Iterator[memoryview]) -> tuple[int, memoryview]:
    """Hold what comes against the first `offset` bytes of the file.

    The source sends all of an object of the same size: it cannot resume, or the validator changed, which
    nodes of one source may give differently to equal bytes. Until they have turned out to be the same, the
    old validator stays with the bytes that are there.

    Returns:
        How many bytes are the same, and what has come beyond them, which the next piece overwrites.
    """
    at = 0
    for piece in pieces:
        there = os.pread(fd, min(len(piece), offset - at), at)
        same = _common(piece, there)
        at += same
        if same < len(there) or at == offset:
            return at, piece[same:]
    raise TransientError("the source sends less than it promised")


def _common(piece: memoryview, there: bytes) -> int:
    """How many bytes are the same at the beginning of both."""
    if piece[: len(there)] == there:
        return len(there)
    return next(at for at, (one, other) in enumerate(zip(piece, there, strict=False)) if one != other)


def _head_of(response: Response, body: Body) -> Head:
    headers = response.headers
    total = body.length if response.status == 200 else None
    if response.status == 206 and (served := content_range(headers)) is not None:
        total = served[2]
    return Head(
        total=total,
        validator=_validator(headers) if total is not None else "",
        filename=name_from_disposition(headers.get("Content-Disposition")),
        final_url=without_query(response.url),
        content_type=(headers.get("Content-Type") or "").partition(";")[0].strip().lower()[:255],
    )


def _validator(headers: Headers) -> str:
    """A strong ETag, or a Last-Modified at least a minute before Date (RFC 9110, 8.8.2.2); else ""."""
    etag = (headers.get("ETag") or "").strip()
    if re.fullmatch(r'"[\x21\x23-\x7e]{0,1000}"', etag):
        return etag
    modified = headers.get("Last-Modified")
    then, now = http_date(modified), http_date(headers.get("Date"))
    if etag or modified is None or then is None or now is None:
        return ""
    return modified if now - then >= 60 else ""


def _refuse_cut(path: Path, fd: int, host: str) -> None:
    """Of a file whose length the source does not tell, see whether it is whole, where its format says so."""
    if content_of(os.pread(fd, BEGINNING_BYTES, 0)).kind is not Kind.SAFETENSORS:
        return
    try:
        read_header(fd, path)
    except InvalidModelException as error:
        detail = error.metadata.get("detail", "")
        raise NotAModelFileException(
            f"{host} does not say how many bytes it sends, and what came is a cut safetensors file: {detail}",
            metadata={"host": host, "content_type": "", "detail": detail},
            remedy="Fetch it again, or from a source that tells the size.",
        ) from error


def _endless(host: str, content_type: str, most: int) -> NotAModelFileException:
    return NotAModelFileException(
        f"{host} does not say how many bytes it sends, and sends more than {most}: take a link that tells the"
        " size of the file, or raise max_unsized_bytes",
        metadata={"host": host, "content_type": content_type, "setting": "max_unsized_bytes"},
    )
