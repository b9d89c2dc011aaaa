"""The TypeScript client, from Node over gRPC, with live services: its examples, and the conformance cases."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest

from modelkeep.client import Client
from modelkeep.loader.v1.leases_pb2 import GetLeaseRequest, ListLeasesRequest
from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceStub
from modelkeep.loader.v1.resident_pb2 import LEASE_STATE_ACTIVE
from support import tinymodels, typescript
from support.conformance import cases, ground
from support.installs import small_lora
from support.suite import OwnersSuite, service_suite

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


def test_a_lease_is_held_until_the_program_lets_it_go(
    folder: Path, settings: Mapping[str, str], client: Client, suite: OwnersSuite
) -> None:
    tinymodels.vae().save_pretrained(folder / "vae")
    key = client.model_install.register_path(folder / "vae")
    loader = LoaderServiceStub(grpc.insecure_channel(suite.addresses["loader"]))
    with typescript.running("examples/lease", key, settings=settings) as holding:
        lease_id = holding.until("held: ").removeprefix("held: ")
        lease = loader.GetLease(GetLeaseRequest(lease_id=lease_id)).lease
        assert (lease.state, lease.holder.label) == (LEASE_STATE_ACTIVE, "lease.js")
        assert holding.end() == ""
    assert not loader.ListLeases(ListLeasesRequest()).leases


def test_the_conformance_cases_hold(folder: Path) -> None:
    (folder / "conformance").mkdir()
    with ground(folder / "conformance") as there:
        done = typescript.run("test/conformance", settings=there.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(cases())} passed\n"
