"""What several parts of the suite go by: the services' names, ports and folder, and what exit codes mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

#: Short name of a service.
ServiceName: TypeAlias = Literal["record", "download", "install", "loader"]

#: The services of a suite, in the order in which they are told about.
SERVICES: Final[tuple[ServiceName, ...]] = ("record", "download", "install", "loader")
#: Where they listen when they are not told otherwise.
DEFAULT_PORTS: Final[Mapping[str, int]] = {name: 50051 + place for place, name in enumerate(SERVICES)}
DEFAULT_ADDRESSES: Final[Mapping[str, str]] = {
    name: f"127.0.0.1:{port}" for name, port in DEFAULT_PORTS.items()
}

#: Seconds that a client's call may take, with its repetitions, unless the caller says otherwise.
DEFAULT_TIMEOUT_S: Final = 30.0

#: Where a suite serves the dashboard, and HTTP with JSON.
DASHBOARD_PORT: Final = 8080

#: The suite's data folder, unless another one is named.
DATA_DIR: Final = Path("modelkeep-data")
#: The folder of installed models in it, unless another one is named.
MODELS: Final = "models"

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
#: A command was written wrongly, or an argument is no good.
EXIT_USAGE: Final = 2
#: There is no such model, job, file or address.
EXIT_NOT_FOUND: Final = 3
#: A service does not answer.
EXIT_UNREACHABLE: Final = 4
#: A database of a newer schema, or a file that is not this service's database (EX_DATAERR).
EXIT_DATA: Final = 65
#: The drain hung and the watchdog ended the process (EX_SOFTWARE).
EXIT_HUNG: Final = 70
#: The data folder cannot be written, or another suite has it (EX_CANTCREAT).
EXIT_NOT_WRITABLE: Final = 73
#: A bad setting (EX_CONFIG).
EXIT_CONFIG: Final = 78
#: The address is taken (EADDRINUSE).
EXIT_ADDRESS_TAKEN: Final = 98
#: Ctrl-C.
EXIT_INTERRUPTED: Final = 130


def find_data_dir(
    data_dir: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> Path:
    """The suite's data folder: the argument, MODELKEEP_DATA_DIR, or ``./modelkeep-data``."""
    environ = os.environ if environ is None else environ
    return Path(data_dir or environ.get("MODELKEEP_DATA_DIR") or DATA_DIR)
