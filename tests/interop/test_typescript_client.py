"""The TypeScript client, from Node over gRPC, with live services: its examples, and the conformance cases."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelkeep.client import Client
from modelkeep.loader.v1.leases_pb2 import GetLeaseRequest, ListLeasesRequest, RevokeLeaseRequest
from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceStub
from modelkeep.loader.v1.resident_pb2 import LEASE_STATE_ACTIVE
from modelkeep.renewed import LOOK_S
from support import tinymodels, typescript
from support.callers import callers_file
from support.certificates import caller, put, tls_settings
from support.conformance import cases, ground, through_gateway
from support.installs import small_lora
from support.records import record_server
from support.suite import OwnersSuite, service_suite
from support.waiting import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]  # the compiler may have to be fetched


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    typescript.built()


@pytest.fixture(scope="module")
def suite(folder: Path) -> Iterator[OwnersSuite]:
    with service_suite(folder / "data") as running:
        yield running


@pytest.fixture
def settings(suite: OwnersSuite) -> Mapping[str, str]:
    return {"MODELKEEP_DATA_DIR": str(suite.data_dir)}


@pytest.fixture
def client(suite: OwnersSuite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as client:
        yield client


def test_a_model_is_installed_and_the_job_followed_to_its_end(
    folder: Path, settings: Mapping[str, str], client: Client
) -> None:
    done = typescript.run("examples/install", str(small_lora(folder / "ink.safetensors")), settings=settings)
    assert done.returncode == 0, done.stderr
    *changes, last = done.stdout.splitlines()
    assert changes[-1].endswith("COMPLETED")
    assert client.model_record_store.get_model(last.removeprefix("installed as ")).name == "ink"


def test_the_lines_of_the_readme_install_a_model_and_list_it(
    folder: Path, settings: Mapping[str, str], client: Client
) -> None:
    (lines,) = re.findall(
        r"```js\n(.*?)```", (typescript.PACKAGE / "README.md").read_text("utf-8"), re.DOTALL
    )
    (typescript.built() / "readme.js").write_text(lines, "utf-8")
    path = small_lora(folder / "pencil.safetensors")
    done = typescript.run("readme", str(path), settings=settings)
    assert done.returncode == 0, done.stderr
    first, *names = done.stdout.splitlines()
    assert client.model_record_store.get_model(first.removeprefix("installed as ")).name == "pencil"
    assert "pencil" in names


def test_the_lines_that_all_clients_have_alike_list_the_models(
    folder: Path, settings: Mapping[str, str], client: Client
) -> None:
    key = client.model_install.register_path(small_lora(folder / "brush.safetensors"))
    document = typescript.PACKAGE.parent / "README.md"
    (lines,) = re.findall(r"```js\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    (typescript.built() / "ten_lines.js").write_text(lines, "utf-8")
    done = typescript.run("ten_lines", settings=settings)
    assert f"{key} brush" in done.stdout.splitlines(), done.stderr


def test_what_is_refused_is_told_by_its_reason(folder: Path, settings: Mapping[str, str]) -> None:
    (folder / "broken.safetensors").write_text("This is no model.")
    done = typescript.run("examples/install", str(folder / "broken.safetensors"), settings=settings)
    assert done.returncode == 1
    assert done.stderr.startswith("INVALID_MODEL: "), done.stderr


def test_a_watch_goes_on_across_a_restart_of_the_service(
    folder: Path, settings: Mapping[str, str], client: Client, suite: OwnersSuite
) -> None:
    path = small_lora(folder / "watched.safetensors")
    key = client.model_install.register_path(path)
    with typescript.running("examples/watch", settings=settings) as watching:
        assert watching.until(f"is there: {key}") == f"is there: {key} watched"
        client.model_record_store.update_model(key, {"name": "before"})
        assert watching.until("changed") == f"changed: {key} before"
        suite.kill("record")
        suite.restart("record")
        client.model_record_store.update_model(key, {"name": "after"})
        # The next line is the change: nothing is told twice, and nothing was lost.
        assert watching.until("changed") == f"changed: {key} after"
        client.model_record_store.del_model(key)
        assert watching.line() == f"removed: {key}"
        watching.process.send_signal(signal.SIGINT)
        assert watching.end() == ""


@pytest.fixture(scope="module")
def vae(folder: Path, suite: OwnersSuite) -> str:
    tinymodels.vae().save_pretrained(folder / "vae")
    with Client(data_dir=suite.data_dir) as client:
        return client.model_install.register_path(folder / "vae")


def test_a_lease_is_held_until_the_program_lets_it_go(
    settings: Mapping[str, str], suite: OwnersSuite, vae: str
) -> None:
    with (
        grpc.insecure_channel(suite.addresses["loader"]) as channel,
        typescript.running("examples/lease", vae, settings=settings) as holding,
    ):
        loader = LoaderServiceStub(channel)
        lease_id = holding.until("held: ").removeprefix("held: ")
        lease = loader.GetLease(GetLeaseRequest(lease_id=lease_id)).lease
        assert (lease.state, lease.holder.label) == (LEASE_STATE_ACTIVE, "lease.js")
        assert holding.end() == ""
        assert not loader.ListLeases(ListLeasesRequest()).leases


def test_a_lease_and_a_watch_go_on_at_the_next_loader_until_the_lease_is_revoked(
    settings: Mapping[str, str], suite: OwnersSuite, vae: str
) -> None:
    with (
        grpc.insecure_channel(suite.addresses["loader"]) as channel,
        typescript.running("test/holding", vae, settings=settings) as holding,
    ):
        loader = LoaderServiceStub(channel)
        lease_id = holding.until("held: ").removeprefix("held: ")
        holding.until("residents: 1")
        suite.kill("loader")
        suite.restart("loader")
        assert holding.line() == "restarted"

        def is_active() -> bool:
            lease = loader.GetLease(GetLeaseRequest(lease_id=lease_id), wait_for_ready=True).lease
            return bool(lease.state == LEASE_STATE_ACTIVE)

        wait_until(is_active, "not taken up again", 60)
        loader.RevokeLease(RevokeLeaseRequest(lease_id=lease_id, why="for a test"))
        assert holding.until("lost") == "lost: LEASE_REVOKED"
        holding.end()


async def test_a_certificate_says_who_calls_and_is_shown_once_it_was_replaced(data_dir: Path) -> None:
    authority = tls_settings(data_dir / "tls")
    callers = callers_file(data_dir / "callers.json")
    files = (authority["tls_client_ca_file"], *put(data_dir / "caller", "caller", caller("viewer")))
    settings: dict[str, Any] = {**authority, "tls_callers_file": callers, "insecure": False}

    def called(address: str) -> None:
        arguments = (address, *map(str, files))
        with typescript.running("test/tls", *arguments, settings={}) as program:
            program.ask("first")
            assert program.line() == "ROLE_REQUIRED"
            put(data_dir / "caller", "caller", caller("admin"))
            time.sleep(LOOK_S)
            program.ask("second")
            # The watch, begun as who may look, goes on.
            assert {program.line(), program.line()} == {"over TLS", "watched: over TLS"}
            # Half a file is not taken, and told; what was there stays.
            files[1].write_text("half a file")
            time.sleep(LOOK_S)
            program.ask("third")
            assert "What was there before is shown" in program.until("(node:")
            program.until("over TLS")
            # Nor is one that cannot even be looked for.
            files[1].unlink()
            files[1].symlink_to(files[1])
            time.sleep(LOOK_S)
            program.ask("fourth")
            assert "What was there before is shown" in program.until("(node:")
            program.until("over TLS")
            program.end()

    async with record_server(data_dir, **settings) as address:
        await asyncio.to_thread(called, address)


def test_calls_and_watches_do_as_they_say() -> None:
    tests = [str(path) for path in sorted((typescript.built() / "test").glob("*.test.js"))]
    done = subprocess.run(
        ["node", "--test", *tests], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("way", ["plain", "mTLS", "gateway"])
def test_the_conformance_cases_hold(way: str, folder: Path) -> None:
    """Behind the gateway, which is plain here, the services speak mTLS with it."""
    (folder / way).mkdir()
    with ground(folder / way, gateway_port=0 if way == "gateway" else None, by_tls=way != "plain") as there:
        settings = through_gateway(there) if way == "gateway" else there.environment
        done = typescript.run("test/conformance", settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(cases())} passed\n"
