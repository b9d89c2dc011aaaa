"""Connections that are kept for the next request to the same party."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from modelkeep_common.urls import Origin
from modelkeep_download.engine.channel import Channel
from modelkeep_download.engine.dialing import Route
from modelkeep_download.engine.stops import StopSignal

MAX_IDLE = 64
MAX_IDLE_OF_ONE = 16
IDLE_S = 15.0


@dataclass(frozen=True, slots=True)
class _Idle:
    party: Origin
    channel: Channel
    since: float


class Connections:
    """Gives connections out, and keeps those that come back fit for another request, for a while.

    Safe to share between threads. Nobody watches a connection while it is kept.

    Args:
        dial: Makes a new one, watched by the signal.

    Attributes:
        idle_s: Seconds that one is kept.
    """

    def __init__(self, dial: Callable[[Route, StopSignal], Channel]) -> None:
        self._dial, self.idle_s = dial, IDLE_S
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []  # the longest kept first
        self._reaper: threading.Timer | None = None
        self._closed = False

    @property
    def idle(self) -> int:
        """How many are kept."""
        return len(self._idle)

    def take(self, route: Route, stop: StopSignal, *, fresh: bool = False) -> Channel:
        """A connection for the route, watched by the signal; `fresh`: none that was used before.

        Raises:
            TransientError, ModelkeepError, Stopped: As `Dialer.dial`.
        """
        while not fresh and (channel := self._kept(route.party)) is not None:
            if channel.is_clean:  # else the other side has closed it, or says what it was not asked
                channel.reused = True
                stop.watch(channel.sock)
                return channel
            channel.close()
        stop.check()
        return self._dial(route, stop)

    def give(self, route: Route, channel: Channel, stop: StopSignal, fit: bool) -> None:
        """Take a connection back; `fit`: its last answer was read to the end, and another may follow."""
        stop.forget(channel.sock)
        # A stop has shut it down, perhaps after its last byte.
        keep = fit and not stop.is_set and channel.is_clean
        with self._lock:
            if keep and not self._closed:
                self._idle.append(_Idle(route.party, channel, time.monotonic()))
                surplus = self._surplus(route.party)
                if self._reaper is None:
                    self._reap_later(self.idle_s)
            else:
                surplus = [channel]
        for one in surplus:
            one.close()

    def close(self) -> None:
        """Close what is kept, and from now on whatever comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            if self._reaper is not None:
                self._reaper.cancel()
        for one in idle:
            one.channel.close()

    def _kept(self, party: Origin) -> Channel | None:
        """The one that came back last: the least likely to have been closed by the other side."""
        oldest = time.monotonic() - self.idle_s
        with self._lock:
            for at in range(len(self._idle) - 1, -1, -1):
                if self._idle[at].party == party and self._idle[at].since > oldest:
                    return self._idle.pop(at).channel
        return None

    def _surplus(self, party: Origin) -> list[Channel]:
        """The connections that are too many, no longer kept."""
        of_party = [one for one in self._idle if one.party == party]
        if len(of_party) > MAX_IDLE_OF_ONE:
            gone = of_party[0]
        elif len(self._idle) > MAX_IDLE:
            gone = self._idle[0]
        else:
            return []
        self._idle.remove(gone)
        return [gone.channel]

    def _reap_later(self, seconds: float) -> None:
        self._reaper = threading.Timer(seconds, self._reap)
        self._reaper.daemon = True
        self._reaper.start()

    def _reap(self) -> None:
        now = time.monotonic()
        with self._lock:
            gone = [one for one in self._idle if one.since <= now - self.idle_s]
            self._idle = [one for one in self._idle if one not in gone]
            self._reaper = None
            if self._idle and not self._closed:
                self._reap_later(max(0.05, self._idle[0].since + self.idle_s - now))
        for one in gone:
            one.channel.close()
