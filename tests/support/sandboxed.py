"""What a worker of the tests does to itself to be in a sandbox, or another user; see ``support.workers``."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

_NEWNS, _NEWUSER, _NEWPID = 0x00020000, 0x10000000, 0x20000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def enter_sandbox(lent: str, at: str, hidden: str) -> list[int]:
    """Go on in user, pid and mount namespaces of its own, where a folder is mounted read-only elsewhere.

    The worker goes on as a child, which is process 1 of its namespace and dies with its parent.

    Args:
        lent: The folder, as it is outside.
        at: An empty folder, where it is mounted.
        hidden: A folder that is there no more: an empty one lies over it.

    Returns:
        Process id and user id, as they are inside.
    """
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _NEWUSER | _NEWNS | _NEWPID)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount(lent, at, None, _BIND)
    _mount(None, at, None, _BIND | _REMOUNT | _RDONLY)
    _mount("none", hidden, "tmpfs", 0)
    parent = os.getpid()
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _libc.prctl(1, signal.SIGKILL)
    assert parent != os.getpid() == 1
    _mount("proc", "/proc", "proc", 0)
    return [os.getpid(), os.geteuid()]


def become(uid: int) -> None:
    """Be another user from now on."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def attempts_on(folder: str) -> dict[str, str]:
    """What comes of trying to change the files of a folder in every way."""
    (path,) = [str(path) for path in Path(folder).iterdir() if path.suffix == ".safetensors"]
    answers: dict[str, str] = {}

    acts: dict[str, Callable[[], object]] = {
        "open": lambda: os.close(os.open(path, os.O_RDWR)),
        "mode": lambda: os.chmod(path, 0o600),
        "truncate": lambda: os.truncate(path, 0),
        "remove": lambda: os.unlink(path),
        "make": lambda: os.close(os.open(f"{folder}/another", os.O_CREAT | os.O_WRONLY)),
    }
    for name, act in acts.items():
        try:
            act()
            answers[name] = "allowed"
        except OSError as error:
            answers[name] = str(error.strerror)
    return answers


def hand_in(socket_path: str, ticket: str) -> int:
    """Hand a ticket in; the number of descriptors that came."""
    from modelkeep.worker._fetch import fetch_descriptors

    connection, descriptors = fetch_descriptors(socket_path, bytes.fromhex(ticket), 1)
    for fd in descriptors:
        os.close(fd)
    connection.close()
    return len(descriptors)


def open_files(paths: list[str], folder: str | None = None) -> int:
    """Open the files of a grant; how many there were."""
    from modelkeep.worker._fetch import open_paths

    descriptors = open_paths(paths, folder)
    for fd in descriptors:
        os.close(fd)
    return len(descriptors)


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    def text(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    _call("mount", text(source), os.fsencode(target), text(kind), ctypes.c_ulong(flags), None)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
