"""A database of the version that had a column for each field of a job is taken over whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.exceptions import DestinationExistsException
from modelkeep_common.sqlite import Connection, Database
from modelkeep_download.domain.job import Failure, Job, JobSpec, JobState, SecretKind, SourceKind, Stage
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.migrations import MIGRATIONS
from modelkeep_download.store import JobFilter, JobStore
from support.downloads import download_service
from support.httpserver import HttpServer, Resource, pattern

BODY = pattern(300_000)
#: The columns of the first version, with what it wrote for a job that has just been made.
NEW: dict[str, Any] = {
    **{"queue": "", "kind": "url", "source": "http://h/m.bin", "destination": "/m", "root": "/m"},
    **{"destination_is_folder": 1, "filename": "", "copy": 0, "expected_sha256": "", "labels": "{}"},
    **{"start": 1, "initial_priority": 10, "initial_preserve_partial": 0, "state": "enqueued", "stage": ""},
    **{"secret": "", "priority": 10, "preserve_partial": 0, "bytes_done": 0, "bytes_total": None},
    **{"staging": "", "validator": "", "final_url": "", "content_type": "", "name": "", "sha256": ""},
    **{"staged_device": None, "staged_inode": None, "delivered_path": "", "verified": 0, "attempt": 0},
    **{"restarts": 0, "changes": 0, "failure": None, "enqueue_order": 1, "job_sequence": 0},
    **{"create_time": 1.5, "start_time": None, "end_time": None, "update_time": 1.5, "version": 1},
    "revision": 1,
}


async def old_database(path: Path, rows: list[dict[str, Any]], *, last_id: int) -> None:
    """A database of the first version with these rows; `last_id` is the highest that it ever gave."""
    database = await Database.open(path, MIGRATIONS[:1], "download", reserve_bytes=0)

    def fill(conn: sqlite3.Connection) -> None:
        for row in rows:
            columns = {**NEW, **row}
            conn.execute(
                f"INSERT INTO downloads ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                tuple(columns.values()),
            )
        conn.execute("DELETE FROM sqlite_sequence WHERE name = 'downloads'")
        conn.execute("INSERT INTO sqlite_sequence VALUES ('downloads', ?)", (last_id,))
        conn.execute("INSERT INTO meta VALUES ('enqueue_order', 41), ('job_sequence', 17)")

    await database.write(fill)
    await database.close()


@contextlib.asynccontextmanager
async def today(path: Path) -> Any:
    """The database as this version opens it."""
    database = await Database.open(path, MIGRATIONS, "download", reserve_bytes=0)
    try:
        yield database
    finally:
        await database.close()


async def test_every_field_of_every_job_is_what_it_was(tmp_path: Path) -> None:
    failure = {
        **{"code": "UNAVAILABLE", "reason": "UPSTREAM_UNAVAILABLE", "message": 'it says "é\\n"\t\u2028'},
        **{"metadata": {"peer": "h", "attempts": "3"}, "retry_time": 1790000000.1234567},
    }
    moment = math.nextafter(1790000000.1, 2e9)  # no fewer than 17 digits tell it
    rows: list[dict[str, Any]] = [
        {"id": 1},
        {
            **{"id": 7, "queue": "q", "source": "http://h/m%20x.bin?a=b&c='d'", "destination": "/m/ü ☃/"},
            **{"filename": 'n"m.bin', "root": "/m/ü", "copy": 1, "expected_sha256": "ab" * 32},
            **{"labels": json.dumps({"kind": "unet", "naïve": "\U0001f511 \\ \x01"}), "start": 0},
            **{"initial_priority": -3, "initial_preserve_partial": 1, "state": "running"},
            **{"stage": "waiting", "secret": "source_url, access_token", "priority": 2**31 - 1},
            **{"preserve_partial": 1, "bytes_done": 2**62, "bytes_total": 2**63 - 1, "staging": "/m/.s/d-7"},
            **{"validator": '"e\'tag"', "final_url": "http://cdn/x", "content_type": "a/b", "name": "n.bin"},
            **{"staged_device": 2**40, "staged_inode": 2**50, "delivered_path": "/m/n.bin"},
            **{"sha256": "cd" * 32, "verified": 1, "attempt": 4, "restarts": 2, "changes": 1},
            **{"failure": json.dumps(failure), "enqueue_order": 40, "job_sequence": 12},
            **{"create_time": moment, "start_time": moment + 1, "end_time": moment + 2},
            **{"update_time": moment + 3, "version": 9, "revision": 99},
        },
        {"id": 8, "kind": "path", "source": "/in/ü", "destination_is_folder": 0, "bytes_total": 0},
    ]
    path = tmp_path / "download.db"
    await old_database(path, rows, last_id=23)
    plain = Job(
        id=1,
        spec=JobSpec(
            queue="",
            kind=SourceKind.URL,
            source="http://h/m.bin",
            destination=Path("/m"),
            destination_is_folder=True,
            filename="",
            root=Path("/m"),
            priority=10,
            preserve_partial=False,
            copy=False,
            expected_sha256="",
            start=True,
        ),
        state=JobState.ENQUEUED,
        enqueue_order=1,
        create_time=1.5,
        update_time=1.5,
        revision=1,
    )
    store = JobStore(lambda job: b"")
    async with today(path) as database:
        first, rich, local = await database.read(lambda conn: list(store.list(conn, JobFilter())))
        made = await database.write(lambda conn: store.insert(conn, plain.spec, SecretKind.NONE, b""))
        sequence = await database.write(store.next_sequence)
    assert first == plain
    assert rich == Job(
        id=7,
        spec=JobSpec(
            queue="q",
            kind=SourceKind.URL,
            source="http://h/m%20x.bin?a=b&c='d'",
            destination=Path("/m/ü ☃/"),
            destination_is_folder=True,
            filename='n"m.bin',
            root=Path("/m/ü"),
            priority=-3,
            preserve_partial=True,
            copy=True,
            expected_sha256="ab" * 32,
            start=False,
            labels={"kind": "unet", "naïve": "\U0001f511 \\ \x01"},
        ),
        state=JobState.RUNNING,
        stage=Stage.WAITING,
        secret=SecretKind.BOTH,
        priority=2**31 - 1,
        preserve_partial=True,
        have=ByteRanges.first(2**62),
        bytes_total=2**63 - 1,
        staging="/m/.s/d-7",
        validator='"e\'tag"',
        final_url="http://cdn/x",
        content_type="a/b",
        name="n.bin",
        staged_inode=(2**40, 2**50),
        delivered_path="/m/n.bin",
        sha256="cd" * 32,
        verified=True,
        attempt=4,
        restarts=2,
        changes=1,
        failure=Failure(**failure),  # type: ignore[arg-type]  # as it was written
        enqueue_order=40,
        job_sequence=12,
        create_time=moment,
        start_time=moment + 1,
        end_time=moment + 2,
        update_time=moment + 3,
        version=9,
        revision=99,
    )
    assert (local.spec.kind, local.spec.source, local.bytes_total) == (SourceKind.PATH, "/in/ü", 0)
    # No id, place in the queue or number is given twice.
    assert (made.id, made.enqueue_order, sequence) == (24, 42, 18)


async def test_a_destination_that_an_old_job_is_to_fill_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "download.db"
    rows = [
        {"id": 1, "state": "paused", "destination": "/m", "name": "a.bin"},
        {"id": 2, "state": "completed", "destination": "/m", "name": "b.bin"},
    ]
    await old_database(path, rows, last_id=2)
    store = JobStore(lambda job: b"")
    async with today(path) as database:
        old = await database.read(lambda conn: store.get(conn, 1))

        def insert(name: str) -> Callable[[Connection], Job]:
            spec = dataclasses.replace(old.spec, filename=name)
            return lambda conn: store.insert(conn, spec, SecretKind.NONE, b"")

        with pytest.raises(DestinationExistsException) as taken:
            await database.write(insert("a.bin"))
        await database.write(insert("b.bin"))
    assert taken.value.metadata["id"] == "1"


async def test_what_only_another_version_wrote_of_a_job_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "download.db"
    failure = {"code": "INTERNAL", "reason": "", "message": "m", "metadata": {}, "traceback": "…"}
    await old_database(path, [{"id": 1, "state": "error", "failure": json.dumps(failure)}], last_id=1)
    async with today(path) as database:
        job = await database.read(lambda conn: JobStore(lambda job: b"").get(conn, 1))
    assert job.failure == Failure("INTERNAL", "", "m", {})


@pytest.mark.may_block  # writes a partial file
async def test_a_paused_job_goes_on_from_the_bytes_that_it_has(data_dir: Path, web: HttpServer) -> None:
    url = web.put("/m.bin", Resource(BODY))
    downloads = Path(os.path.realpath(data_dir)) / "downloads"
    staging = downloads / ".staging" / "download-3"
    staging.mkdir(parents=True)
    (staging / "data").write_bytes(BODY[:100_000])
    row = {
        **{"id": 3, "source": url, "destination": str(downloads), "root": str(downloads), "state": "paused"},
        **{"staging": str(staging), "name": "m.bin", "bytes_done": 100_000, "bytes_total": len(BODY)},
        "validator": Resource(BODY).etag,
    }
    (data_dir / "download").mkdir()
    await old_database(data_dir / "download" / "download.db", [row], last_id=3)
    async with download_service(data_dir) as client:
        await client.stub.StartDownload(pb.StartDownloadRequest(id=3))
        job = await client.ended(await client.get(3))
    assert (job.state, job.restarts) == (download_pb2.DOWNLOAD_STATE_COMPLETED, 0), job.error
    assert Path(job.path).read_bytes() == BODY
    assert [request.headers.get("range") for request in web.requests] == ["bytes=100000-"]
