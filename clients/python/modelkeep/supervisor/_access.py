"""Who may call a suite: its tokens, made anew at each start, and the folder of its sockets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from modelkeep.defaults import EXIT_CONFIG
from modelkeep.private import UnsafeFolderError, make_private, runtime_folder, write_private
from modelkeep.reserve import Reserve
from modelkeep.suitefile import OWNER, token_path
from modelkeep.supervisor._errors import SuiteError
from modelkeep.supervisor._files import RESERVE_BYTES

#: What the starter's token is good for.
_OWNER_ROLES = ("admin", "owner")
_ACCEPTED = "accepted.json"


def accepted_path(data_dir: Path) -> Path:
    """The file by which services know callers; it holds digests, so no token can be read from it."""
    return token_path(data_dir, _ACCEPTED)


def make_tokens(data_dir: Path, services: Sequence[str]) -> None:
    """Write one token for the owner and one for each service; those of an earlier start are void.

    On a full disk the room for them comes from the supervisor's reserve.
    """
    folder = token_path(data_dir).parent
    reserve = Reserve(folder.parent, RESERVE_BYTES)
    reserve.run(lambda: folder.mkdir(mode=0o700, exist_ok=True))
    folder.chmod(0o700)
    entries = []
    for name in (OWNER, *services):
        token = secrets.token_urlsafe(32)
        _replace(reserve, token_path(data_dir, name), token + "\n")
        roles = _OWNER_ROLES if name == OWNER else (name,)
        digest = hashlib.sha256(token.encode()).hexdigest()
        entries.append({"name": name, "roles": roles, "sha256": digest})
    _replace(reserve, accepted_path(data_dir), json.dumps({"tokens": entries}, indent=1) + "\n")


def socket_paths(data_dir: Path, services: Sequence[str]) -> dict[str, Path]:
    """Service to its socket, in a folder that is this user's alone; makes the folder.

    Raises:
        SuiteError: exit code 78 when there is no such folder to be had.
    """
    names = {name: f"{name}.sock" for name in services}
    try:
        folder = runtime_folder(data_dir, max(names.values(), key=len, default=""))
        make_private(folder)
    except UnsafeFolderError as error:
        raise SuiteError(f"The sockets of the suite have no place: {error}.", exit_code=EXIT_CONFIG) from None
    return {name: folder / file for name, file in names.items()}


def tls_arguments(certs: Path | None, service: str) -> list[str]:
    """What a service is told of the folder of certificates.

    Raises:
        SuiteError: exit code 78 when something is missing there.
    """
    if certs is None:
        return []
    files = {
        "--tls-cert-file": certs / f"{service}.pem",
        "--tls-key-file": certs / f"{service}.key",
        "--tls-client-ca-file": certs / "ca.pem",
        "--tls-callers-file": certs / "callers.json",
    }
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise SuiteError(
            f"{certs} has no {' and no '.join(missing)}: make a folder of certificates with "
            "`modelkeep certs dev FOLDER`, and name that.",
            exit_code=EXIT_CONFIG,
        )
    return [text for flag, path in files.items() for text in (flag, str(path))]


def remove_sockets(sockets: Sequence[Path]) -> None:
    """Take away what services that were killed left, and the folder."""
    for path in sockets:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    for folder in {path.parent for path in sockets}:
        with contextlib.suppress(OSError):  # other suites of this user have theirs beside it
            folder.rmdir()
            folder.parent.rmdir()


def _replace(reserve: Reserve, path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    scratch.unlink(missing_ok=True)
    reserve.run(lambda: write_private(scratch, text))
    scratch.replace(path)
