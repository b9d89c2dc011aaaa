"""Sealed memory: what a worker that has its descriptor can do to it, and what it cannot."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from typing import Any

import pytest

from modelkeep import sealed

NOBODY = 65534

#: What is tried by a worker that is no root: root may do what it wants to its own memory's mode.
SCRIPT = r"""
import ctypes, fcntl, json, mmap, os, struct, sys
from modelkeep import sealed

if os.geteuid() == 0:
    os.setresgid(%(user)d, %(user)d, %(user)d)
    os.setresuid(%(user)d, %(user)d, %(user)d)
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: or /proc/self is not this user's

made = sealed.create("modelkeep:test", 8192)
os.pwrite(made, b"weights", 0)
sealed.seal(made)
mine = sealed.open_readonly(made)
os.close(made)
theirs = sealed.open_readonly(mine)
FS_IMMUTABLE = struct.pack("l", 0x10)
MADV_REMOVE, F_OFD_SETLK, F_SET_RW_HINT, F_SETSIG, FS_IOC_SETFLAGS = 9, 37, 1036, 10, 0x40086602


def reopened_for_writing():
    os.fchmod(theirs, 0o700)
    return os.open(f"/proc/self/fd/{theirs}", os.O_RDWR)


attacks = {
    "takes the right to read away": lambda: os.fchmod(theirs, 0),
    "lets everybody do everything": lambda: os.fchmod(theirs, 0o777),
    "lets it be executed": lambda: os.fchmod(theirs, 0o111),
    "gives it away": lambda: os.fchown(theirs, 0, 0),
    "writes": lambda: os.pwrite(theirs, b"x", 0),
    "truncates": lambda: os.ftruncate(theirs, 0),
    "writes after opening it anew": lambda: os.pwrite(reopened_for_writing(), b"x", 0),
    "truncates after opening it anew": lambda: os.ftruncate(reopened_for_writing(), 0),
    "grows it": lambda: os.posix_fallocate(reopened_for_writing(), 8192, 10),
    "maps it for writing": lambda: mmap.mmap(reopened_for_writing(), 4096, prot=mmap.PROT_WRITE),
    "punches a hole": lambda: mmap.mmap(theirs, 4096, prot=mmap.PROT_READ).madvise(MADV_REMOVE),
    "opens it to truncate": lambda: os.open(f"/proc/self/fd/{theirs}", os.O_RDWR | os.O_TRUNC),
    "adds a seal": lambda: fcntl.fcntl(theirs, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL),
    "moves the position": lambda: os.lseek(theirs, 5000, os.SEEK_SET),
    "sets flags": lambda: fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND | os.O_ASYNC),
    "asks for signals": lambda: fcntl.fcntl(theirs, F_SETSIG, 9),
    "locks it": lambda: fcntl.flock(theirs, fcntl.LOCK_EX),
    "locks its bytes": lambda: fcntl.lockf(reopened_for_writing(), fcntl.LOCK_EX | fcntl.LOCK_NB),
    "leases it to read": lambda: fcntl.fcntl(theirs, fcntl.F_SETLEASE, fcntl.F_RDLCK),
    "leases it to write": lambda: fcntl.fcntl(theirs, fcntl.F_SETLEASE, fcntl.F_WRLCK),
    "watches it": lambda: fcntl.fcntl(theirs, fcntl.F_NOTIFY, fcntl.DN_MODIFY),
    "hints at its life": lambda: fcntl.fcntl(theirs, F_SET_RW_HINT, struct.pack("Q", 1)),
    "makes it immutable": lambda: fcntl.ioctl(theirs, FS_IOC_SETFLAGS, FS_IMMUTABLE),
    "sets its times": lambda: os.utime(theirs, (0, 0)),
    "adds an attribute": lambda: os.setxattr(theirs, "user.x", b"y"),
    "drops its pages": lambda: os.posix_fadvise(theirs, 0, 0, os.POSIX_FADV_DONTNEED),
}
told = {}
for name, attack in attacks.items():
    try:
        attack()
        said = "done"
    except OSError as error:
        said = type(error).__name__
    try:
        fd = sealed.open_readonly(mine)
        good = os.read(fd, 7) == b"weights" and os.fstat(fd).st_size == 8192
        good = good and fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_NONBLOCK | os.O_APPEND) == 0
        good = good and sealed.is_sealed(fd) and sealed.in_use_elsewhere(mine)
        os.close(fd)
    except OSError as error:
        good = repr(error)
    told[name] = [said, good]
os.close(theirs)
os.closerange(mine + 1, 200)
print(json.dumps({"told": told, "still in use": sealed.in_use_elsewhere(mine), "user": os.geteuid()}))
"""


@pytest.fixture(scope="module")
def tried() -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT % {"user": NOBODY}],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def test_whatever_a_worker_does_the_next_one_gets_the_same_bytes(tried: dict[str, Any]) -> None:
    assert tried["user"] != 0
    assert {name: good for name, (_, good) in tried["told"].items() if good is not True} == {}
    assert tried["still in use"] is False


def test_a_worker_can_change_neither_contents_nor_size(tried: dict[str, Any]) -> None:
    assert tried["told"]["takes the right to read away"][0] == "done"
    for attack, (said, _) in tried["told"].items():
        if attack.startswith(
            ("writes", "truncates", "grows", "maps", "punches", "opens", "adds a seal", "gives")
        ):
            assert said != "done", attack


def test_sealed_memory_cannot_be_changed_and_knows_who_else_has_it() -> None:
    fd = sealed.create("modelkeep:test", 4096)
    assert not sealed.is_sealed(fd)
    os.pwrite(fd, b"weights", 0)
    sealed.seal(fd)
    assert sealed.is_sealed(fd)
    mine = sealed.open_readonly(fd)
    for attempt in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 1),
        lambda: os.ftruncate(fd, 9999),
    ):
        with pytest.raises(PermissionError):
            attempt()
    os.close(fd)
    assert not sealed.in_use_elsewhere(mine)
    other = sealed.open_readonly(mine)
    assert sealed.in_use_elsewhere(mine)
    os.close(other)
    assert not sealed.in_use_elsewhere(mine)
    assert os.pread(mine, 7, 0) == b"weights"
    os.close(mine)
    assert not sealed.is_sealed(0)


def test_memory_is_for_reading_by_its_user_only_and_not_to_be_executed() -> None:
    fd = sealed.create("modelkeep:test", 1)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o400
    os.close(fd)


def test_a_kernel_that_does_not_know_memory_without_execution_is_good_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, asked = os.memfd_create, list[int]()

    def old_kernel(name: str, flags: int) -> int:
        asked.append(flags)
        if flags & 0x8:
            raise OSError(errno.EINVAL, "Invalid argument")
        return make(name, flags)

    monkeypatch.setattr(os, "memfd_create", old_kernel)
    fd = sealed.create("modelkeep:test", 1)
    sealed.seal(fd)
    assert sealed.is_sealed(fd)
    os.close(fd)
    assert len(asked) == 2
    monkeypatch.setattr(os, "memfd_create", lambda name, flags: os.open("/nowhere", os.O_RDONLY))
    with pytest.raises(FileNotFoundError):
        sealed.create("modelkeep:test", 1)


def test_what_cannot_be_opened_is_an_error_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = sealed.create("modelkeep:test", 1)
    tries = []

    def refuse(path: str, flags: int) -> int:
        tries.append(flags)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        sealed.open_readonly(fd)
    assert len(tries) == 20
    assert all(flags & os.O_NONBLOCK for flags in tries)
    os.close(fd)
    assert fcntl.F_SEAL_WRITE & sealed.ALL_SEALS
