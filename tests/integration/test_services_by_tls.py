"""Four services as four processes that know each other by certificates alone."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelkeep import processes
from modelkeep.client import Client
from modelkeep.defaults import SERVICES
from modelkeep.exceptions import (
    CredentialsInvalidException,
    UnknownModelException,
    UpstreamUnavailableException,
)
from modelkeep.renewed import LOOK_S
from support.callers import callers_file
from support.certificates import AUTHORITY, caller, put
from support.httpresources import Resource
from support.httpserver import HttpServer
from support.installs import small_lora
from support.ports import free_port
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

#: What each calls.
PEERS = {"install": ("record", "download", "loader"), "loader": ("record",)}


@dataclass
class Fleet:
    """The processes."""

    folder: Path
    certs: Path
    ports: Mapping[str, int]
    probes: Mapping[str, int]

    def know(self, *services: str, **more: list[str]) -> None:
        """Say whose the certificates are."""
        callers_file(self.certs / "callers.json", services, client=["admin"], gateway=[], **more)

    def start(self, name: str) -> processes.Process:
        certs, imports = self.certs, self.folder / "imports"
        arguments = {
            "--port": self.ports[name],
            "--metrics-port": self.probes[name],
            "--data-dir": self.folder / "data",
            "--tls-cert-file": certs / f"{name}.pem",
            "--tls-key-file": certs / f"{name}.key",
            "--tls-client-ca-file": certs / "ca.pem",
            "--tls-callers-file": certs / "callers.json",
            "--log-file": self.folder / f"{name}.jsonl",
            **({} if name not in PEERS else {"--peer-ca-file": certs / "ca.pem"}),
            **({} if name == "record" else {"--import-roots": imports}),
            **{f"--{peer}-address": f"localhost:{self.ports[peer]}" for peer in PEERS.get(name, ())},
        }
        flags = [str(part) for pair in arguments.items() for part in pair]
        if name == "download":
            flags.append("--allow-private-addresses")
        return processes.start(f"modelkeep_{name}", *flags)

    def is_ready(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.probes[name]}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def client(self, name: str = "client", **more: Any) -> Client:
        addresses: dict[str, Any] = {name: f"localhost:{port}" for name, port in self.ports.items()}
        certs = self.certs
        return Client(
            **addresses,
            ca_file=certs / "ca.pem",
            cert_file=certs / f"{name}.pem",
            key_file=certs / f"{name}.key",
            **more,
        )


def _ports() -> dict[str, int]:
    return {name: free_port() for name in SERVICES}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    made = Fleet(folder, folder / "certs", _ports(), _ports())
    (folder / "imports").mkdir()
    put(made.certs, "ca", AUTHORITY.issued)
    for name in SERVICES:
        put(made.certs, name, AUTHORITY.issue("localhost", uri=f"spiffe://test/{name}"))
    put(made.certs, "client", caller("client"))
    put(made.certs, "gateway", caller("gateway"))
    put(made.certs, "old", caller("install"))
    made.know(*SERVICES)
    running = [made.start(name) for name in SERVICES]
    try:
        for name in SERVICES:
            wait_until(lambda name=name: made.is_ready(name), f"{name} is not ready", 90)  # type: ignore[misc]
        yield made
    finally:
        for process in running:
            process.send(signal.SIGTERM)
        codes = [process.wait(60) for process in running]
        shutil.rmtree(folder, ignore_errors=True)
    assert codes == [0] * 4


def test_a_model_is_installed_looked_up_and_removed_over_mtls_alone(fleet: Fleet, web: HttpServer) -> None:
    path = small_lora(fleet.folder / "imports" / "one.safetensors")
    body = small_lora(fleet.folder / "two.safetensors", base="sdxl").read_bytes()
    url = web.put("/two.safetensors", Resource(body))
    with fleet.client() as client:
        here = client.model_install.import_model(path, inplace=False)
        there = client.model_install.import_model(url)
        client.model_install.wait_for_installs(timeout=90)
        done: Any = [client.model_install.get_job_by_id(job.id) for job in (here, there)]
        keys = {job.config_out.key for job in done}
        assert {model.key for model in client.model_record_store.all_models()} == keys
        with pytest.raises(UnknownModelException):  # whom the loader asked
            client.model_loader.estimate("0" * 32)
        client.model_install.unconditionally_delete(keys.pop())
        assert len(client.model_record_store.all_models()) == 1


def test_who_has_no_good_certificate_is_nobody_to_any_of_them(fleet: Fleet) -> None:
    with fleet.client("gateway") as client, pytest.raises(Exception, match="wants to know who calls"):
        client.server_info("install")
    for service in ("record", "install"):
        port = fleet.ports[service]
        plain: dict[str, Any] = {service: f"localhost:{port}"}
        for authorities in (None, fleet.certs / "ca.pem"):
            with Client(**plain, ca_file=authorities) as client, pytest.raises(UpstreamUnavailableException):
                client.server_info(service)


def test_a_peers_certificate_is_renewed_while_it_runs(fleet: Fleet) -> None:
    """InstallService becomes another caller; who it was before is nobody any more."""
    fleet.know(*SERVICES, other=["install"])
    put(fleet.certs, "install", AUTHORITY.issue("localhost", uri="spiffe://test/other"))
    with fleet.client() as client:
        time.sleep(LOOK_S)  # a call after that sees that the certificate is a new one
        client.model_install.import_model(lora(fleet, "three"), inplace=False)
        client.model_install.wait_for_installs(timeout=90)
        fleet.know("record", "download", "loader", other=["install"])
        wait_until(lambda: is_nobody(fleet, "old"), "the old name still counts", 60)
        job = client.model_install.import_model(lora(fleet, "four"), inplace=False)
        client.model_install.wait_for_job(job, timeout=90)
        done = client.model_install.get_job_by_id(job.id)
        assert done.config_out is not None, done.error


def is_nobody(fleet: Fleet, name: str) -> bool:
    """Whether RecordService refuses a caller."""
    try:
        with fleet.client(name) as before:
            before.server_info("record")
    except CredentialsInvalidException:
        return True
    return False


def lora(fleet: Fleet, name: str) -> Path:
    """A model that none is equal to, since its name is in it."""
    return small_lora(fleet.folder / "imports" / f"{name}.safetensors", metadata={"name": name})
