"""A suite whose models lie outside its data folder: named once, true for all services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.client import Client, find_addresses
from modelkeep.rpc import open_channel
from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc
from modelkeep.suitefile import read_suite_file
from modelkeep.supervisor import SERVICES, SuiteError
from support import tinymodels
from support.httpserver import HttpServer, Resource
from support.suite import LOOPBACK_DOWNLOADS, service_suite
from support.workers import shared_workers

pytestmark = pytest.mark.timeout(120)

_BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def data(folder: Path) -> Iterator[Path]:
    """The data folder of a suite that `modelkeep up --models-dir` started, with `shelf` beside it."""
    data = folder / "data"
    shared_workers()  # import their libraries while the suite starts, as does the loader's helper
    up = subprocess.Popen(
        [_BIN / "modelkeep", "up", "--port", "0", "--data-dir", "data", "--models-dir", "shelf/of models"],
        cwd=folder,
        env={**os.environ, **LOOPBACK_DOWNLOADS, "MODELKEEP_LOADER_WARM_HELPER": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while read_suite_file(data) is None:
        assert up.poll() is None, up.communicate()[0]
        assert time.monotonic() < deadline, "the suite does not start"
        time.sleep(0.05)
    yield data
    up.send_signal(signal.SIGINT)
    said = up.communicate(timeout=60)[0]
    assert up.returncode == 0, said
    assert f"its models in {folder}/shelf/of models\n" in said


def test_every_service_and_the_suites_description_tell_the_same_folder(data: Path, folder: Path) -> None:
    shelf = str(folder / "shelf" / "of models")
    described = read_suite_file(data)
    assert described is not None
    assert described.models_dir == shelf
    ids = set()
    for name, address in find_addresses(data_dir=data).items():
        with open_channel(address) as channel:
            ask = server_service_pb2_grpc.ServerServiceStub(channel).GetServerInfo
            roots = ask(server_service_pb2.GetServerInfoRequest(), timeout=10).roots
        told = [root for root in roots if root.path == shelf]
        assert told, f"{name} tells {roots}"
        ids |= {root.root_id for root in told if root.root_id}
    assert len(ids) == 1


@pytest.mark.long  # a worker and the loader's helper import torch
@pytest.mark.parametrize("source", ["path", "url"])
async def test_a_model_is_installed_lent_and_deleted_there(
    data: Path, folder: Path, web: HttpServer, source: str
) -> None:
    shelf = folder / "shelf" / "of models"
    file = tinymodels.save_vae_file(folder / f"{source}.safetensors", seed=len(source))
    web.resources["/tiny.safetensors"] = Resource(file.read_bytes())
    with Client(data_dir=data) as client:
        given = web.url("/tiny.safetensors") if source == "url" else file
        job = client.model_install.import_model(given, inplace=False, config={"base_model": "sd-1"})
        client.model_install.wait_for_installs(timeout=60)
        assert job.status == "completed", job.error
        assert job.local_path is not None
        assert job.local_path.is_relative_to(shelf)
        record = client.model_record_store.get_model(job.model_key)
        assert (shelf / record.path).read_bytes() == file.read_bytes()
        worker = await shared_workers().new()
        try:
            await worker.do("connect", address=find_addresses(data_dir=data)["loader"].target)
            assert await worker.do("hold", key=job.model_key, submodel=None, precision="float32")
            assert await worker.do("verify")
            await worker.do("release")
        finally:
            await worker.close()
        assert client.model_install.delete(job.model_key) == [job.local_path]
    assert file.exists()
    assert not job.local_path.exists()
    assert not (data / "models").exists()
    assert [entry.name for entry in shelf.iterdir() if not entry.name.startswith(".")] == []


def test_a_folder_that_is_named_for_one_service_is_taken_for_all(data_dir: Path) -> None:
    shelf = data_dir.parent / "shelf"
    with service_suite(
        data_dir, services=("record", "install"), env={"MODELKEEP_INSTALL_MODELS_DIR": str(shelf)}
    ):
        described = read_suite_file(data_dir)
        assert described is not None
        assert described.models_dir == str(shelf)
    assert (shelf / ".modelkeep-root").exists()
    assert not (data_dir / "models").exists()


def test_two_folders_for_one_suite_are_refused_before_anything_starts(data_dir: Path) -> None:
    env = {"MODELKEEP_INSTALL_MODELS_DIR": "/a", "MODELKEEP_LOADER_MODELS_DIR": "/b"}
    suite = service_suite(data_dir, env=env)
    with pytest.raises(
        SuiteError, match=r"INSTALL_MODELS_DIR=/a.*LOADER_MODELS_DIR=/b.*--models-dir"
    ) as refused:
        suite.start()
    assert refused.value.exit_code == 78
    assert not suite.pids


def test_what_only_a_file_of_settings_names_is_not_told_wrongly(data_dir: Path) -> None:
    shelf, settings = data_dir.parent / "shelf", data_dir.parent / "settings.yaml"
    settings.write_text(json.dumps({"models_dir": str(shelf)}))
    env = {f"MODELKEEP_{service.upper()}_CONFIG": str(settings) for service in SERVICES}
    with service_suite(data_dir, services=("install",), env=env):
        described = read_suite_file(data_dir)
        assert described is not None
        assert described.models_dir == ""
    assert (shelf / ".modelkeep-root").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_folder_that_can_no_longer_be_written_ends_the_start_with_73(data_dir: Path) -> None:
    shelf = data_dir.parent / "shelf"
    with service_suite(data_dir, services=("install",), models_dir=shelf):
        pass
    subprocess.run(["mount", "--bind", shelf, shelf], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", shelf], check=True)
    try:
        with pytest.raises(SuiteError, match=r"cannot write .*shelf.*set another folder") as refused:
            service_suite(data_dir, services=("install",), models_dir=shelf).start()
    finally:
        subprocess.run(["umount", "-l", shelf], check=True)
    assert refused.value.exit_code == 73
