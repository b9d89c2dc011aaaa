"""A keeper that is a process of its own, ``modelkeep_keeper``: started with the loader, if none is there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from modelkeep import processes
from modelkeep.backoff import Backoff
from modelkeep.locks import LockedError
from modelkeep_keeper import messages
from modelkeep_keeper.messages import GarbageError, Kind, Message
from modelkeep_keeper.place import Place, lock_of
from modelkeep_loader.domain.keeping import KeptThing
from modelkeep_loader.keepers import facts
from modelkeep_loader.keepers.queued import QueuedKeeper, Thing, duplicates

_log = logging.getLogger(__name__)

_MODULE: Final = "modelkeep_keeper"
#: Seconds in which a keeper answers, and ends when it is told to.
_ANSWER_S: Final = 5.0
#: Seconds that what shall be kept over a clean stop may take to be said.
_LAST_WORDS_S: Final = 5.0
#: Seconds after which one that reads nothing is of no use.
_PATIENCE_S: Final = 30.0
#: Seconds that a keeper must have lasted for its end to be no sign of what is wrong with all of them.
_LASTED_S: Final = 60.0
#: A log beyond this is begun anew.
_LOG_BYTES: Final = 1 << 20


class _Reached(NamedTuple):
    """A connection to a keeper.

    Attributes:
        found: What it has; nothing if it has just been started.
        spoilt: Names of what it has and nobody can read.
    """

    link: socket.socket
    found: Sequence[KeptThing] = ()
    spoilt: Sequence[str] = ()


class ProcessKeeper(QueuedKeeper):
    """Keeps things in a process that outlives this one.

    Args:
        path: Its socket, in a folder that is the user's alone.
        keep_s: Seconds that it waits for the next loader.
        log: The file that it writes to. None: somebody else starts it, and ends it.
        patience_s: Seconds after which one that reads nothing is ended.
    """

    def __init__(
        self, path: Path, *, keep_s: float, log: Path | None, patience_s: float = _PATIENCE_S
    ) -> None:
        super().__init__()
        self._path, self._keep_s, self._log, self._patience_s = path, keep_s, log, patience_s
        self._process: processes.Process | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._backoff = Backoff(0.1, 30.0)
        self._since = 0.0

    @property
    def pid(self) -> int:
        """Process id of the keeper, if this one started it and it runs; else 0."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def taken(self) -> list[KeptThing]:
        """See :class:`modelkeep_loader.domain.keeping.Keeper`."""
        try:
            reached = await asyncio.to_thread(self._reach)
        except (OSError, LockedError) as error:
            _log.warning("no keeper at %s, so nothing is found again: %s", self._path, error)
            self._spawn(self._come_back())
            return []
        for thing in reached.found:
            with contextlib.suppress(OSError):  # should that keeper end, its successor does not have it
                self._things[thing.name] = Thing(thing.facts, duplicates(thing.descriptors))
        self._unsaid = dict.fromkeys(reached.spoilt)
        self._listen(reached)
        return list(reached.found)

    async def close(self, *, keep: bool) -> None:
        """See :class:`modelkeep_loader.domain.keeping.Keeper`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._closing.set()
        await asyncio.gather(*self._tasks)
        if keep and not await self._said_all(_LAST_WORDS_S):
            _log.warning("%d changes were not said to the keeper in time", len(self._unsaid))
        if (link := self._hang_up()) is not None:
            if not keep:
                await asyncio.to_thread(self._end, link)
            link.close()
        self._forget_all()

    # To say things.

    def _say(self, link: socket.socket, name: str, thing: Thing | None) -> None:
        if thing is None:
            messages.send(link, Kind.DROP, name)
        else:
            first = facts.written(thing.facts)
            try:
                messages.send(link, Kind.PUT, name, (first, *thing.descriptors))
            finally:
                os.close(first)
        self._be_patient()

    def _wait_to_write(self, waits: bool) -> None:
        super()._wait_to_write(waits)
        if not waits:
            self._be_patient()
        elif self._stuck is None:
            self._stuck = asyncio.get_running_loop().call_later(self._patience_s, self._despair)

    def _be_patient(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _despair(self) -> None:
        self._stuck = None
        _log.warning(
            "the keeper at %s has read nothing for %g s%s",
            self._path,
            self._patience_s,
            ", and is ended" if self._log is not None else "; what it has stays taken until it reads or ends",
        )
        if self._log is not None:
            self._spawn(asyncio.to_thread(self._kill))

    # The process, and the way to it.

    def _listen(self, reached: _Reached) -> None:
        """Say on what has been reached whatever has not been said there."""
        reached.link.setblocking(False)
        self._link = reached.link
        self._since = time.monotonic()
        asyncio.get_running_loop().add_reader(reached.link, self._heard, reached.link)
        self._flush()

    def _hang_up(self) -> socket.socket | None:
        if (link := super()._hang_up()) is not None:
            asyncio.get_running_loop().remove_reader(link)
        return link

    def _run(self, place: Place) -> processes.Process:
        """In a thread: start the process at the place, which is its own from then on."""
        assert self._log is not None
        with _open_log(self._log) as log:
            process = processes.start(
                _MODULE,
                *("--socket", str(self._path), "--linger", f"{self._keep_s:g}"),
                *("--inherited", *map(str, place.descriptors)),
                keep_open=place.descriptors,
                stdout=processes.DEVNULL,
                stderr=log,
                outlives_parent=True,
            )
        place.hand_over(process.pid)
        return process

    def _heard(self, link: socket.socket) -> None:
        """A keeper says nothing unasked: it has gone, or is none."""
        try:
            message = messages.receive(link)
        except BlockingIOError:
            return
        except (OSError, GarbageError) as error:
            self._broke(OSError(str(error)))
            return
        if message is not None:
            messages.close_all(message.descriptors)
        self._broke(ConnectionResetError("it has gone" if message is None else "it talks unasked"))

    def _broke(self, error: OSError) -> None:
        if (link := self._hang_up()) is None:
            return
        link.close()
        if not self._is_closed:
            _log.warning("the keeper at %s is lost: %s", self._path, error)
            self._spawn(self._come_back())

    async def _come_back(self) -> None:
        """Find a keeper again, or start one, and say everything anew."""
        if time.monotonic() - self._since > _LASTED_S:
            self._backoff.reset()
        while not self._is_closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._backoff.next())
            try:
                reached = await asyncio.to_thread(self._reach)
            except (OSError, LockedError) as error:
                _log.info("no keeper at %s: %s", self._path, error)
                continue
            # What a keeper has that this one knows nothing of is of no use to anybody.
            for thing in reached.found:
                messages.close_all(thing.descriptors)
            gone = [name for name in self._unsaid if name not in self._things]
            found = (*(thing.name for thing in reached.found), *reached.spoilt)
            unknown = [name for name in found if name not in self._things]
            self._unsaid = dict.fromkeys((*gone, *unknown, *self._things))
            self._listen(reached)
            return

    def _reach(self) -> _Reached:
        """In a thread: a keeper that is there, else one that is started.

        Raises:
            OSError: Neither can be had.
            LockedError: The place is another's, who does not listen.
        """
        if self._process is not None:
            self._process.wait(0)  # one that has ended is not left unburied
        deadline = time.monotonic() + 2 * _ANSWER_S
        while True:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                link.settimeout(_ANSWER_S)
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    link.connect(str(self._path))
                    if (uid := messages.peer_of(link)[1]) != os.geteuid():
                        raise PermissionError(f"it is of another user (uid {uid})")
                    return _Reached(link, *_listed(link))
                if self._log is None:
                    raise ConnectionRefusedError(f"nobody listens at {self._path}")
                place = Place.take(self._path)
                try:
                    # Before it starts: what is said waits at its socket, and outlives this process.
                    link.connect(str(self._path))
                    self._process = self._run(place)
                except OSError:
                    place.leave()
                    raise
                return _Reached(link)
            except TimeoutError:
                link.close()
                if self._log is None or time.monotonic() > deadline:
                    raise
                _log.warning("the keeper at %s does not answer, and is ended", self._path)
                self._kill()
            except (LockedError, ConnectionError):  # one that begins or ends just now
                link.close()
                if self._log is None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            except BaseException:
                link.close()
                raise

    def _end(self, link: socket.socket) -> None:
        """In a thread: have everything given back, and wait for that."""
        link.settimeout(_ANSWER_S)
        with contextlib.suppress(OSError, GarbageError):
            try:
                messages.send(link, Kind.END)
                while messages.receive(link) is not None:
                    pass
            except TimeoutError:
                if self._log is not None:
                    self._kill()
        if self._process is not None:
            self._process.wait(_ANSWER_S)
        if self._log is not None:
            # One that was killed has left its socket.
            with contextlib.suppress(OSError, LockedError):
                Place.take(self._path, _ANSWER_S).leave()

    def _kill(self) -> None:
        """In a thread: end the keeper, whoever started it, and wait for that."""
        if self.pid and self._process is not None:
            self._process.end()
            return
        with contextlib.suppress(OSError, ValueError):
            pid = int(lock_of(self._path).read_text("ascii"))
            process = os.pidfd_open(pid)
            try:
                # The number may be another process's by now.
                if _MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    select.select([process], [], [], _ANSWER_S)
            finally:
                os.close(process)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _listed(link: socket.socket) -> tuple[list[KeptThing], list[str]]:
    """What a keeper has, and the names of what of it cannot be read.

    Raises:
        OSError: It does not say, or not in time.
    """
    messages.send(link, Kind.LIST)
    found: list[KeptThing] = []
    spoilt: list[str] = []
    try:
        while (message := messages.receive(link)) is not None:
            if message.kind is Kind.ALL:
                return found, spoilt
            if (thing := _understood(message)) is not None:
                found.append(thing)
            else:
                spoilt.append(message.name)
        raise ConnectionResetError("the keeper ended while it was asked")
    except (OSError, GarbageError) as error:
        for thing in found:
            messages.close_all(thing.descriptors)
        if isinstance(error, GarbageError):
            raise ConnectionResetError(f"it is no keeper: {error}") from None
        raise


def _understood(message: Message) -> KeptThing | None:
    """A thing that a keeper has, and its descriptors; None, and none of these, if it cannot be read."""
    first, *rest = message.descriptors or (-1,)
    try:
        if message.is_cut:
            raise ValueError("this process is out of descriptors")
        return KeptThing(message.name, facts.read(first), tuple(rest))
    except (OSError, ValueError) as error:
        _log.warning("%r is not found again: %s", message.name, error)
        messages.close_all(rest)
        return None
    finally:
        messages.close_all([first])


def _open_log(path: Path) -> IO[bytes]:
    """The log's end, or a place where nothing stays if it cannot be written."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
        if os.fstat(descriptor).st_size > _LOG_BYTES:
            os.ftruncate(descriptor, 0)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return os.fdopen(descriptor, "ab")
