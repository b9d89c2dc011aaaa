"""InstallService and files whose times and sizes lie beyond what the wire can say."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2
from modelkeep_common.wire import MAX_INT64, MAX_TIME_S
from support.installs import install_service, small_lora
from support.modelshapes import write_pipeline

YEAR_11476 = 3e11


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, whose file system has such times and sizes; skips where there is none."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        pytest.skip("there is no file system in memory")
    made = Path(tempfile.mkdtemp(prefix="mk-", dir=memory))
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def test_a_file_of_the_year_11476_is_installed_and_gets_its_digests(
    data_dir: Path, folder: Path
) -> None:
    path = small_lora(folder / "lora.safetensors")
    os.utime(path, (YEAR_11476, YEAR_11476))
    async with install_service(data_dir, import_roots=(folder,)) as service:
        job = await service.install(path)
        assert job.state == install_pb2.INSTALL_STATE_COMPLETED, job.error
        (file,) = await service.digested(job.model_key)
    assert file.modify_time.seconds == MAX_TIME_S
    assert file.digest_state == model_pb2.DIGEST_STATE_COMPUTED
    assert len(file.sha256) == 64


async def test_sparse_files_beyond_an_int64_together_are_told_and_not_installed(
    data_dir: Path, folder: Path
) -> None:
    model = write_pipeline(folder / "model", "sd-1")
    for name in ("one.bin", "two.bin"):
        (model / name).touch()
        os.truncate(model / name, MAX_INT64)
    async with install_service(data_dir, import_roots=(folder,)) as service:
        probe = await service.stub.ProbeModel(pb.ProbeModelRequest(path=str(model)))
        assert probe.result.size_bytes == MAX_INT64
        job = await service.install(model)
    assert (job.state, job.error.reason) == (install_pb2.INSTALL_STATE_ERROR, "FIELD_INVALID"), job.error
