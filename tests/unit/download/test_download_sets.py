"""Several files as one download: what may be asked for, how it is kept, and how it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.exceptions import (
    DestinationExistsException,
    FieldInvalidException,
    NotAModelFileException,
)
from modelkeep_common.auth import NOBODY
from modelkeep_common.paths import AllowedRoots
from modelkeep_common.sqlite import Connection, Database
from modelkeep_download import convert
from modelkeep_download.domain.job import (
    FileFacts,
    FileSpec,
    Job,
    JobSpec,
    JobState,
    SecretKind,
    SourceKind,
)
from modelkeep_download.domain.sets import AskedFile, checked_files
from modelkeep_download.domain.transitions import ended
from modelkeep_download.engine.places import Places
from modelkeep_download.engine.requests import NewDownload, check_target, renewed, spec_of
from modelkeep_download.engine.standing import standing_of
from modelkeep_download.engine.transfer import Credentials
from modelkeep_download.migrations import MIGRATIONS
from modelkeep_download.store import JobFilter, JobStore

SHA = "ab" * 32
FILES = (
    FileSpec("http://h/unet/config.json", "unet/config.json", SHA, 12),
    FileSpec("http://h/model_index.json", "model_index.json"),
)
SPEC = JobSpec(
    queue="",
    kind=SourceKind.FILES,
    source="http://h/unet/config.json",
    destination=Path("/m/tiny"),
    destination_is_folder=True,
    filename="",
    root=Path("/m"),
    priority=10,
    preserve_partial=False,
    copy=False,
    expected_sha256="",
    start=True,
    files=FILES,
)


def request(*files: tuple[str, str], **fields: str) -> pb.CreateDownloadRequest:
    asked = [download_pb2.SourceFile(url=url, path=path) for url, path in files]
    source = download_pb2.DownloadSource(files=download_pb2.FileSet(files=asked))
    return pb.CreateDownloadRequest(source=source, **fields)  # type: ignore[arg-type]  # any field of text


def places(root: Path) -> Places:
    roots = AllowedRoots([root], data_dir=root / "data", models=[root], setting="download_roots")
    return Places(roots, roots, root / "models")


def new(*files: tuple[str, str], **fields: str) -> NewDownload:
    return convert.new_download(request(*files, **fields), NOBODY)


def violations(error: FieldInvalidException) -> list[str]:
    return [violation.field for violation in error.violations]


# What may be asked for.


def test_a_request_for_several_files_becomes_a_spec_that_names_each(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    asked = request(("http://h/a.bin", "sub/a.bin"), ("https://h/b.bin", "b.bin"), destination=f"{root}/new")
    asked.source.files.files[0].expected_sha256 = f"sha256:{SHA.upper()}"
    asked.source.files.files[1].size_bytes = 0
    spec, credentials, secret = spec_of(convert.new_download(asked, NOBODY), places(root))
    assert (spec.kind, spec.source, secret) == (SourceKind.FILES, "http://h/a.bin", SecretKind.NONE)
    assert (spec.destination, spec.destination_is_folder) == (root / "new", True)
    assert credentials == Credentials("http://h/a.bin")
    assert spec.files == (
        FileSpec("http://h/a.bin", "sub/a.bin", SHA, None),
        FileSpec("https://h/b.bin", "b.bin", "", 0),
    )


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/x",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        ".hidden",
        "a/.git/x",
        "a\\b",
        "CON",
        "a\x00b",
        "x" * 1025,
    ],
)
def test_a_path_is_plain_names_with_slashes_between(path: str) -> None:
    with pytest.raises(FieldInvalidException) as refused:
        checked_files([AskedFile("http://h/a", "ok"), AskedFile("http://h/a", path)], has_token=False)
    assert violations(refused.value) == ["source.files.files[1].path"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("a/x.bin", "a/x.bin"), ("A/x.bin", "a/X.bin"), ("é", "e\u0301"), ("a", "a/b"), ("a/b/c", "A/b")],
)
def test_no_two_files_get_in_each_others_way(first: str, second: str) -> None:
    with pytest.raises(FieldInvalidException) as refused:
        checked_files([AskedFile("http://h/a", first), AskedFile("http://h/b", second)], has_token=False)
    assert violations(refused.value)[0].endswith("].path")


@pytest.mark.parametrize(
    "url", ["http://me:secret@h/a", "http://h/a?token=abcdef", "http://h/a?X-Amz-Signature=abcdef"]
)
def test_an_address_with_a_secret_is_refused_with_what_to_do(url: str) -> None:
    with pytest.raises(FieldInvalidException) as refused:
        checked_files([AskedFile(url, "a")], has_token=False)
    assert violations(refused.value) == ["source.files.files[0].url"]
    assert "access_token" in str(refused.value.remedy)
    assert not any(secret in str(refused.value) for secret in ("secret@", "abcdef"))


def test_a_token_goes_to_one_host_or_to_none() -> None:
    here, there = AskedFile("https://h/a", "a"), AskedFile("https://other/b", "b")
    assert len(checked_files([here, there], has_token=False)) == 2
    assert len(checked_files([here, AskedFile("https://h:443/b", "b")], has_token=True)) == 2
    for other in (there, AskedFile("http://h/b", "b"), AskedFile("https://h:8443/b", "b")):
        with pytest.raises(FieldInvalidException) as refused:
            checked_files([here, other], has_token=True)
        assert violations(refused.value) == ["access_token"]


def test_a_token_that_is_brought_later_goes_to_one_host_or_to_none() -> None:
    several = replace(SPEC, files=(*FILES, FileSpec("http://other/x", "x")))
    job = Job(id=1, spec=several, state=JobState.PAUSED)
    with pytest.raises(FieldInvalidException):
        renewed(job, None, "secret", "")
    _, credentials, secret = renewed(Job(id=1, spec=SPEC, state=JobState.PAUSED), None, "secret", "")
    assert (credentials, secret) == (Credentials(SPEC.source, token="secret"), SecretKind.ACCESS_TOKEN)
    with pytest.raises(FieldInvalidException):
        renewed(Job(id=1, spec=SPEC, state=JobState.PAUSED), None, "", SPEC.source)


def test_other_bad_files_are_named_by_their_place() -> None:
    for file, field in (
        (AskedFile("ftp://h/a", "a"), "url"),
        (AskedFile("", "a"), "url"),
        (AskedFile("http://h/a", "a", "cafe"), "expected_sha256"),
        (AskedFile("http://h/a", "a", size=-1), "size_bytes"),
    ):
        with pytest.raises(FieldInvalidException) as refused:
            checked_files([file], has_token=False)
        assert violations(refused.value) == [f"source.files.files[0].{field}"]
    with pytest.raises(NotAModelFileException):
        checked_files(
            [AskedFile("https://huggingface.co/owner/name/blob/main/a.bin", "a.bin")], has_token=False
        )
    with pytest.raises(FieldInvalidException):
        checked_files([], has_token=False)
    with pytest.raises(FieldInvalidException):
        checked_files([AskedFile(f"http://h/{'a' * 8000}", str(at)) for at in range(300)], has_token=False)


@pytest.mark.parametrize("field", ["filename", "expected_sha256"])
def test_what_each_file_has_for_itself_is_refused_for_all(tmp_path: Path, field: str) -> None:
    with pytest.raises(FieldInvalidException) as refused:
        spec_of(
            new(("http://h/a", "a"), destination=str(tmp_path.resolve()), **{field: SHA}),
            places(tmp_path.resolve()),
        )
    assert violations(refused.value) == [field]


def test_a_file_where_one_of_them_goes_is_not_replaced(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    spec, _, _ = spec_of(new(("http://h/a", "s/a"), ("http://h/b", "b"), destination=str(root)), places(root))
    check_target(spec)
    (root / "s").mkdir()
    (root / "s" / "a").touch()
    with pytest.raises(DestinationExistsException) as taken:
        check_target(spec)
    assert taken.value.metadata["path"] == str(root / "s" / "a")


def test_a_file_in_place_of_their_folder_is_said_at_once(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "taken").touch()
    with pytest.raises((DestinationExistsException, FieldInvalidException)):
        spec_of(new(("http://h/a", "a"), destination=f"{root}/taken"), places(root))


# How it is kept.


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "download.db", MIGRATIONS, "download", reserve_bytes=0)
    yield opened
    await opened.close()


STORE = JobStore(convert.encode_job)


async def insert(database: Database, spec: JobSpec) -> Job:
    return await database.write(lambda conn: STORE.insert(conn, spec, SecretKind.NONE, b""))


async def test_a_row_holds_the_files_and_what_is_known_of_them(database: Database) -> None:
    made = await insert(database, SPEC)
    facts = (FileFacts(12, SHA), FileFacts())
    changed = await database.write(
        lambda conn: STORE.change(conn, made.id, lambda job: replace(job, file_facts=facts))
    )
    found = await database.read(lambda conn: STORE.get(conn, made.id))
    assert found == changed
    assert (found.spec.files, found.file_facts, found.file_count) == (FILES, facts, 2)
    (listed,) = await database.read(lambda conn: list(STORE.list(conn, JobFilter())))
    assert (listed.spec.files, listed.file_facts, listed.file_count) == ((), (), 2)
    (whole,) = await database.read(lambda conn: list(STORE.list(conn, JobFilter(), whole=True)))
    assert whole == found


async def test_two_jobs_never_bring_the_same_file(database: Database) -> None:
    one = replace(SPEC, kind=SourceKind.URL, files=(), filename="model_index.json")
    first = await insert(database, SPEC)
    for spec in (SPEC, one, replace(SPEC, files=FILES[1:])):
        with pytest.raises(DestinationExistsException) as taken:
            await insert(database, spec)
        assert taken.value.metadata["id"] == str(first.id)
        assert Path(taken.value.metadata["path"]) in first.targets
    beside = await insert(database, replace(one, filename="other.json"))
    assert beside.id != first.id
    await database.write(
        lambda conn: STORE.change(conn, first.id, lambda job: ended(job, JobState.CANCELLED))
    )
    second = await insert(database, one)
    with pytest.raises(DestinationExistsException) as taken:
        await insert(database, SPEC)
    told = taken.value.metadata
    assert (told["path"], told["id"]) == ("/m/tiny/model_index.json", str(second.id))


async def test_ten_thousand_files_are_kept_and_not_written_again_with_each_change(
    database: Database,
) -> None:
    many = tuple(FileSpec(f"http://h/{at}.bin", f"shards/{at}.bin", SHA, at) for at in range(10_000))
    made = await insert(database, replace(SPEC, files=many))
    written: list[str] = []
    for state in (JobState.RUNNING, JobState.PAUSED, JobState.ENQUEUED):
        change = partial(STORE.change, job_id=made.id, transition=partial(replace, state=state))

        def traced(conn: Connection, change: Callable[[Connection], Job] = change) -> Job:
            conn.set_trace_callback(written.append)
            try:
                return change(conn)
            finally:
                conn.set_trace_callback(None)

        await database.write(traced)
    assert len(written) < 100
    assert sum(map(len, written)) < 100_000, max(written, key=len)[:1000]
    job = await database.read(lambda conn: STORE.get(conn, made.id))
    assert job.spec.files == many
    under_way = standing_of(job)
    job = replace(job, every_standing=under_way, standing=under_way[:16])
    assert convert.job_to_proto(job, whole=True).ByteSize() < 4 << 20


# How it is told.


def test_a_job_tells_its_files_where_all_of_it_is_asked_for() -> None:
    facts = (FileFacts(12, SHA), FileFacts(7))
    job = Job(id=1, spec=SPEC, state=JobState.COMPLETED, file_count=2, file_facts=facts)
    job = replace(job, every_standing=standing_of(job))
    brief, whole = convert.job_to_proto(job), convert.job_to_proto(job, whole=True)
    assert (brief.file_count, list(brief.files), brief.path) == (2, [], "/m/tiny")
    assert [file.url for file in brief.source.files.files] == ["http://h/unet/config.json"]
    assert list(whole.files) == [
        download_pb2.DownloadFile(
            path="unet/config.json",
            url="http://h/unet/config.json",
            bytes_total=12,
            bytes_done=12,
            sha256=SHA,
            expected_sha256=SHA,
            verified=True,
            done=True,
        ),
        download_pb2.DownloadFile(
            path="model_index.json", url="http://h/model_index.json", bytes_total=7, bytes_done=7, done=True
        ),
    ]
    running = replace(job, state=JobState.RUNNING, file_facts=(), every_standing=())
    told = convert.job_to_proto(running, whole=True).files
    assert [(file.bytes_total, file.done) for file in told] == [(12, False), (0, False)]
    assert not told[1].HasField("bytes_total")


def test_the_largest_set_that_is_taken_is_told_in_one_message() -> None:
    asked = [AskedFile(f"http://h/{at:0150}", f"{at:050}", SHA, size=2**62) for at in range(10_000)]
    files = checked_files(asked, has_token=False)
    job = Job(
        id=2**62,
        spec=replace(SPEC, files=files),
        state=JobState.COMPLETED,
        file_count=len(files),
        file_facts=(FileFacts(2**62, SHA),) * len(files),
    )
    text = sum(len(file.source) + len(file.path) for file in files)
    assert text > 2_080_000  # as much as is taken, nearly
    assert convert.job_to_proto(job, whole=True).ByteSize() < 4 << 20


def test_a_job_of_one_file_has_the_one_target_that_is_known() -> None:
    spec = replace(SPEC, kind=SourceKind.URL, files=())
    unnamed = Job(id=1, spec=spec, state=JobState.ENQUEUED)
    assert unnamed.targets == ()
    assert replace(unnamed, name="a.bin").targets == (Path("/m/tiny/a.bin"),)
    several = Job(id=1, spec=SPEC, state=JobState.ENQUEUED)
    assert several.targets == (Path("/m/tiny/unet/config.json"), Path("/m/tiny/model_index.json"))
