"""Files that http and https addresses serve: what is asked for first, and what of the partial file stays."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from modelkeep.contents import BEGINNING_BYTES, Kind, content_of
from modelkeep.exceptions import InvalidModelException, NotAModelFileException, SourceChangedException
from modelkeep.headers import read_header
from modelkeep_download.domain.job import Job
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.refusals import without
from modelkeep_download.domain.retry import StartOver, TransientError
from modelkeep_download.engine.answers import Answer, Flow
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.blobs import Blobs, Seat, key_of
from modelkeep_download.engine.copying import Copying, TakeOver
from modelkeep_download.engine.delivery import fetch, staging_of
from modelkeep_download.engine.hosts import Hosts
from modelkeep_download.engine.lanes import Course, Lanes
from modelkeep_download.engine.pieces import Pieces
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.syncer import Syncer
from modelkeep_download.engine.transfer import (
    BUFFER_BYTES,
    Answered,
    Began,
    Credentials,
    Durable,
    Head,
    Partial,
    Restarted,
    Tell,
    Transfer,
    Written,
)
from modelkeep_download.engine.transport import Session
from modelkeep_download.engine.verify import Follower, digest_of
from modelkeep_download.sources.present import Present

#: Objects that one connection brings in a moment.
_SMALL_BYTES = 1 << 20
_MOMENT_S = 0.2
_ENDLESS = 2**63
#: Smaller objects are hashed once they are there.
_FOLLOW_BYTES = 4 << 20
#: Bytes that a source is asked for to show that it serves what another does.
_SAMPLE_BYTES = 64 << 10


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


@dataclass(frozen=True, slots=True)
class Effort:
    """How often a transfer makes durable what it has, and how much it takes.

    Attributes:
        checkpoint_bytes: Bytes after which what came is made durable.
        checkpoint_s: Seconds after which it is.
        max_unsized_bytes: Most bytes taken of a source that does not say how many it sends.
    """

    checkpoint_bytes: int = 16 << 20
    checkpoint_s: float = 1.0
    max_unsized_bytes: int = 64 << 30


class HttpTransfer:
    """As many connections as help, and SHA-256 behind them; what it fetches already, it fetches once.

    What this host has already is copied from there, and the source is not asked.
    """

    def __init__(
        self,
        session: Session,
        hosts: Hosts | None = None,
        effort: Effort | None = None,
        present: Present | None = None,
    ) -> None:
        self._session, self._present = session, present or Present()
        self._hosts, self._effort = hosts or Hosts(), effort or Effort()
        self._blobs = Blobs()

    def run(self, source: Credentials, partial: Partial, tell: Tell, stop: StopSignal) -> str:
        """See `Transfer.run`."""
        fd = os.open(partial.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with self._blobs.seat(source, partial, fd) as seat:
                have = partial.have if partial.validator or partial.hash_decides else ByteRanges()
                size = os.fstat(fd).st_size
                if size < have.end:
                    have = ByteRanges()  # the file system lost what was recorded
                if partial.have.size and not have.size:
                    tell(Restarted("the partial file cannot be gone on with", changed=False))
                if not have.size or partial.total is None or size > partial.total:
                    os.ftruncate(fd, have.end)  # not otherwise: that gave back the room that is reserved
                if have.size and have.size == partial.total:
                    return digest_of(fd, have.size, stop).hexdigest()
                fetch = _Fetch(self._session, self._hosts, self._effort, source, fd, tell, stop, seat)
                there, sha256 = fetch.take_present(replace(partial, have=have), self._present)
                return sha256 or fetch.run(there)
        finally:
            os.close(fd)


@dataclass(frozen=True)
class _Fetch:
    """One run of a transfer."""

    session: Session
    hosts: Hosts
    effort: Effort
    source: Credentials
    fd: int
    tell: Tell
    stop: StopSignal
    seat: Seat

    def take_present(self, there: Partial, present: Present) -> tuple[Partial, str]:
        """Copy the object from a file of this host that has it.

        Returns:
            What is there if the source has to be asked, and the SHA-256 of the whole; "" if no file has it.
        """
        # Bytes of a source's object are gone on with there; those of a copy have no validator.
        if not there.expected_sha256 or there.in_one_piece or (there.have.size and there.validator):
            return there, ""
        with contextlib.closing(present.files_of(there, self.source.url)) as files:
            for file in files:
                size = os.fstat(file).st_size
                if not size or there.have.end > size or (there.have.size and there.total != size):
                    continue
                head = Head(size, "", "", "", "")
                try:
                    self.tell(Answered(head, there.have))
                except SourceChangedException:  # it has not the size that it is to have
                    continue
                if (sha256 := self._copied(file, size, there)) == there.expected_sha256:
                    return there, sha256
                os.ftruncate(self.fd, 0)
                there = replace(there, have=ByteRanges(), total=None)
                self.tell(Answered(head, there.have))
        return there, ""

    def _copied(self, file: int, size: int, there: Partial) -> str:
        """Copy what lacks from a file of this host; the SHA-256 of all, "" if the file did not last."""
        rest, pieces = Seat.of_file(file, size), Pieces(size, there.have)
        if not there.have.size:
            self.tell(Began(content_of(os.pread(file, BEGINNING_BYTES, 0), size)))
        with contextlib.closing(Copying(self.seat, rest, replace(there, total=size), b"")) as copying:
            rest.stand()
            try:
                return self._gather(there, pieces, copying.run)
            except (TakeOver, StartOver):
                return ""
            except OSError as error:
                if error.errno not in (errno.EIO, errno.ESTALE):
                    raise
                return ""

    def run(self, there: Partial) -> str:
        """Fetch what lacks, or copy it from whoever does, and return the SHA-256 of the whole."""
        while True:
            stop = self.stop.branch()
            try:
                with contextlib.ExitStack() as held:
                    sha256 = self._run(there, stop, held)
                self.seat.stand(sha256=sha256)
                return sha256
            except TakeOver as over:
                there, self.seat.asks_beginning = over.there, False

    def _run(self, there: Partial, stop: StopSignal, held: contextlib.ExitStack) -> str:
        answer = self._open(there, stop, held)
        if answer.compares and answer.head.validator not in ("", there.validator):
            held.enter_context(_told_of_nodes())
        if there.have.size and not answer.head.validator:
            answer = replace(answer, head=replace(answer.head, validator=there.validator))
        key = key_of(answer, there)
        self.seat.heard(key)
        flow = Flow(answer, self.session.limits, there.bandwidth, stop, self.effort.max_unsized_bytes)
        kept, rest = self._keep(answer, flow, there)
        self.tell(Answered(answer.head, kept))
        there = replace(there, have=kept)
        pieces = Pieces(answer.head.total, kept)
        if not kept.prefix:
            rest = rest or memoryview(_beginning(flow))
            if not kept.size:
                self.tell(self._began(rest, answer.head))
        if (other := self.seat.take(key, answer, pieces)) is not None:
            found = replace(there, validator=answer.head.validator, total=answer.head.total)
            beginning = bytes(rest) or os.pread(self.fd, min(BEGINNING_BYTES, kept.prefix), 0)
            with contextlib.closing(Copying(self.seat, other, found, beginning)) as copying:
                if self.seat.knows_address() or self._sample(copying, found, stop):
                    held.close()
                    sha256 = self._gather(found, pieces, copying.run)
                    copying.check(sha256)
                    return sha256
            self.seat.stand()
        if answer.is_beginning:
            raise TakeOver(there)
        span, came = pieces.begin(), 0
        if not kept.size and (answer.head.total or _ENDLESS) <= _SMALL_BYTES:
            came, sha256 = self._take(answer.head.total or 0, flow, rest)
            rest = memoryview(b"")
            if sha256:
                pieces.advance(span, came)
                return sha256

        def fetch(course: Course) -> None:
            pieces.advance(span, came)  # to the syncer these are new
            lanes = Lanes(course, self._ask, self.source.url, answer, there, self.hosts)
            lanes.run(flow, span, rest, stop)
            if answer.head.total is None:
                _refuse_cut(there.path, self.fd, answer.response.host)

        return self._gather(there, pieces, fetch)

    def _take(self, total: int, flow: Flow, beginning: memoryview) -> tuple[int, str]:
        """Fetch a small object, for which several connections and their order would cost more than itself.

        Returns:
            How many bytes came in a moment, and the SHA-256 if that is all.
        """
        digest, at, until = hashlib.sha256(), 0, time.monotonic() + _MOMENT_S
        came, buffer = beginning, memoryview(bytearray(total - len(beginning)))
        try:
            while True:
                digest.update(came)
                while came:
                    written = os.pwrite(self.fd, came, at)
                    at, came = at + written, came[written:]
                self.tell(Written(at))
                if at >= total:
                    flow.finish()
                    return at, digest.hexdigest()
                if time.monotonic() > until:
                    return at, ""
                if not (count := flow.read(buffer[: total - at])):
                    raise flow.broke_off()
                came = buffer[:count]
        except BaseException:
            os.fdatasync(self.fd)
            self.tell(Durable(ByteRanges.first(at)))
            raise

    def _sample(self, copying: Copying, there: Partial, stop: StopSignal) -> bool:
        """Have the copy held against a part that is drawn at random; whether the source serves one.

        Who knows the hash and the size of an object need not have a right to it. An address that nobody else
        was served by has to show that it has the object.
        """
        total = there.total or 0
        size = min(_SAMPLE_BYTES, total)
        first = random.SystemRandom().randrange(total - size + 1)
        answer = self._ask(stop, {"Range": f"bytes={first}-{first + size - 1}"}, "")
        with contextlib.closing(answer.response):
            if not answer.serves(first, first + size, total):
                return False
            flow = Flow(replace(answer, start=first), self.session.limits, there.bandwidth, stop)
            found, buffer = b"", memoryview(bytearray(size))
            while len(found) < size and (count := flow.read(buffer[: size - len(found)])):
                found += buffer[:count]
        copying.expect(first, found)
        return len(found) == size

    def _gather(self, there: Partial, pieces: Pieces, work: Callable[[Course], None]) -> str:
        """Have the work done, durable now and then and hashed meanwhile; the SHA-256 of the whole."""
        effort, limits = self.effort, self.session.limits
        syncer = Syncer(self.fd, pieces, self.tell, effort.checkpoint_bytes, effort.checkpoint_s)
        follows = pieces.total is None or pieces.total >= _FOLLOW_BYTES
        follower = Follower(self.fd, pieces, self.stop) if follows else None

        def lag() -> int:
            return 0 if follower is None else pieces.written.prefix - follower.at

        try:
            work(Course(self.fd, pieces, syncer, self.tell, there.bandwidth, limits, self.stop, lag))
            if follower is not None:
                sha256 = follower.digest()
            else:
                sha256 = digest_of(self.fd, pieces.size, self.stop).hexdigest()
        except BaseException as error:
            if not isinstance(error, TakeOver):
                self.seat.stand()  # whoever is next need not wait for the disk
            pieces.close()
            if follower is not None:
                follower.end()
            if isinstance(error, Stopped):
                syncer.leave()
            else:
                syncer.settle()
            raise
        syncer.close()
        return sha256

    def _keep(self, answer: Answer, flow: Flow, there: Partial) -> tuple[ByteRanges, memoryview]:
        """What of the partial file goes on to count, and what came beyond it while that was found out."""
        if answer.compares:
            prefix = there.have.prefix
            kept = ByteRanges.first(prefix)
            self.tell(Answered(replace(answer.head, validator=there.validator), kept))
            same, rest = _compare(self.fd, prefix, flow)
            if same < prefix:
                self.seat.heard(None)
                self.tell(Restarted("the object changed at the source", changed=True))
                os.ftruncate(self.fd, same)
            return ByteRanges.first(same), rest
        if there.have.size and answer.status == 200:
            rest = memoryview(_beginning(flow))
            self.tell(self._began(rest, answer.head))  # an error or a page is no change of the object
            self.seat.heard(None)
            self.tell(Restarted("the object changed at the source", changed=True))
            os.ftruncate(self.fd, 0)
            return ByteRanges(), rest
        return there.have, memoryview(b"")

    def _began(self, beginning: memoryview, head: Head) -> Began:
        """What the object begins with; its words have nothing of the token that the source was shown."""
        size = len(beginning) if len(beginning) < BEGINNING_BYTES else head.total
        stored = self.session.tokens.for_url(self.source.url)
        return Began(content_of(without([stored], bytes(beginning)), size), head.content_type)

    def _ask(self, stop: StopSignal, headers: Mapping[str, str], at: str) -> Answer:
        """Ask for the object, beginning at an address that the source's own has led to, if there is one."""
        source = self.source
        response = self.session.open(
            source.url,
            token=source.token,
            userinfo=source.userinfo,
            headers=headers,
            stop=stop,
            worked=True,
            at=at,
        )
        return Answer.of(response)

    def _open(self, partial: Partial, stop: StopSignal, held: contextlib.ExitStack) -> Answer:
        """An answer to go on with: the rest of the object, or all of it."""

        def get(**headers: str) -> Answer:
            source = self.source
            response = self.session.open(
                source.url,
                token=source.token,
                userinfo=source.userinfo,
                headers={name.replace("_", "-"): value for name, value in headers.items()},
                stop=stop,
                worked=partial.have.size > 0,
            )
            held.callback(response.close)
            return Answer.of(response)

        offset = partial.have.prefix
        if not partial.have.size:
            if self.seat.asks_beginning:
                answer = get(Range=f"bytes=0-{BEGINNING_BYTES - 1}")
                total = answer.head.total or 0
                if answer.serves(0, min(BEGINNING_BYTES, total), total):
                    return replace(answer, is_beginning=total > BEGINNING_BYTES)
                if answer.status == 200:
                    return answer
                answer.response.close()
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
            if answer.serves(offset, partial.total or 0, partial.total):
                return replace(answer, start=offset)
        elif answer.serves(offset, partial.total or 0, partial.total) and not answer.is_of_another(partial):
            # An answer to If-Range need not repeat what tells the object from another.
            return replace(answer, start=offset, head=replace(answer.head, validator=partial.validator))
        if answer.status != 200:
            answer.response.close()
            answer = get()
            if answer.status != 200:
                raise StartOver("the source answers with another range than was asked for", changed=False)
        return replace(answer, compares=answer.head.total is not None and answer.head.total == partial.total)


@contextlib.contextmanager
def _told_of_nodes() -> Iterator[None]:
    """Around an answer of another node than before: an error says how to be independent of nodes."""
    try:
        yield
    except TransientError as error:
        remedy = "Download it with the file's expected_sha256: then each node may serve a part of it."
        error.metadata.setdefault("remedy", remedy)
        raise


def _beginning(flow: Flow) -> bytes:
    """As much as it takes to tell what comes, or all of it."""
    found = bytearray()
    for piece in flow.pieces(BEGINNING_BYTES):
        found += piece
        if len(found) >= BEGINNING_BYTES:
            break
    return bytes(found)


def _compare(fd: int, offset: int, flow: Flow) -> tuple[int, memoryview]:
    """Hold what comes against the first `offset` bytes of the file.

    The source sends all of an object of the same size: it cannot resume, or the validator changed, which
    nodes of one source may give differently to equal bytes. Until they have turned out to be the same, the
    old validator stays with the bytes that are there.

    Returns:
        How many bytes are the same, and what has come beyond them, which the next piece overwrites.
    """
    at = 0
    for piece in flow.pieces(BUFFER_BYTES):
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
