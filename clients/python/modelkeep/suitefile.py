"""What a running suite leaves in ``<data_dir>/run``: its description, ``suite.json``, and its tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Whose token the starter's is.
OWNER: Final = "owner"


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """What ``run/suite.json`` says while a suite runs.

    Attributes:
        pid: The supervisor's process id; 0 if it is not said.
        data_dir: The absolute data folder.
        models_dir: The absolute folder of installed models; empty where the services' own files of settings
            may name others.
        addresses: Service name (``record``, …) to ``host:port``.
        sockets: Service name to the path of the UNIX socket where its owner calls.
        gateway: Address of the dashboard and of HTTP with JSON, ``http://127.0.0.1:8080``; empty without.
        certs: The folder of its certificates, by which it is called over TCP; empty where that is plain.
        pids: Service name to process id.
        versions: Distribution name to version.
        start_time: Seconds since the epoch at which all services were healthy.
    """

    pid: int = 0
    data_dir: str = ""
    models_dir: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)
    sockets: Mapping[str, str] = field(default_factory=dict)
    gateway: str = ""
    certs: str = ""
    pids: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    start_time: float = 0.0


def suite_file_path(data_dir: Path) -> Path:
    """Where the suite of a data folder describes itself."""
    return data_dir / "run" / "suite.json"


def token_path(data_dir: Path, name: str = OWNER) -> Path:
    """The file with the token of the owner, or of a service."""
    return data_dir / "run" / "tokens" / name


def read_suite_file(data_dir: Path) -> SuiteFile | None:
    """The running suite of a data folder, or None when there is no (readable) description.

    A suite that was killed leaves its file behind, so what it says is a hint and not a promise. One of
    another version may say more, or less, than this one.
    """
    try:
        said = json.loads(suite_file_path(data_dir).read_text(encoding="utf-8"))
        return SuiteFile(
            pid=int(said.get("pid", 0)),
            data_dir=str(said.get("data_dir", data_dir)),
            models_dir=str(said.get("models_dir", "")),
            addresses=_texts(said["addresses"]),
            sockets=_texts(said.get("sockets", {})),
            gateway=str(said.get("gateway", "")),
            certs=str(said.get("certs", "")),
            pids={str(name): int(pid) for name, pid in said.get("pids", {}).items()},
            versions=_texts(said.get("versions", {})),
            start_time=float(said.get("start_time", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _texts(said: Mapping[object, object]) -> dict[str, str]:
    return {str(name): str(value) for name, value in said.items()}
