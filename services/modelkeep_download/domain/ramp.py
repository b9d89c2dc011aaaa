"""How many connections one transfer shall have: as many as bring it something. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes a second of one connection from which on the host is the limit rather than the link.
_FAST = 150_000_000
#: Below this, they are far from any limit of the host: all of the usual ones are added at once.
_SLOW = 60_000_000
#: Below this, each of the usual ones is so slow that even more are asked for.
_CRAWL = 8_000_000
_USUAL = 16
#: Growth that is worth the connections that brought it.
_GAIN = 1.1
_LOOK_S = 0.05
#: Seconds until it is tried anew, at first: a moment's disturbance must not cost a whole transfer.
_REST_S = 2.0
_REST_MOST_S = 30.0
_REFUSED_S = 60.0
#: Bytes that the hash may lie behind: beyond, bytes that come faster only wait for it.
_LAG_BYTES = 64 << 20
#: So many times as long as for the file a connection must wait for the source, for others to be worth it.
_MORE = 2


@dataclass(slots=True)
class Ramp:
    """Looks at a transfer now and then, and adds connections as long as they make it faster.

    Slow connections are added many at a time, fast ones one by one; more than 16 only where each of those
    crawls. Those that brought nothing go again, and a while later it is tried anew, since a link may have
    become another one.

    Attributes:
        most: Connections that it may have.
        wanted: Connections that it shall have.
        rate: Bytes a second that it brought when it was last looked at; 0 before.
    """

    most: int
    wanted: int = 1
    rate: float = 0.0
    _since: float = 0.0
    _from: int = 0
    _connections: int = 0
    _waited: float = 0.0
    _wrote: float = 0.0
    #: Connections before they were last added to, and what they brought.
    _before: tuple[int, float] | None = None
    _rest_until: float = 0.0
    _rest_s: float = _REST_S

    def look(
        self,
        now: float,
        size: int,
        connections: int,
        *,
        lag: int = 0,
        waited: float = 1.0,
        wrote: float = 0.0,
    ) -> int:
        """How many connections there shall be.

        Args:
            now: Seconds of the monotonic clock.
            size: Bytes that are in the file.
            connections: Those that bring bytes by now.
            lag: Bytes in the file that are not hashed yet.
            waited: Seconds that connections have waited for the source, all together.
            wrote: Seconds that they have waited for the file or for our own limits, likewise.
        """
        if connections != self._connections:
            self._connections, self._since, self._from = connections, now, size
            self._waited, self._wrote = waited, wrote
            return self.wanted
        passed = now - self._since
        if passed < self._look_s:
            return self.wanted
        rate = self.rate = (size - self._from) / passed
        # Where disk, processors or a limit hold the bytes up, more connections only wait for each other.
        held_up = waited - self._waited < _MORE * (wrote - self._wrote)
        self._since, self._from, self._waited, self._wrote = now, size, waited, wrote
        if self._before is not None:
            fewer, brought = self._before
            if connections <= fewer:
                return self.wanted  # of those that were added none has brought a byte yet
            self._before = None
            if rate < brought * _GAIN:
                self.wanted, self._rest_until = fewer, now + self._rest_s
                self._rest_s = min(2 * self._rest_s, _REST_MOST_S)
                return self.wanted
            self._rest_s = _REST_S
        if (
            now >= self._rest_until
            and connections >= self.wanted < self.most
            and lag < _LAG_BYTES
            and not held_up
        ):
            self._before = (connections, rate)
            self.wanted = min(self.most, self._more(connections, rate))
        return self.wanted

    def limit(self, most: int) -> None:
        """So many connections it may have from now on."""
        if most < self.wanted:
            self.wanted, self._before = most, None
        self.most = most

    def no_more_than(self, connections: int, now: float) -> None:
        """The source refuses more; it is asked again a while later."""
        self.wanted, self._before, self._rest_until = max(1, connections), None, now + _REFUSED_S

    @property
    def _look_s(self) -> float:
        return _LOOK_S if self.wanted == 1 else 4 * _LOOK_S

    def _more(self, connections: int, rate: float) -> int:
        each = rate / max(1, connections)
        if each >= _FAST:
            return connections + 1
        if connections < _USUAL:
            return min(_USUAL, connections * 2) if each >= _SLOW else _USUAL
        return self.most if each < _CRAWL else connections
