"""A keeper that is systemd: the descriptor store of the service's unit.

systemd keeps descriptors by name and gives them to the next start of the unit (sd_notify(3), FDSTORE;
sd_listen_fds(3)). It lists an open file once, whatever it is called and however often it is stored, and lists
it in any order. So each descriptor has a name of its own, which stays while anything needs it, and the facts
of a thing say which descriptors are the thing's. Facts of a later generation are stored before those of the
earlier one are removed: a kill between leaves more, and never less.

=====================  ============================================================
name in the store      what it is
=====================  ============================================================
``NAME#GENERATION``    facts of the thing NAME, after the names of its descriptors
``@DEVICE.INODE``      memory that is a file, as memfds are: such a pair is one file
``NAME#GENERATION@N``  anything else, the Nth descriptor of a thing
=====================  ============================================================
"""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import re
import socket
import stat
import string
from collections import Counter, deque
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Final, NamedTuple

from modelkeep_keeper import messages
from modelkeep_loader.domain.keeping import KeptThing
from modelkeep_loader.keepers import facts
from modelkeep_loader.keepers.queued import QueuedKeeper, Thing, duplicates

_log = logging.getLogger(__name__)

#: The first descriptor that systemd gives (SD_LISTEN_FDS_START).
_FIRST: Final = 3
#: Characters that a name in the store may have.
_MOST_CHARACTERS: Final = 255
#: Those of a thing's name that stand for themselves there; others are %XX, byte by byte.
_PLAIN: Final = frozenset(f"{string.ascii_letters}{string.digits}/-_.~".encode())
_FACTS: Final = re.compile(r"([^#]+)#(\d+)")
_OURS: Final = re.compile(r"[^#@]+#\d+(@\d+)?|@\d+\.\d+")
#: Seconds between tries to reach a systemd that begins anew, and those that the last words may take.
_AGAIN_S: Final = 1.0
_LAST_WORDS_S: Final = 5.0


