"""What ResolveSource says of repositories that cannot be had, in the hub's own words and with what helps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.downloads import DownloadClient, download_service
from support.failures import refused
from support.httpserver import HttpServer, Request, Resource, Status
from support.hub import Hub

WEIGHTS = b"w" * 3000
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "README.md": b"# x\n"}


@pytest.fixture
async def client(data_dir: Path, hub: Hub) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, hub_endpoint=hub.url) as service:
        yield service


async def test_a_gated_repository_wants_a_login_and_then_that_its_terms_are_accepted(
    client: DownloadClient, hub: Hub
) -> None:
    repository = hub.repository("org/gated", FILES, gated="auto")
    with refused("TOKEN_REQUIRED") as error:
        await client.resolve("org/gated")
    assert error.metadata["said"]
    assert f"{hub.url}/org/gated" in error.remedy
    assert error.metadata["terms"] == f"{hub.url}/org/gated"
    assert hub.url.endswith(error.metadata["kept_under"])
    token = hub.token("alice")
    with refused("LICENSE_NOT_ACCEPTED") as error:
        await client.resolve("org/gated", token=token)
    assert f"Accept the terms at {hub.url}/org/gated" in error.remedy
    assert error.metadata["said"] in error.message
    repository.grant("alice")
    plan = await client.resolve("org/gated", token=token)
    assert len(plan.files) == 2
    assert token not in str(plan)


async def test_a_kept_token_is_shown_to_the_hub(data_dir: Path, hub: Hub) -> None:
    hub.repository("org/gated", FILES, gated="manual").grant("alice")
    host = urlsplit(hub.url).netloc
    kept = {f"http://{host}": hub.token("alice")}
    async with download_service(data_dir, hub_endpoint=hub.url, source_tokens=kept) as client:
        assert len((await client.resolve("org/gated")).files) == 2
    assert not hub.storage.requests


@pytest.mark.parametrize("with_token", [False, True])
async def test_missing_and_private_repositories_are_told_as_what_they_may_be(
    client: DownloadClient, hub: Hub, with_token: bool
) -> None:
    hub.repository("org/private", FILES, private=True)
    token = hub.token("bob") if with_token else ""
    for source in ("org/private", "org/missing"):
        with refused("SOURCE_NOT_FOUND") as error:
            await client.resolve(source, token=token)
        assert "does not tell which)" in error.message
        assert "Invalid username" not in error.message
        assert "the path if one was meant" in error.remedy
        assert error.metadata["source"] == source
        assert "private" in error.remedy


async def test_a_private_repository_is_there_for_its_owner(client: DownloadClient, hub: Hub) -> None:
    hub.repository("org/private", FILES, private=True).grant("alice")
    assert len((await client.resolve("org/private", token=hub.token("alice"))).files) == 2


async def test_a_bad_token_is_rejected_and_never_repeated(client: DownloadClient, hub: Hub) -> None:
    hub.repository("org/open", FILES)
    for source in ("org/open", "org/missing"):
        with refused("TOKEN_REJECTED") as error:
            await client.resolve(source, token="hf_nobodyknowsthis")
        assert "nobodyknows" not in f"{error} {error.metadata}"
        assert error.metadata["credential"] == "call"


async def test_what_the_hub_says_does_not_repeat_a_token(client: DownloadClient, hub: Hub) -> None:
    hub.repository("org/open", FILES)
    body = b'{"error": "token plainsecretword is not one of ours"}'
    hub.fail(r"/api/models/org/open", Status(403, body=body))
    with refused("TOKEN_REJECTED") as error:
        await client.resolve("org/open", token="plainsecretword")
    assert "plainsecretword" not in f"{error} {error.metadata}"
    assert "is not one of ours" in error.metadata["said"]


async def test_a_missing_revision_folder_and_file(client: DownloadClient, hub: Hub) -> None:
    hub.repository("org/open", FILES)
    with refused("SOURCE_NOT_FOUND") as error:
        await client.resolve("org/open@nothing")
    assert "no branch, tag or commit 'nothing'" in error.message
    with refused("SOURCE_NOT_FOUND") as error:
        await client.resolve("https://huggingface.co/org/open/blob/main/nothing.bin")
    assert "no file or folder 'nothing.bin'" in error.message
    assert "model.safetensors" in error.message


async def test_a_disabled_repository(client: DownloadClient, hub: Hub) -> None:
    hub.repository("org/gone", FILES, disabled=True)
    with refused("SOURCE_DISABLED") as error:
        await client.resolve("org/gone")
    assert "org/gone is disabled" in error.message


async def test_a_rate_limit_is_told_with_its_time_and_a_short_one_is_waited_for(
    client: DownloadClient, hub: Hub
) -> None:
    hub.repository("org/open", FILES)
    hub.limit("api", left=0, resets_s=55)
    with refused("RATE_LIMITED") as error:
        await client.resolve("org/open")
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 56
    assert "rate limit" in error.metadata["said"].lower()
    hub.limit("api", left=0, resets_s=1)
    assert len((await client.resolve("org/open")).files) == 2


async def test_a_hub_that_is_down_is_tried_again_and_then_told(client: DownloadClient, hub: Hub) -> None:
    hub.repository("org/open", FILES)
    hub.fail(r"/api/models/org/open", *[Status(503)] * 5)
    with refused("UPSTREAM_UNAVAILABLE") as error:
        await client.resolve("org/open")
    assert error.metadata["status"] == "503"


@pytest.mark.parametrize(
    "source",
    [
        "https://huggingface.co/datasets/org/data",
        "https://huggingface.co/spaces/org/space/tree/main",
        "https://huggingface.co/org",
        "https://huggingface.co/docs",
        "https://huggingface.co/org/open/discussions/1",
        "datasets/org",
        "hf:a/b/../c",
        "org/open:../x",
    ],
)
async def test_what_is_no_repository_of_a_model_is_named(
    client: DownloadClient, hub: Hub, source: str
) -> None:
    with refused("FIELD_INVALID") as error:
        await client.resolve(source)
    assert error.violations[0].field == "source.source"
    assert not hub.site.requests


ODD = [
    b"<html>log in here</html>",
    b"[]",
    b"{}",
    b"null",
    b'{"id": 5, "sha": "abc"}',
    b'{"id": "../../x", "sha": "0123456789abcdef0123456789abcdef01234567"}',
    b'{"id": "org/open", "sha": "../../../x"}',
    b'{"id": "org/open", "sha": "0123456789abcdef0123456789abcdef01234567", "lastModified": {"a": 1}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
async def test_what_is_no_answer_of_a_hub_is_no_crash(data_dir: Path, body: bytes) -> None:
    with HttpServer(route=lambda request: Resource(body)) as odd:
        async with download_service(data_dir, hub_endpoint=odd.url("")) as client:
            with refused("UPSTREAM_UNAVAILABLE") as error:
                await client.resolve("org/open")
    assert "does not answer as a hub does" in error.message


ENTRIES = [
    b'{"a": 1}',
    b"[1]",
    b'[{"type": "file"}]',
    b'[{"type": "file", "path": 5, "size": 1, "oid": "x"}]',
    b'[{"type": "file", "path": "a", "size": -1, "oid": "x"}]',
    b'[{"type": "file", "path": "a", "size": "1", "oid": "x"}]',
    b'[{"type": "file", "path": "a", "size": 1, "oid": "x", "lfs": {}}]',
]


@pytest.mark.parametrize("listing", ENTRIES)
async def test_a_listing_that_is_none_is_no_crash(data_dir: Path, listing: bytes) -> None:
    with HttpServer(route=lambda request: _odd_hub(request, listing)) as odd:
        async with download_service(data_dir, hub_endpoint=odd.url("")) as client:
            with refused("UPSTREAM_UNAVAILABLE"):
                await client.resolve("org/open")


def _odd_hub(request: Request, listing: bytes, links: str = "") -> Resource:
    if "/tree/" in request.path:
        return Resource(listing, headers={"Link": links} if links else {})
    return Resource(json.dumps({"id": "org/open", "sha": "0123456789abcdef" * 2}).encode())


async def test_pages_that_never_end_or_lead_elsewhere_are_left(data_dir: Path) -> None:
    page = json.dumps([{"type": "directory", "path": "a", "oid": "x"}]).encode()
    with HttpServer() as elsewhere:
        for link in ("</api/models/org/open/tree/x?cursor=1>", f"<{elsewhere.url('/tree/x')}>"):
            links = f'{link}; rel="next"'
            with HttpServer(route=lambda request, links=links: _odd_hub(request, page, links)) as odd:  # type: ignore[misc]
                async with download_service(data_dir, hub_endpoint=odd.url("")) as client:
                    reason = "UPSTREAM_UNAVAILABLE" if "http" in link else "FIELD_INVALID"
                    with refused(reason):
                        await client.resolve("org/open", token="plainsecretword")
                assert len(odd.requests) < 100
        assert not elsewhere.requests


async def test_a_redirect_to_another_host_brings_no_token_there(data_dir: Path, hub: Hub) -> None:
    hub.repository("org/open", FILES)
    with HttpServer() as elsewhere:
        target = Resource(b"", redirect=f"{hub.url}/api/models/org/open")
        elsewhere.put("/api/models/org/open?securityStatus=true", target)
        async with download_service(data_dir, hub_endpoint=elsewhere.url("")) as client:
            with refused("SOURCE_NOT_FOUND"):
                await client.resolve("org/open", token="plainsecretword")
    assert elsewhere.requests[0].headers["authorization"] == "Bearer plainsecretword"
    assert hub.site.requests
    assert not any("authorization" in request.headers for request in hub.site.requests)


async def test_offline_is_offline(client: DownloadClient, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repository("org/open", FILES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refused("UPSTREAM_UNAVAILABLE") as error:
        await client.resolve("org/open")
    assert "HF_HUB_OFFLINE" in error.message
    assert not hub.site.requests


async def test_a_hub_whose_name_leads_nowhere_is_asked_once(data_dir: Path) -> None:
    async with download_service(data_dir, hub_endpoint="http://no-such-host.invalid") as client:
        with refused("UPSTREAM_UNAVAILABLE") as error:
            await client.resolve("org/open")
    assert "no-such-host.invalid cannot be resolved" in error.message
    assert (error.metadata["attempts"], error.metadata["max_attempts"]) == ("1", "1")
    assert "can be reached from here" in error.remedy
