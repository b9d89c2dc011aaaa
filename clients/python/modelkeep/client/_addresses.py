"""Where the services are: what the caller says, the environment, the running suite, the default ports."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

#: Short name of a service.
ServiceName: TypeAlias = Literal["record", "download", "install", "loader"]

SERVICES: Final[tuple[ServiceName, ...]] = ("record", "download", "install", "loader")

#: Where `modelkeep up` puts the services when it is not told otherwise.
DEFAULT_ADDRESSES: Final[Mapping[ServiceName, str]] = {
    "record": "127.0.0.1:50051",
    "download": "127.0.0.1:50052",
    "install": "127.0.0.1:50053",
    "loader": "127.0.0.1:50054",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service is looked for.

    Attributes:
        service: Its short name.
        target: ``host:port``, or ``unix:/path/of/socket``.
        origin: Who said so, for error messages: "the setting MODELKEEP_CLIENT_RECORD_ADDRESS".
    """

    service: ServiceName
    target: str
    origin: str


def variable(service: ServiceName) -> str:
    """The environment variable that names a service's address."""
    return f"MODELKEEP_CLIENT_{service.upper()}_ADDRESS"


def find_data_dir(
    data_dir: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> Path:
    """The suite's data folder: the argument, MODELKEEP_DATA_DIR, or ``./modelkeep-data``."""
    environ = os.environ if environ is None else environ
    return Path(data_dir or environ.get("MODELKEEP_DATA_DIR") or "modelkeep-data")


def find_addresses(
    given: Mapping[ServiceName, str | None] | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> dict[ServiceName, Address]:
    """The address of each service, from the first place that names one.

    Args:
        given: What the caller says, by service; None or missing: look elsewhere.
        data_dir: The suite's data folder, whose ``run/suite.json`` is read.
        environ: The environment; this process's by default.

    The order is: `given`, ``MODELKEEP_CLIENT_<SERVICE>_ADDRESS``, ``run/suite.json``, the default ports.
    """
    environ = os.environ if environ is None else environ
    given = given or {}
    suite_file = find_data_dir(data_dir, environ) / "run" / "suite.json"
    running = _read_suite_file(suite_file)

    def find(service: ServiceName) -> Address:
        if target := given.get(service):
            return Address(service, target, "the caller")
        if target := environ.get(variable(service)):
            return Address(service, target, f"the environment variable {variable(service)}")
        if target := running.get(service):
            return Address(service, target, str(suite_file))
        return Address(service, DEFAULT_ADDRESSES[service], "the default port")

    return {service: find(service) for service in SERVICES}


def _read_suite_file(path: Path) -> dict[str, str]:
    """The addresses in a suite's description; none if there is no readable one."""
    try:
        addresses = json.loads(path.read_text(encoding="utf-8"))["addresses"]
        return {str(name): str(target) for name, target in addresses.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