class _Stored(NamedTuple):
    """What the store has of a thing: names there, and which files the descriptors are."""

    facts: str
    descriptors: tuple[str, ...]
    files: tuple[tuple[int, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.facts, *self.descriptors)


class SystemdKeeper(QueuedKeeper):
    """Keeps things in the descriptor store of the unit that this process is the main one of.

    Args:
        environment: What systemd has told this process; what it says of descriptors is taken out, since
            they are this process's alone.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        super().__init__()
        self._address = re.sub("^@", "\0", environment["NOTIFY_SOCKET"])
        self._listed = dict(_listed(environment))
        for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            environment.pop(variable, None)
        self._stored: dict[str, _Stored] = {}
        #: How many things need what the store has by a name.
        self._needed: Counter[str] = Counter()
        self._generation = 0
        #: Messages that come next, in that order; their descriptors are their own.
        self._backlog: deque[tuple[bytes, tuple[int, ...]]] = deque()

    @staticmethod
    def is_offered(environment: Mapping[str, str] = os.environ) -> bool:
        """Whether systemd keeps descriptors for this very process."""
        main = environment.get("SYSTEMD_EXEC_PID", str(os.getpid())) == str(os.getpid())
        address = environment.get("NOTIFY_SOCKET", "")
        return main and address.startswith(("/", "@")) and environment.get("FDSTORE", "0") not in ("", "0")

    async def taken(self) -> list[KeptThing]:
        """See :class:`modelkeep_loader.domain.keeping.Keeper`."""
        found = await asyncio.to_thread(self._understood)
        kept = {name for stored in self._stored.values() for name in stored.names}
        for name, descriptor in self._listed.items():
            os.close(descriptor)
            if name not in kept:
                self._remove(name)
        self._listed.clear()
        self._connect()
        return found

    async def close(self, *, keep: bool) -> None:
        """See :class:`modelkeep_loader.domain.keeping.Keeper`."""
        if self._is_closed:
            return
        if not keep:
            for name in list(self._stored):
                self.drop(name)
        self._is_closed = True
        if not await self._said_all(_LAST_WORDS_S):
            _log.warning("%d changes were not said to systemd in time", len(self._unsaid))
        if (link := self._hang_up()) is not None:
            link.close()
        self._forget_all()
        while self._backlog:
            messages.close_all(self._backlog.popleft()[1])

    # To say things.

    def _connect(self) -> None:
        if self._is_closed:
            return
        link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        link.setblocking(False)
        try:
            link.connect(self._address)
        except OSError as error:
            link.close()
            _log.warning("systemd cannot be told what to keep: %s", error.strerror)
            asyncio.get_running_loop().call_later(_AGAIN_S, self._connect)
            return
        self._link = link
        self._flush()

    def _broke(self, error: OSError) -> None:
        if (link := self._hang_up()) is not None:
            link.close()
            _log.warning("systemd was not told what to keep: %s", error.strerror)
            asyncio.get_running_loop().call_later(_AGAIN_S, self._connect)

    def _has_more(self) -> bool:
        return bool(self._backlog) or super()._has_more()

    def _say_next(self, link: socket.socket) -> None:
        if self._backlog:
            text, descriptors = self._backlog[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            link.sendmsg([text], rights if descriptors else [], socket.MSG_NOSIGNAL)
            self._backlog.popleft()
            messages.close_all(descriptors)
        else:
            super()._say_next(link)

    def _say(self, link: socket.socket, name: str, thing: Thing | None) -> None:
        """Have the store have this of a thing, instead of what it had of it."""
        before, after = self._stored.get(name), None
        if thing is not None and (after := self._plan(name, before, thing)) is not None:
            listed = json.dumps(after.descriptors).encode()
            first = facts.written(listed + b"\n" + thing.facts)
            try:
                for stored, descriptor in zip(after.descriptors, thing.descriptors, strict=True):
                    if not self._needed[stored]:
                        self._store(stored, descriptor)
                self._store(after.facts, first)
            finally:
                os.close(first)
            self._stored[name] = after
            self._needed.update(after.names)
        else:
            self._stored.pop(name, None)
        if before is not None:
            self._needed.subtract(before.names)
            for gone in dict.fromkeys(before.names):
                if not self._needed[gone]:
                    del self._needed[gone]
                    self._remove(gone)

    def _plan(self, name: str, before: _Stored | None, thing: Thing) -> _Stored | None:
        """What the store is to have of a thing; None, and said, if it cannot have it."""
        self._generation += 1
        called = f"{_escaped(name)}#{self._generation}"
        files: list[tuple[int, int]] = []
        names: list[str] = []
        for place, descriptor in enumerate(thing.descriptors):
            status = os.fstat(descriptor)
            files.append((status.st_dev, status.st_ino))
            if stat.S_ISREG(status.st_mode):
                names.append(f"@{status.st_dev}.{status.st_ino}")
            elif before is not None and before.files[place : place + 1] == (files[-1],):
                names.append(before.descriptors[place])
            else:
                names.append(f"{called}@{place}")
        if len(max((called, *names), key=len)) > _MOST_CHARACTERS:
            _log.error("%.99r is not kept: its name is too long for systemd", name)
            return None
        return _Stored(called, tuple(names), tuple(files))

    def _store(self, name: str, descriptor: int) -> None:
        self._backlog.append((f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}".encode(), duplicates([descriptor])))

    def _remove(self, name: str) -> None:
        self._backlog.append((f"FDSTOREREMOVE=1\nFDNAME={name}".encode(), ()))

    # What was left.

    def _understood(self) -> list[KeptThing]:
        """In a thread: the things whose facts and descriptors are all there, in the order of their facts."""
        found: dict[str, KeptThing] = {}
        for generation, name, called in sorted(self._generations(), reverse=True):
            self._generation = max(self._generation, generation)
            if name in found:
                continue
            try:
                listed, _, told = facts.read(self._listed[called]).partition(b"\n")
                names = tuple(str(part) for part in json.loads(listed))
                descriptors = duplicates([self._listed[part] for part in names])
            except (OSError, ValueError, LookupError, TypeError) as error:
                _log.warning("%r is not found again: %s", name, error)
                continue
            statuses = [os.fstat(descriptor) for descriptor in descriptors]
            files = tuple((status.st_dev, status.st_ino) for status in statuses)
            self._stored[name] = _Stored(called, names, files)
            self._needed.update(self._stored[name].names)
            found[name] = KeptThing(name, told, descriptors)
        return list(found.values())[::-1]

    def _generations(self) -> Iterator[tuple[int, str, str]]:
        for called in self._listed:
            if (match := _FACTS.fullmatch(called)) is not None:
                yield int(match[2]), _unescaped(match[1]), called


def _escaped(name: str) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in name.encode())


def _unescaped(text: str) -> str:
    parts = re.sub(rb"%([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    return parts.decode("utf-8", "replace")


def _listed(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """What systemd has given to this process out of its store, by name; closed on exec from now on."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return
    names: Sequence[str] = environment.get("LISTEN_FDNAMES", "").split(":")
    seen: set[str] = set()
    for descriptor, name in enumerate(names[: int(environment.get("LISTEN_FDS", "0"))], _FIRST):
        if not _OURS.fullmatch(name):
            continue  # a socket that the unit listens on
        os.set_inheritable(descriptor, False)
        if name in seen:
            os.close(descriptor)
        else:
            seen.add(name)
            yield name, descriptor
