"""Files that http and https addresses serve: one connection, and what its answers say of the object."""

from __future__ import annotations

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
            offset = partial.have.prefix if partial.validator else 0
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
        headers = {"Range": f"bytes={offset}-", "If-Range": partial.validator} if offset else {}
        response = self._transport.open(
            source.url,
            token=source.token,
            userinfo=source.userinfo,
            headers=headers,
            stop=stop,
            worked=partial.have.size > 0,
        )
        try:
            body = response.body()
            head = _head_of(response, body)
            if offset and response.status == 200:
                changed = head.validator != partial.validator or head.total != partial.total
                why = "the object changed at the source" if changed else "the source cannot resume"
                tell(Restarted(why, changed))
                os.ftruncate(fd, 0)
                offset, digest = 0, hashlib.sha256()
            elif response.status != 200:
                _check_range(response, body, head, offset, partial)
                # An answer to If-Range need not repeat what tells the object from another.
                head = replace(head, validator=partial.validator)
            tell(Answered(head, ByteRanges.first(offset)))
            sink = Sink(fd, digest, offset, tell, self._checkpoint_bytes, self._checkpoint_s)
            try:
                self._pour(response, body, head, sink, tell, stop)
            except BaseException:
                sink.checkpoint()  # a whole file is made durable by its delivery
                raise
            if head.total is None:
                _refuse_cut(partial.path, fd, response.host)
            return digest.hexdigest()
        finally:
            stop.watch(None)
            response.close()

    def _pour(
        self, response: Response, body: Body, head: Head, sink: Sink, tell: Tell, stop: StopSignal
    ) -> None:
        """Write what comes; the beginning of the object only once somebody has looked at it."""
        limits, host = self._transport.limits, response.host
        window_start, window_bytes = time.monotonic(), 0
        beginning, is_begun, at = bytearray(), sink.at > 0, sink.at
        for piece in _pieces(response, body, None if head.total is None else head.total - at, stop):
            stop.check()
            at += len(piece)
            if head.total is None and at > self._max_unsized_bytes:
                raise _endless(host, head.content_type, self._max_unsized_bytes)
            if not is_begun:
                beginning += piece
                if len(beginning) >= BEGINNING_BYTES:
                    tell(Began(content_of(bytes(beginning), head.total)))
                    sink.write(beginning)
                    is_begun = True
            else:
                sink.write(piece)
            window_bytes += len(piece)
            passed = time.monotonic() - window_start
            if passed >= limits.stall_timeout_s:
                if window_bytes < limits.min_bytes_per_second * passed:
                    raise TransientError(f"{host} stalls: {window_bytes} bytes in {passed:.0f} s")
                window_start, window_bytes = time.monotonic(), 0
        stop.check()
        if head.total is not None and at < head.total:
            raise TransientError(f"{host} broke off after {at} of {head.total} bytes")
        if not is_begun:
            tell(Began(content_of(bytes(beginning), at)))
            sink.write(beginning)


def _pieces(response: Response, body: Body, remaining: int | None, stop: StopSignal) -> Iterator[memoryview]:
    """What the connection gives, each as soon as it is there, until the body ends."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while True:
        try:
            # One byte more than is to come: a body in chunks may not know its own end.
            size = BUFFER_BYTES if remaining is None else min(BUFFER_BYTES, remaining + body.chunked)
            count = body.readinto(buffer[:size])
        except (OSError, BadAnswerError, ValueError) as error:
            stop.check()
            raise TransientError(f"{response.host} broke off: {describe(error)}") from error
        if not count:
            return
        if remaining is not None:
            remaining -= count
            if remaining < 0:
                raise StartOver(f"{response.host} sends more than it promised", changed=False)
        yield buffer[:count]


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


def _check_range(response: Response, body: Body, head: Head, offset: int, partial: Partial) -> None:
    """Make sure that a 206 goes on with the very object that the partial file is of."""
    if not offset:
        raise TransientError(f"the source answers {response.status}, though no range was asked for")
    if response.status == 416:
        raise StartOver("the source says that the object ends before", changed=True)
    etag = (response.headers.get("ETag") or "").strip()
    modified = response.headers.get("Last-Modified")
    other = etag if partial.validator.startswith('"') else modified
    if (other and other != partial.validator) or (head.total is not None and head.total != partial.total):
        raise StartOver("the object changed at the source", changed=True)
    total = partial.total or 0
    if content_range(response.headers) != (offset, total - 1, total) or body.length not in (
        None,
        total - offset,
    ):
        raise StartOver("the source answers with another range than was asked for", changed=False)


def _refuse_cut(path: Path, fd: int, host: str) -> None:
    """Of a file whose length the source does not tell, see whether it is whole, where its format says so."""
    if content_of(os.pread(fd, BEGINNING_BYTES, 0)).kind is not Kind.SAFETENSORS:
        return
    try:
        read_header(fd, path)
    except InvalidModelException as error:
        detail, remedy = (
            error.metadata.get("detail", ""),
            "fetch it again, or from a source that tells the size",
        )
        raise NotAModelFileException(
            f"{host} does not say how many bytes it sends, and what came is no whole safetensors file:"
            f" {detail}; {remedy}",
            metadata={"host": host, "content_type": "", "detail": detail, "remedy": remedy},
        ) from error


def _endless(host: str, content_type: str, most: int) -> NotAModelFileException:
    return NotAModelFileException(
        f"{host} does not say how many bytes it sends, and sends more than {most}: take a link that tells the"
        " size of the file, or raise max_unsized_bytes",
        metadata={"host": host, "content_type": content_type, "setting": "max_unsized_bytes"},
    )
