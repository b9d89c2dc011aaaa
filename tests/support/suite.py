"""Suites for tests: the real services as processes on free ports and a short temporary folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from modelkeep.supervisor import SERVICES, Suite
from support import forked

TOYS = Path(__file__).parent / "toys"
#: Address guard off for loopback: the tests' own web servers live there.
LOOPBACK_DOWNLOADS: Mapping[str, str] = {"MODELKEEP_DOWNLOAD_ALLOW_PRIVATE_ADDRESSES": "true"}
#: So that a source is as slow as it is meant to be.
_ONE_CONNECTION: Mapping[str, str] = {"MODELKEEP_DOWNLOAD_MAX_CONNECTIONS_PER_FILE": "1"}


class OwnersSuite(Suite):
    """A suite that tells the addresses by which its owner calls; its services are forked."""

    @property
    def addresses(self) -> dict[str, str]:
        """Service name to the socket; where there is none, to ``host:port``."""
        return {**super().addresses, **self.sockets}

    @property
    def over_tcp(self) -> dict[str, str]:
        """Service name to ``host:port``."""
        return super().addresses

    def _spawn(self, name: str) -> None:
        with patch("modelkeep.supervisor._process.processes", forked):
            super()._spawn(name)


def service_suite(
    data_dir: Path | None = None,
    *,
    models_dir: Path | None = None,
    services: Sequence[str] = SERVICES,
    env: Mapping[str, str] | None = None,
    arguments: Mapping[str, Sequence[str]] | None = None,
    gateway_port: int | None = None,
    certs: Path | None = None,
) -> OwnersSuite:
    """A suite of real services, not started yet; downloads from loopback are allowed.

    A file comes by one connection.

    Its ``addresses`` are the sockets of its owner, so that tests of behaviour may do everything; who may call
    what over TCP is tested in tests/integration/test_suite_access.py.

    Use it as a context manager. From a coroutine, enter it in a thread: its methods block.
    """
    settings = {
        **({**LOOPBACK_DOWNLOADS, **_ONE_CONNECTION} if "download" in services else {}),
        # Records of tests lie anywhere; that they are missing would be news in the middle of a test.
        **({"MODELKEEP_INSTALL_CHECK_FILES_SECONDS": "0"} if "install" in services else {}),
        **(env or {}),
    }
    return OwnersSuite(
        data_dir,
        models_dir=models_dir,
        services=services,
        env=settings,
        arguments=arguments,
        gateway_port=gateway_port,
        certs=certs,
    )


def toy_suite(
    data_dir: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    ports: Mapping[str, int] | None = None,
    gateway_port: int | None = None,
    startup_timeout_s: float = 20.0,
) -> Suite:
    """A suite of two toy services (support/toys), to watch the supervisor and nothing else."""
    return Suite(
        data_dir,
        services=("alpha", "beta"),
        env={**toy_environment(), **(env or {})},
        ports=ports,
        gateway_port=gateway_port,
        startup_timeout_s=startup_timeout_s,
    )


def toy_environment() -> dict[str, str]:
    """What makes the toy services importable in a child process."""
    return {"PYTHONPATH": os.pathsep.join([str(TOYS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
