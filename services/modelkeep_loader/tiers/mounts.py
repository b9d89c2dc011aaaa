"""What kind of file system a file lies on."""

from __future__ import annotations

import ctypes
import os
from typing import Final

#: ``f_type`` of statfs(2) of file systems whose bytes come over a network or from another program, by what
#: linux/magic.h and their sources call them.
_REMOTE: Final = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFE534D42: "smb2",
    0xFF534D42: "cifs",
    0x01021997: "9p",
    0x65735546: "fuse",
    0x00C36400: "ceph",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x5346414F: "afs",
    0x6B414653: "kafs",
    0x73757245: "coda",
    0x564C: "ncp",
    0x19830326: "beegfs",
    0x20030528: "orangefs",
    0x7461636F: "ocfs2",
    0x01161970: "gfs2",
    0xAAD7AAEA: "panfs",
    0x786F4256: "vboxsf",
    0xBACBACBC: "vmhgfs",
}


class _Statfs(ctypes.Structure):
    # The rest differs by architecture, and is not needed.
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


def remote_kind(path: str | os.PathLike[str]) -> str:
    """The kind of network or user-space file system that a path is or would be on: "nfs"; "" for a local one.

    Raises:
        OSError: The path cannot be looked at.
    """
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    found = _Statfs()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), ctypes.byref(found)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(path))
    # Sign-extended, where a long is wider than the number.
    return _REMOTE.get(found.f_type & 0xFFFFFFFF, "")


def is_far(path: str | os.PathLike[str]) -> bool:
    """Whether a file is worth a copy: it lies on a network file system, or on one that is mounted read-only.

    Raises:
        OSError: The path cannot be looked at.
    """
    return bool(remote_kind(path)) or bool(os.statvfs(path).f_flag & os.ST_RDONLY)
