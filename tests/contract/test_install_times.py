"""InstallService and files whose times lie beyond what a Timestamp can say."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.model.v1 import model_pb2
from modelkeep_common.wire import MAX_TIME_S
from support.installs import install_service, small_lora

YEAR_11476 = 3e11


@pytest.fixture
def far_future() -> Iterator[Path]:
    """A file of the year 11476; skips where no file system at hand can hold that."""
    for parent in ("/dev/shm", tempfile.gettempdir()):
        if not os.access(parent, os.W_OK):
            continue
        folder = Path(tempfile.mkdtemp(prefix="mk-", dir=parent))
        try:
            path = small_lora(folder / "lora.safetensors")
            os.utime(path, (YEAR_11476, YEAR_11476))
            if path.stat().st_mtime == YEAR_11476:
                yield path
                return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    pytest.skip("no file system here has such times")


async def test_a_file_of_the_year_11476_is_installed_and_gets_its_digests(
    data_dir: Path, far_future: Path
) -> None:
    async with install_service(data_dir, import_roots=(far_future.parent,)) as service:
        job = await service.install(far_future)
        assert job.state == install_pb2.INSTALL_STATE_COMPLETED, job.error
        (file,) = await service.digested(job.model_key)
    assert file.modify_time.seconds == MAX_TIME_S
    assert file.digest_state == model_pb2.DIGEST_STATE_COMPUTED
    assert len(file.sha256) == 64
