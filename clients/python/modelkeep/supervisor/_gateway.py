"""The gateway of a suite: the dashboard and HTTP with JSON, on loopback whatever the services listen on."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from modelkeep import gateway, processes
from modelkeep.supervisor import _ports

#: Pages hold the owner's token: nobody but this machine asks for them.
_HOST: Final = "127.0.0.1"
_END_S: Final = 5.0


class SuiteGateway:
    """An Envoy in front of a suite's TCP ports, or the reason why there is none. It adds no rights to a call.

    Args:
        port: Where it listens; 0 takes a free port.
        addresses: Service name to ``host:port``.
        data_dir: The suite's data folder.
        certs: The folder of certificates by which the services are called; None where they are called in
            plaintext.

    Attributes:
        address: ``http://127.0.0.1:8080``; empty where there is none.
        refusal: Why there is none, and what helps; empty where there is one.
        has_pages: Whether the dashboard is there, besides the API.
    """

    def __init__(
        self, port: int, addresses: Mapping[str, str], data_dir: Path, certs: Path | None = None
    ) -> None:
        self.address = ""
        self.refusal = ""
        self.has_pages = False
        self._log = data_dir / "logs" / "gateway.log"
        self._process: processes.Process | None = None
        self._stopped = False
        if port and not _ports.is_free(_HOST, port):
            self.refusal = f"port {port} is taken; --dashboard-port names another one"
            return
        upstream = None if certs is None else _upstream(certs)
        if certs is not None and not all((certs / f"gateway.{end}").is_file() for end in ("pem", "key")):
            self.refusal = f"{certs} has no gateway.pem and gateway.key; `modelkeep certs dev` makes them"
            return
        pages = gateway.find_pages()
        self.has_pages = pages is not None
        port = port or _ports.find_free(_HOST, taken=set())
        wanted = gateway.Gateway(
            services={name: [address] for name, address in addresses.items()},
            host=_HOST,
            port=port,
            pages=pages,
            upstream_tls=upstream,
        )
        try:
            self._process = gateway.start(wanted, data_dir / "run", self._log)
        except gateway.NoGatewayError as error:
            self.refusal = str(error)
        except OSError as error:
            self.refusal = f"{error.strerror}: {error.filename}"
        else:
            self.address = f"http://{_HOST}:{port}"

    @property
    def pid(self) -> int | None:
        """Envoy's process id, or None."""
        return None if self._process is None else self._process.pid

    def wait(self) -> str:
        """Wait until it ends; returns what to say of that, nothing if it was stopped or never ran."""
        if self._process is None:
            return ""
        code = self._process.wait()
        if self._stopped:
            return ""
        return f"The gateway ended with code {code}, dashboard and HTTP with it; its log is {self._log}"

    def stop(self) -> None:
        """End it; what is still under way through it ends with it."""
        self._stopped = True
        if self._process is not None:
            self._process.send(signal.SIGTERM)
            if self._process.wait(_END_S) is None:
                self._process.end()


def _upstream(certs: Path) -> gateway.UpstreamCertificate:
    """How the services are called: each is known by its own name, and the gateway is no caller by itself."""
    return gateway.UpstreamCertificate(
        certs / "ca.pem", ["{service}"], certs / "gateway.pem", certs / "gateway.key"
    )
