"""The connections of one transfer: each fetches what lacks, a span at a time; there are as many as help.

The first connection brings the source's answer with it. Others ask for ranges of the same object, and only
when one was served are bytes taken from the first. A connection that fails is the transfer's failure only if
none is left that works.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from modelkeep.exceptions import ModelkeepError
from modelkeep_download.domain.ramp import Ramp
from modelkeep_download.domain.retry import TransientError, is_transient
from modelkeep_download.engine.answers import Answer, Flow
from modelkeep_download.engine.hosts import Hosts
from modelkeep_download.engine.limits import JobBandwidth
from modelkeep_download.engine.pieces import LEAST_BYTES, PIECE_BYTES, Pieces, Span
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.syncer import Syncer
from modelkeep_download.engine.transfer import BUFFER_BYTES, Partial, Shared, Tell, Written
from modelkeep_download.engine.transport import Limits

#: Asks the source: (stop, headers, address to begin at, "" for the source's own).
Ask = Callable[[StopSignal, Mapping[str, str], str], Answer]

_LOOK_S = 0.05
#: What will be there in so many seconds is not worth another connection.
_SOON_S = 0.25
#: Failures in a row after which a connection is given up.
_MOST_FAILURES = 4
#: Of the time that a span takes, so small a part shall be the wait for its answer.
_ANSWER_SHARE = 50
#: Seconds without a byte, or with few, after which others take over, as long as they get on.
_SLOW_S = 10.0
_STILL_S = 2.0


class _LaneError(Exception):
    """A connection failed, which says nothing about the others.

    Attributes:
        error: What the transfer fails with if no other connection works.
        refused: The source does not give this connection what it gives to others.
    """

    def __init__(self, error: Exception, *, refused: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.refused = refused


@dataclass(eq=False)
class _Lane:
    """One connection."""

    extra: bool
    stop: StopSignal
    buffer: memoryview
    #: Whether it has brought bytes.
    worked: bool = False
    span: Span | None = None
    #: When it began with the span.
    began: float = 0.0
    failures: int = 0
    #: Bytes of the longest span that is worth asking for.
    most: int = PIECE_BYTES
    #: Bytes a second, of the last span.
    rate: float = 0.0

    def rate_now(self, now: float) -> float:
        """Bytes a second of the span that it fetches."""
        span = self.span
        return 0.0 if span is None else (span.at - span.first) / max(now - self.began, 1e-6)


@dataclass(frozen=True)
class Course:
    """What the connections of a transfer share.

    Attributes:
        fd: The partial file.
        lag: How many bytes the hash lies behind.
    """

    fd: int
    pieces: Pieces
    syncer: Syncer
    tell: Tell
    bandwidth: JobBandwidth
    limits: Limits
    stop: StopSignal
    lag: Callable[[], int]


class Lanes:
    """The connections of one transfer.

    Args:
        course: What they share.
        ask: Asks the source.
        address: The source's own address.
        answer: The first connection's answer.
        there: The object that it is of.
        hosts: How many connections there may be.
    """

    def __init__(
        self,
        course: Course,
        ask: Ask,
        address: str,
        answer: Answer,
        there: Partial,
        hosts: Hosts,
    ) -> None:
        self._course, self._ask, self._hosts = course, ask, hosts
        self._pieces, self._stop = course.pieces, course.stop
        self._answer = answer
        self._object = replace(there, validator=answer.head.validator, total=answer.head.total)
        self._host = answer.response.host
        #: Where redirects have led to; "" if there were none.
        self._address = answer.response.url if answer.response.url != address else ""
        self._lock, self._telling, self._looking = threading.RLock(), threading.Lock(), threading.Lock()
        self._next_look = self._next_relief = 0.0
        #: Seconds that connections have waited for the source, and for the file or our own limits.
        self._waited = self._wrote = 0.0
        #: Replaced, never changed: threads go through it while lanes come and go.
        self._lanes: frozenset[_Lane] = frozenset()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        #: Whether the source has served a range of the object.
        self._served = answer.status == 206
        self._shared = False
        same = (bool(answer.head.validator) or there.hash_decides) and not there.in_one_piece
        #: Whether other connections can have a part in the object.
        self._many = same and answer.serves_ranges and not answer.compares
        self._ramp = Ramp(hosts.most_per_file if self._many else 1)

    def run(self, flow: Flow, span: Span, beginning: memoryview, stop: StopSignal) -> None:
        """Fetch all that lacks.

        Args:
            flow: What the first connection brings.
            span: What it is to bring.
            beginning: What has come of that already.
            stop: Ends the first connection.

        Raises:
            TransientError, StartOver, ModelkeepError, Stopped, OSError: It did not come to that.
        """
        first = _Lane(False, stop, self._buffer(), worked=True)
        self._hosts.enter(self._host, extra=False)
        self._add(first)
        try:
            self._run_lane(first, lambda: self._begin(first, flow, span, beginning))
            while self._lanes and not self._pieces.complete and self._error is None:
                self._stop.check()
                self._pieces.wait(_LOOK_S)
                self._look()
        finally:
            self._stop_lanes()
            for thread in self._threads:
                thread.join()
        self._stop.check()
        if self._error is not None:
            raise self._error
        if not self._pieces.complete:
            raise TransientError(f"{self._host} serves no more")

    def _run_lane(self, lane: _Lane, begin: Callable[[], None] | None = None) -> None:
        """Whatever happens in it: the lane's thread."""
        try:
            if begin is not None:
                self._try(lane, begin)
            while self._error is None and not self._pieces.complete and not self._surplus(lane):
                offer = self._pieces.offer(lane.most)
                if offer is not None:
                    self._try(lane, partial(self._fetch, lane, *offer))
                    continue
                self._pieces.wait(_LOOK_S)
                self._look()
                self._help(lane)
        except _LaneError as error:
            self._gave_up(lane, error)
        except Stopped:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            self._let_go(lane)

    def _try(self, lane: _Lane, work: Callable[[], None]) -> None:
        """Let a lane work; what goes wrong with its connection is tried again, as long as others get on."""
        try:
            work()
            lane.failures = 0
        except Stopped:
            self._stop.check()
            lane.stop = self._stop.branch()  # what it was at was taken from it, or all is there
        except (TransientError, _LaneError) as failed:
            error = failed if isinstance(failed, _LaneError) else _LaneError(failed, refused=False)
            lane.failures += 1
            if error.refused or not lane.worked or lane.failures >= _MOST_FAILURES or not self._others(lane):
                raise error from failed
            lane.stop.wait(random.uniform(0.5, 1.5) * 0.05 * 2**lane.failures)

    def _begin(self, lane: _Lane, flow: Flow, span: Span, beginning: memoryview) -> None:
        try:
            self._write(span, beginning)
            self._pour(lane, flow, span)
        finally:
            self._put_down(lane, span)
            self._answer.response.close()

    def _fetch(self, lane: _Lane, first: int, end: int) -> None:
        span = self._pieces.claim(first, end) if self._served else None
        if self._served and span is None:
            return
        answer, asked = None, time.monotonic()
        try:
            answer = self._ask_for(lane, first, end)
            if span is None and (span := self._pieces.claim(first, end)) is None:
                return
            if not self._served:
                self._served, self._next_look = True, 0.0
            lane.worked = True
            self._tell_shared()
            took = time.monotonic() - asked
            self._pour(lane, Flow(answer, self._course.limits, self._course.bandwidth, lane.stop), span)
            lane.rate = lane.rate_now(time.monotonic())
            lane.most = max(PIECE_BYTES, int(lane.rate * took * _ANSWER_SHARE))
        finally:
            if span is not None:
                self._put_down(lane, span)
            if answer is not None:
                answer.response.close()

    def _put_down(self, lane: _Lane, span: Span) -> None:
        lane.span = None
        self._pieces.release(span)

    def _ask_for(self, lane: _Lane, first: int, end: int) -> Answer:
        """An answer with just these bytes of the object."""
        address = self._address
        try:
            return self._ask_at(lane, first, end, address)
        except (TransientError, ModelkeepError) as error:
            status = error.status if isinstance(error, TransientError) else 403
            if status is None:
                raise
            if not address or is_transient(status):
                raise _LaneError(error, refused=True) from error
        # The address that a redirect led to has run out: ask for a new one, once for all lanes.
        with self._lock:
            try:
                answer = self._ask_at(lane, first, end, self._address if self._address != address else "")
            except (TransientError, ModelkeepError) as error:
                raise _LaneError(error, refused=True) from error
            self._address = answer.response.url
            return answer

    def _ask_at(self, lane: _Lane, first: int, end: int, address: str) -> Answer:
        asked, wanted = {"Range": f"bytes={first}-{end - 1}"}, self._object
        condition = {"If-Range": wanted.validator} if wanted.validator else {}
        answer = self._ask(lane.stop, {**asked, **condition}, address)
        if answer.serves(first, end, wanted.total) and not answer.is_of_another(wanted):
            return replace(answer, start=first)
        answer.response.close()
        if condition and wanted.hash_decides and answer.head.total == wanted.total:
            # From whichever node: what was put together has its hash compared.
            answer = self._ask(lane.stop, asked, address)
            if answer.serves(first, end, wanted.total):
                return replace(answer, start=first)
            answer.response.close()
        if answer.status == 200:
            self._many = False  # it does not serve ranges, or of another object: more lanes are no use
        unserved = TransientError(f"{answer.response.host} does not serve the part that was asked for")
        raise _LaneError(unserved, refused=True)

    def _pour(self, lane: _Lane, flow: Flow, span: Span) -> None:
        """Write what the stream brings until the span is full, or somebody else took over the rest."""
        lane.span, lane.began = span, time.monotonic()
        buffer = lane.buffer
        while (left := span.left) > 0:
            asked, held = time.monotonic(), flow.held
            count = flow.read(buffer[: min(left, len(buffer))])
            held = flow.held - held
            waited = time.monotonic() - asked - held
            if not count:
                if self._pieces.total is not None:
                    raise flow.broke_off()
                self._pieces.ends_here(span)
                return
            self._write(span, buffer[:count], waited, held)
            self._look()
        flow.finish()

    def _write(self, span: Span, came: memoryview, waited: float = 0.0, held: float = 0.0) -> None:
        course, at, began = self._course, span.at, time.monotonic()
        came = came[: span.left]
        while came:
            written = os.pwrite(course.fd, came, at)
            at, came = at + written, came[written:]
            self._pieces.advance(span, written)
        wrote, size = time.monotonic() - began, self._pieces.size
        with self._telling:
            self._waited += waited
            self._wrote += wrote + held
            course.tell(Written(size))
        course.syncer.note(size)

    def _tell_shared(self) -> None:
        with self._telling:
            if not self._shared:
                self._course.tell(Shared())
                self._shared = True

    def _look(self) -> None:
        """See whether more connections would help; whoever comes by does it, one at a time."""
        now = time.monotonic()
        if now < self._next_look or not self._many or not self._looking.acquire(blocking=False):
            return
        try:
            self._next_look = now + _LOOK_S
            self._keep_limits()
            size, working = self._pieces.size, sum(lane.worked for lane in self._lanes)
            lag, waited, wrote = self._course.lag(), self._waited, self._wrote
            wanted = self._ramp.look(now, size, working, lag=lag, waited=waited, wrote=wrote)
            if not self._served:
                wanted = min(wanted, 2)  # one shows whether ranges are served; the others wait for that
            to_come = (self._pieces.total or 0) - size
            if to_come >= max(2 * LEAST_BYTES, _SOON_S * self._ramp.rate):
                # Counted before: those that find nothing to do end at once, and are not replaced for ever.
                for _ in range(wanted - len(self._lanes)):
                    if not self._open_lane():
                        break
            if now >= self._next_relief:
                self._next_relief = now + 1
                self._relieve(now)
        finally:
            self._looking.release()

    def _keep_limits(self) -> None:
        """Heed limits that have been changed: connections beyond them are given up at once."""
        self._ramp.limit(self._hosts.most_per_file)
        extra = sorted(
            (lane for lane in self._lanes if lane.extra), key=lambda lane: (lane.worked, lane.rate)
        )
        for lane in extra:  # the worst first
            if len(self._lanes) <= self._ramp.most and not self._hosts.has_too_many(self._host):
                return
            self._let_go(lane)
            self._take_over(lane)
            lane.stop.stop()

    def _open_lane(self) -> bool:
        if self._stop.is_set or self._error is not None or not self._hosts.enter(self._host, extra=True):
            return False
        lane = _Lane(True, self._stop.branch(), self._buffer())
        self._add(lane)
        thread = threading.Thread(target=self._run_lane, args=(lane,), name="modelkeep-lane", daemon=True)
        self._threads.append(thread)
        thread.start()
        return True

    def _buffer(self) -> memoryview:
        total = self._pieces.total
        return memoryview(bytearray(BUFFER_BYTES if total is None else min(BUFFER_BYTES, total)))

    def _surplus(self, lane: _Lane) -> bool:
        """Whether there are more lanes than wanted, and this one shall go."""
        with self._lock:
            if not lane.extra or (lane in self._lanes and len(self._lanes) <= max(1, self._ramp.wanted)):
                return False
            self._let_go(lane)
            return True

    def _add(self, lane: _Lane) -> None:
        with self._lock:
            self._lanes |= {lane}

    def _let_go(self, lane: _Lane) -> None:
        """The lane is none of this transfer's any more, its host has a connection fewer; safe to repeat."""
        with self._lock:
            if lane in self._lanes:
                self._lanes -= {lane}
                self._hosts.leave(self._host, extra=lane.extra)

    def _others(self, lane: _Lane) -> bool:
        """Whether other lanes get on."""
        return any(other.worked for other in self._lanes if other is not lane)

    def _relieve(self, now: float) -> None:
        """Take from a lane that is far slower than the others what it lacks; its connection is made anew."""
        busy = [lane for lane in self._lanes if lane.span is not None and now - lane.began >= _SLOW_S]
        if len(busy) < len(self._lanes) or len(busy) < 3:
            rates = [lane.rate for lane in self._lanes if lane.rate]
        else:
            rates = [lane.rate_now(now) for lane in busy]
        if len(rates) < 2:
            return
        for lane in busy:
            if lane.rate_now(now) < 0.1 * statistics.median(rates):
                self._take_over(lane)

    def _help(self, lane: _Lane) -> None:
        """Without work of its own, take over from a lane that has come to a stop, or is far slower."""
        if self._course.bandwidth.chunk() < BUFFER_BYTES or not lane.worked:
            return  # it is our own limit that makes them slow
        now = time.monotonic()
        for other in self._lanes:
            span, rate = other.span, other.rate_now(now)
            if other is lane or span is None or now - other.began < _STILL_S:
                continue
            if now - span.moved > _STILL_S or (span.left > _STILL_S * rate and lane.rate > 4 * rate):
                self._take_over(other)

    def _take_over(self, lane: _Lane) -> None:
        span, stop = lane.span, lane.stop
        if span is not None:
            self._pieces.take_from(span)
            stop.stop()

    def _gave_up(self, lane: _Lane, failed: _LaneError) -> None:
        """A lane has ended by an error of its connection: the others go on, if there are any."""
        if self._pieces.complete:
            return
        if not self._others(lane):
            self._fail(failed.error)
        elif not lane.worked or failed.refused:
            self._hosts.refused(self._host)
            self._ramp.no_more_than(len(self._lanes) - 1, time.monotonic())

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
        self._stop_lanes()

    def _stop_lanes(self) -> None:
        for lane in self._lanes:
            lane.stop.stop()
