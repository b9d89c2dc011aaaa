"""What a source says when it serves no file: passed on, told apart, and shown while a job tries again."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.httpserver import Cut, Garbage, Hang, HttpServer, Resource, Status, pattern

BODY = pattern(300_000)
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED
WAITING = download_pb2.DOWNLOAD_STAGE_WAITING
TLS = Path(__file__).parents[1] / "data" / "tls"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, max_attempts=3) as service:
        yield service


def says(code: int, text: str | dict[str, str], **headers: str) -> Status:
    body = text if isinstance(text, str) else json.dumps(text)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Status(code, body=body.encode(), headers=named)


GATED = (
    "Access to model acme/big is restricted and you are not in the authorized list. Visit https://h/acme/big."
)
LOG_IN = "The creator of this asset requires you to be logged in to download it"
#: What a source answers, whether a token is given, the reason, and words of the error.
REFUSALS = (
    (says(401, {"error": "Unauthorized", "message": LOG_IN}), False, "TOKEN_REQUIRED", LOG_IN),
    (says(401, {"error": "Unauthorized", "message": LOG_IN}), True, "TOKEN_REJECTED", LOG_IN),
    (says(401, "Invalid username or password."), True, "TOKEN_REJECTED", "Invalid username or password."),
    (
        says(
            403,
            {"error": "Early Access", "message": "This asset is in Early Access.", "deadline": "2026-12-01"},
        ),
        False,
        "EARLY_ACCESS",
        "until 2026-12-01",
    ),
    (says(402, ""), True, "PURCHASE_REQUIRED", "Buy it at the source"),
    (says(403, {"message": "You must purchase this model"}), True, "PURCHASE_REQUIRED", "must purchase this"),
    (says(401, GATED, X_Error_Code="GatedRepo", X_Error_Message=GATED), False, "LICENSE_NOT_ACCEPTED", GATED),
    (says(403, GATED), True, "LICENSE_NOT_ACCEPTED", "Accept them on the model's own page"),
    (
        says(401, "", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found"),
        False,
        "SOURCE_NOT_FOUND",
        "Repository not found",
    ),
    (
        says(404, "Entry not found", X_Error_Code="EntryNotFound"),
        False,
        "SOURCE_NOT_FOUND",
        "Entry not found",
    ),
    (
        says(403, "<Error><Code>NoSuchKey</Code><Message>The key is not there.</Message></Error>"),
        False,
        "SOURCE_NOT_FOUND",
        "The key is not there.",
    ),
    (
        says(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"),
        False,
        "ADDRESS_EXPIRED",
        "the address has probably run out",
    ),
    (
        says(410, {"error": "Model archived, not available for download"}),
        False,
        "SOURCE_DISABLED",
        "Model archived",
    ),
    (
        says(401, {"message": "The creator of this asset has disabled downloads on this file"}),
        True,
        "SOURCE_DISABLED",
        "has disabled downloads",
    ),
    (
        says(403, "", X_Error_Code="DisabledRepo", X_Error_Message="Access to this resource is disabled."),
        True,
        "SOURCE_DISABLED",
        "Access to this resource is disabled.",
    ),
    (says(410, "Gone"), False, "SOURCE_NOT_FOUND", "there is no such file"),
    (
        says(451, "<html><title>Not here</title>see our terms of service</html>"),
        False,
        "SOURCE_NOT_FOUND",
        "Not here",
    ),
    (
        says(403, "<html><title>Just a moment</title><a>log in</a> <a>license</a>"),
        False,
        "TOKEN_REQUIRED",
        "or serves this file to nobody",
    ),
)


async def test_the_sources_own_sentence_tells_the_reasons_of_refusals_apart(
    client: DownloadClient, web: HttpServer
) -> None:
    for number, (answer, with_token, reason, words) in enumerate(REFUSALS):
        url = web.put(f"/{number}.bin", Resource(BODY, faults=[answer]))
        job = await client.run(url, access_token="some-token" if with_token else "")
        assert (job.state, job.error.reason, job.attempt) == (ERROR, reason, 1), (answer, job.error)
        assert words in f"{job.error.message} {job.error.metadata['remedy']}"
        assert str(answer.code) in job.error.message


async def test_a_sentence_is_cut_and_cleaned_and_shows_no_secret(
    client: DownloadClient, web: HttpServer
) -> None:
    secret = "hidden-value, s3cret-token or p4ss-word at https://h/x?sig=abcdefgh"
    bidi = "no \N{RIGHT-TO-LEFT OVERRIDE}thing".encode().decode("latin-1")
    answers = (
        (
            says(404, f'no "thing"\r\n for {secret} ' + "x" * 5000),
            "no 'thing' for REDACTED, REDACTED or REDACTED",
        ),
        (says(404, "", X_Error_Message=bidi), "no thing"),
    )
    for number, (answer, words) in enumerate(answers):
        url = web.put(f"/{number}.bin?sig=hidden-value", Resource(b"", faults=[answer]))
        job = await client.run(url.replace("http://", "http://me:p4ss-word@"), access_token="s3cret-token")
        assert words in job.error.message
        assert len(job.error.message) < 500
        assert not [part for part in ("s3cret", "p4ss", "hidden-value", "abcdefgh") if part in str(job)]


async def test_a_rate_limit_is_heeded_and_shown(client: DownloadClient, web: HttpServer) -> None:
    limits = ('"resolvers";r=0;t=30', '"a";r=5;t=900, "b";r=0;t=30', "limit=9, remaining=0, reset=30")
    for number, header in enumerate(limits):
        answer = says(429, "slow down", RateLimit=header)
        asked = time.time()
        job = await client.create(web.put(f"/{number}.bin", Resource(BODY, faults=[answer])))
        waiting = await client.until(job, lambda now: now.stage == WAITING)
        assert asked + 29 < waiting.error.retry_time.ToSeconds() < time.time() + 31, header
        assert 'says "slow down"' in waiting.error.message
        assert (waiting.attempt, waiting.error.metadata["max_attempts"]) == (1, "3")
        await client.stub.CancelDownload(pb.CancelDownloadRequest(id=job.id))


async def test_the_last_error_stays_told_while_the_next_try_is_under_way(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir, headers_timeout_s=60) as client:
        url = web.put("/m.bin", Resource(BODY, faults=[says(503, "down for a while"), Hang(-1, 60)]))
        job = await client.create(url)
        trying = await client.until(job, lambda now: now.attempt == 2)
        assert 'says "down for a while"' in trying.error.message
        assert not trying.error.HasField("retry_time")


async def test_what_cannot_work_ends_at_once_and_what_hardly_can_after_a_few_tries(
    data_dir: Path, web: HttpServer
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    web.put("/garbage.bin", Resource(BODY, faults=[Garbage()]))
    cases = (
        ("http://no-such-host.invalid/x.bin", "cannot be resolved", "1"),
        (web.url("/garbage.bin"), "no HTTP", "1"),
        (web.url("/m.bin").replace("http:", "https:"), "speaks no TLS", "1"),
        (f"http://127.0.0.1:{port}/x.bin", "connection refused", "3"),
    )
    async with download_service(data_dir) as client:
        for url, words, tries in cases:
            job = await client.run(url)
            assert (job.state, job.error.reason) == (ERROR, "UPSTREAM_UNAVAILABLE"), job
            assert words in job.error.message
            assert (job.error.metadata["attempts"], str(job.attempt)) == (tries, tries)
            assert "the address" in job.error.metadata["remedy"]


async def test_a_certificate_that_nobody_vouches_for_fails_at_once_with_the_remedy(
    client: DownloadClient,
) -> None:
    with HttpServer(tls=next(TLS.glob("*.pem"))) as web:
        job = await client.run(web.put("/m.bin", Resource(BODY)))
    assert (job.state, job.error.reason, job.attempt) == (ERROR, "UPSTREAM_UNAVAILABLE", 1)
    assert "certificate" in job.error.message
    assert "tls_ca_file" in job.error.metadata["remedy"]


async def test_a_source_that_is_gone_in_the_middle_is_worth_every_try_and_the_bytes_stay(
    data_dir: Path,
) -> None:
    async with download_service(data_dir, max_attempts=5) as client:
        with HttpServer() as web:
            cuts = [Cut(100_000)] * 2
            job = await client.create(web.put("/m.bin", Resource(BODY, faults=[*cuts], rate=300_000)))
            await client.until(job, lambda now: now.progress.bytes_done >= 50_000)
        paused = await client.until(job, lambda now: now.state == PAUSED)
        assert (paused.error.reason, paused.error.metadata["attempts"]) == ("UPSTREAM_UNAVAILABLE", "5")
        with HttpServer(port=web.port) as back:
            back.put("/m.bin", Resource(BODY))
            await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
            assert (await client.ended(job)).state == COMPLETED
            assert back.requests[0].offset == paused.progress.bytes_done > 0


async def test_variables_that_name_a_proxy_are_told_to_be_ignored(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter22@proxy.example:3128")
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example")
    async with download_service(data_dir) as client:
        job = await client.run("https://no-such-host.invalid/m.bin")
    assert job.error.metadata["ignored_variables"] == "HTTPS_PROXY, ALL_PROXY"
    assert "ignores HTTPS_PROXY, ALL_PROXY of its environment" in job.error.message
    assert "proxy = environment" in job.error.metadata["remedy"]
    assert "hunter22" not in str(job)


@pytest.mark.parametrize(
    ("answer", "reason", "tries"),
    [
        (Status(403), "ADDRESS_EXPIRED", 2),
        (Status(404), "SOURCE_NOT_FOUND", 3),
        (says(403, {"message": LOG_IN}), "TOKEN_REQUIRED", 2),
    ],
)
async def test_a_refusal_in_the_middle_pauses_the_job_with_its_bytes(
    client: DownloadClient, web: HttpServer, answer: Status, reason: str, tries: int
) -> None:
    url = web.put("/m.bin", Resource(BODY, faults=[Cut(100_000), *[answer] * 3]))
    job = await client.create(url)
    paused = await client.until(job, lambda now: now.state == PAUSED)
    assert (paused.error.reason, paused.progress.bytes_done) == (reason, 100_000), paused.error
    assert len(web.requests) == tries
    web.resources["/m.bin"].faults = []
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    done = await client.ended(job)
    assert (done.state, done.restarts, Path(done.path).read_bytes()) == (COMPLETED, 0, BODY)
    assert web.requests[-1].offset == 100_000
