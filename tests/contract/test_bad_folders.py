"""Starts that must fail, folders that are taken, and stops in the middle, with the real services."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep.client import Client
from modelkeep.record.v1 import record_service_pb2 as record
from modelkeep.supervisor import Suite, SuiteError
from support import modelshapes
from support.httpserver import HttpServer, Resource
from support.services import Services
from support.suite import service_suite
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[2]


def ended(service: str, *arguments: str) -> tuple[int, str]:
    """Exit code and words of a service that cannot start."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(ROOT / "services"), str(ROOT / "clients" / "python")]
    done = subprocess.run(
        [sys.executable, "-m", f"modelkeep_{service}", "--insecure", *arguments],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("service", ["record", "download", "install"])
def test_a_data_folder_that_cannot_be_written_ends_the_start_with_73(service: str, data_dir: Path) -> None:
    (data_dir / service).write_text("in the way")
    code, said = ended(service, "--data-dir", str(data_dir), "--port", "0")
    assert code == 73, said
    assert str(data_dir) in said


@pytest.mark.parametrize("service", ["download", "install"])
def test_a_database_of_a_newer_schema_ends_the_start_with_65(
    services: Services, service: str, data_dir: Path
) -> None:
    # RecordService's own tests have its turn; the loader's database begins anew with each start.
    copy = data_dir / service / f"{service}.db"
    copy.parent.mkdir()
    with (
        contextlib.closing(sqlite3.connect(services.suite.data_dir / service / copy.name)) as running,
        contextlib.closing(sqlite3.connect(copy)) as newer,
    ):
        running.backup(newer)
        newer.execute("PRAGMA user_version = 9999")
    before = copy.read_bytes()
    code, said = ended(service, "--data-dir", str(data_dir), "--port", "0")
    assert code == 65, said
    assert "newer" in said
    assert copy.read_bytes() == before


def test_a_taken_port_ends_the_start_with_98(services: Services, data_dir: Path) -> None:
    taken = services.suite.over_tcp["record"].rpartition(":")[2]
    code, said = ended("record", "--data-dir", str(data_dir), "--port", taken)
    assert code == 98, said
    assert taken in said
    with pytest.raises(SuiteError, match=rf"Port {taken} .* taken") as raised:
        Suite(data_dir, ports={"install": int(taken)}).start()
    assert raised.value.exit_code == 98


def test_a_second_suite_or_service_on_a_data_folder_is_refused(services: Services) -> None:
    with pytest.raises(SuiteError, match="Another suite is running"):
        service_suite(services.suite.data_dir).start()
    for service in ("download", "install"):
        code, said = ended(service, "--data-dir", str(services.suite.data_dir), "--port", "0")
        assert code == 73, said
        assert "in use" in said
    assert services.record.GetStoreInfo(record.GetStoreInfoRequest()).schema_version == "3.2"


@pytest.mark.long
def test_an_install_goes_on_when_the_suite_is_stopped_in_its_middle_and_started_again(data_dir: Path) -> None:
    body = modelshapes.write_safetensors(
        data_dir / "style.safetensors", modelshapes.table("lora.sd-1.peft")
    ).read_bytes()
    three = ("record", "download", "install")
    with HttpServer() as server:
        resource = Resource(body, rate=len(body) // 3)
        url = server.put("/style.safetensors", resource)
        with service_suite(data_dir, services=three), Client(data_dir=data_dir) as client:
            job = client.model_install.import_model(url)
            wait_until(lambda: job.bytes > len(body) // 20)
        resource.rate = None
        with service_suite(data_dir, services=three), Client(data_dir=data_dir) as client:
            resumed = client.model_install.wait_for_job(job.id, timeout=20)
            assert resumed.status == "completed", resumed.error
            assert [config.key for config in client.model_record_store.all_models()] == [job.model_key]
        assert server.requests_of("/style.safetensors")[-1].offset > 0
        # A drain keeps every byte that arrived; those on their way in buffers are asked for again.
        assert server.bytes_served("/style.safetensors") < len(body) * 1.5
    assert resumed.local_path is not None
    assert resumed.local_path.read_bytes() == body
