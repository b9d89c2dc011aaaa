"""Which keeper a loader has, from its settings and from who started it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from modelkeep.defaults import EXIT_CONFIG
from modelkeep_common.startup import StartupError
from modelkeep_loader.config import LoaderSettings
from modelkeep_loader.domain.keeping import Keeper, NoKeeper
from modelkeep_loader.keepers.process import ProcessKeeper
from modelkeep_loader.keepers.systemd import SystemdKeeper

#: The keeper's socket beside the loader's; no longer than that one's name, as the path must be short.
SOCKET: Final = "kp.sock"
#: What a keeper says of itself, in the service's folder.
LOG: Final = "keeper.log"


def keeper_of(settings: LoaderSettings, sockets: Path) -> Keeper:
    """The keeper; nothing is opened yet.

    Args:
        settings: The loader's.
        sockets: The private folder of its sockets.

    Raises:
        StartupError: 78 if systemd shall keep, and does not offer it.
    """
    kind = settings.keeper
    if kind == "none":
        return NoKeeper()
    if kind == "auto":
        kind = "systemd" if SystemdKeeper.is_offered() and settings.keeper_socket is None else "process"
    if kind == "systemd":
        if not SystemdKeeper.is_offered():
            raise StartupError(
                EXIT_CONFIG,
                "keeper: systemd keeps nothing for this process: set FileDescriptorStoreMax= and "
                "NotifyAccess=main in the unit that it is the main process of, or keeper to auto",
            )
        return SystemdKeeper()
    if settings.keeper_socket is not None:
        return ProcessKeeper(settings.keeper_socket.expanduser().absolute(), keep_s=settings.keep_s, log=None)
    return ProcessKeeper(sockets / SOCKET, keep_s=settings.keep_s, log=settings.service_dir.absolute() / LOG)
