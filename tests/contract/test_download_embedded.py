"""A DownloadService inside this process, whose web is a session of `requests`."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client
from modelkeep.exceptions import CredentialsMissingException, ForbiddenPathException
from modelkeep_common.startup import StartupError
from modelkeep_download.embedded import EmbeddedDownloads
from support.simulatedweb import SimulatedSource, simulated

URL = "https://models.example/m.bin"
BODY = b"\0bytes\xff" * 50_000


@contextlib.contextmanager
def embedded(source: SimulatedSource, **options: Any) -> Iterator[EmbeddedDownloads]:
    with contextlib.closing(EmbeddedDownloads(simulated({URL: source}), **options)) as service:
        yield service


def test_it_fetches_through_the_session_into_any_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("modelkeep-*"))
    threads = set(threading.enumerate())
    source = SimulatedSource(BODY, {"Content-Disposition": 'filename="theirs.bin"'})
    with embedded(source) as service, Client(download=service.address) as client:
        job = client.download_queue.create_download_job(URL, tmp_path / "made" / "anew", access_token="open")
        client.download_queue.join(timeout=20)
        assert job.status == "completed", job.error
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [
        Path("made/anew/theirs.bin")
    ]
    assert (tmp_path / "made" / "anew" / "theirs.bin").read_bytes() == BODY
    assert list(tmp_path.rglob(".*")) == []
    assert source.requests[0].headers["Authorization"] == "Bearer open"
    assert set(Path(tempfile.gettempdir()).glob("modelkeep-*")) - before <= {
        Path(service.address.removeprefix("unix:")).parent.parent
    }
    assert set(threading.enumerate()) <= threads


def test_only_this_user_may_call_it(tmp_path: Path) -> None:
    with embedded(SimulatedSource(BODY)) as service:
        socket = Path(service.address.removeprefix("unix:"))
        assert (socket.stat().st_mode & 0o777, socket.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        with (
            Client(download=f"127.0.0.1:{service.port}") as stranger,
            pytest.raises(CredentialsMissingException),
        ):
            stranger.download_queue.list_jobs()


def test_its_own_folder_is_not_written_to_by_downloads(tmp_path: Path) -> None:
    with (
        embedded(SimulatedSource(BODY), data_dir=tmp_path / "data") as service,
        Client(download=service.address) as client,
        pytest.raises(ForbiddenPathException),
    ):
        client.download_queue.create_download_job(URL, tmp_path / "data" / "download")


def test_the_next_one_on_its_folder_goes_on_with_its_jobs(tmp_path: Path) -> None:
    source = SimulatedSource(BODY, {"ETag": '"v1"'}, rate=len(BODY))
    begun = threading.Event()
    with (
        embedded(source, data_dir=tmp_path / "data") as service,
        Client(download=service.address) as client,
    ):
        with pytest.raises(StartupError), embedded(source, data_dir=tmp_path / "data"):
            pass
        job = client.download_queue.create_download_job(
            URL, tmp_path, event_handlers=[lambda job: begun.set() if job.bytes else None]
        )
        assert begun.wait(10)
    assert not (tmp_path / "m.bin").exists()
    source.rate = None
    with (
        embedded(source, data_dir=tmp_path / "data") as service,
        Client(download=service.address) as client,
    ):
        client.download_queue.join(timeout=20)
        assert client.download_queue.id_to_job(job.id).status == "completed"
    assert (tmp_path / "m.bin").read_bytes() == BODY


@pytest.mark.parametrize("quiet", [False, True])
def test_of_its_own_log_a_program_sees_warnings_at_most_and_none_when_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    with embedded(SimulatedSource(BODY), quiet=quiet) as service, Client(download=service.address) as client:
        queue = client.create_download_queue("", quiet=True)
        gone = tmp_path / "gone"
        gone.mkdir()
        kept = queue.create_download_job(URL, tmp_path)
        missing = queue.create_download_job("https://models.example/nowhere", tmp_path)
        queue.join(timeout=20)
        assert (kept.status, missing.status) == ("completed", "error")
        logging.getLogger("modelkeep_download.engine.scheduler").warning("another's")
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert said == ["another's"]
