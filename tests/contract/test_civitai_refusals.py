"""What Civitai refuses, and what is refused of it: the reason, its own sentence, and no secret."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.civitai import CLOUDFLARE, LOG_IN, POOR_TOKEN, TOKEN, Civitai, File, Model, Version
from support.downloads import DownloadClient, download_service
from support.failures import refused
from support.httpserver import HttpServer, Resource, Status, pattern

SAFE = b"\x02\x00\x00\x00\x00\x00\x00\x00{}" + pattern(50_000)
LATER = "2999-01-01T00:00:00.000Z"


@pytest.fixture
async def client(data_dir: Path, site: Civitai) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, civitai_endpoint=site.endpoint) as service:
        yield service


def one(site: Civitai, *, of: dict[str, Any] | None = None, **fields: Any) -> tuple[Model, Version]:
    version = Version("v1", [File("paint.safetensors", SAFE)], **fields)
    return site.add(Model("Paint", [version], **(of or {}))), version


async def test_a_login_is_wanted_as_the_site_says_it(client: DownloadClient, site: Civitai) -> None:
    model, version = one(site, needs_login=True)
    for source in (site.page(model.id), site.link(version.id)):
        with refused("TOKEN_REQUIRED") as error:
            await client.resolve(source)
        assert (error.metadata["said"], error.metadata["status"]) == (LOG_IN, "401")
    with refused("TOKEN_REJECTED"):
        await client.resolve(site.page(model.id), token="another-key")
    assert (await client.resolve(site.page(model.id), token=TOKEN)).bytes_total == len(SAFE)


async def test_early_access_tells_its_date(client: DownloadClient, site: Civitai) -> None:
    model, version = one(site, early_until=LATER)
    for source in (site.page(model.id), site.page(model.id, version.id), site.link(version.id)):
        for token in ("", POOR_TOKEN):
            with refused("EARLY_ACCESS") as error:
                await client.resolve(source, token=token)
            assert error.metadata["deadline"] == LATER
            assert (
                error.metadata["said"] == "This asset is in Early Access and was not bought by this account."
            )
    site.paid.add(version.id)
    assert (await client.resolve(site.page(model.id, version.id), token=TOKEN)).revision == str(version.id)


async def test_early_access_that_is_refused_as_a_missing_login_is_told_as_what_it_is(
    client: DownloadClient, site: Civitai
) -> None:
    model, _ = one(site, early_until=LATER, needs_login=True)
    with refused("EARLY_ACCESS") as error:
        await client.resolve(site.page(model.id))
    assert (error.metadata["said"], error.metadata["deadline"]) == (LOG_IN, "2999-01-01 00:00 UTC")


@pytest.mark.parametrize(
    ("of", "fields", "words"),
    [
        ({"mode": "Archived"}, {}, "is archived"),
        ({"mode": "TakenDown"}, {}, "is taken down"),
        ({}, {"usage": "Generation"}, "disabled downloads"),
    ],
)
async def test_what_is_given_to_nobody_is_disabled(
    client: DownloadClient, site: Civitai, of: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    model, version = one(site, of=of, **fields)
    for source in (site.page(model.id), site.page(model.id, version.id), site.link(version.id)):
        with refused("SOURCE_DISABLED") as error:
            await client.resolve(source, token=TOKEN)
        assert words in error.message


async def test_what_is_not_there_is_said_with_what_is(client: DownloadClient, site: Civitai) -> None:
    model, version = one(site)
    other, draft = one(site, status="Draft")
    with refused("SOURCE_NOT_FOUND") as error:
        await client.resolve(site.page(999_999))
    assert error.metadata["said"] == "No model with id 999999"
    for source in (site.link(999_999), site.link(draft.id)):
        with refused("SOURCE_NOT_FOUND") as error:
            await client.resolve(source)
        assert error.metadata["said"] == "Model not found"
    with refused("SOURCE_NOT_FOUND") as error:
        await client.resolve(site.page(model.id, 999_999))
    assert error.metadata["available"] == f"v1 ({version.id})"
    assert f"v1 ({version.id})" in error.remedy
    with refused("SOURCE_NOT_FOUND") as error:
        await client.resolve(site.page(other.id, version.id))
    assert f"is one of model {model.id}" in error.message
    with refused("SOURCE_NOT_FOUND") as error:
        await client.resolve(site.page(other.id))
    assert "no version that is published" in error.message


@pytest.mark.parametrize("type_", ["Workflows", "Wildcards", "Poses"])
async def test_what_is_no_model_is_refused_by_its_type(
    client: DownloadClient, site: Civitai, type_: str
) -> None:
    model, version = one(site, of={"type": type_})
    for source in (site.page(model.id), site.link(version.id)):
        with refused("NOT_A_MODEL_FILE") as error:
            await client.resolve(source)
        assert f"of type {type_}" in error.message


async def test_archives_and_parts_that_are_no_models_are_refused(
    client: DownloadClient, site: Civitai
) -> None:
    files = [
        File("folder.zip", b"PK\x03\x04" + SAFE, format="Diffusers"),
        File("v1.yaml", b"a: b", type="Config", format="Other", size="", fp=""),
        File("data.zip", b"PK\x03\x04", type="Training Data", format="Other"),
    ]
    model = site.add(Model("Paint", [Version("v1", files)]))
    with refused("NOT_A_MODEL_FILE") as error:
        await client.resolve(site.page(model.id))
    assert "folder.zip is an archive (Diffusers)" in error.message
    for wanted in ("Config", "Training Data"):
        with refused("NOT_A_MODEL_FILE"):
            await client.resolve(site.link(model.versions[0].id, type=wanted))
    parts = site.add(Model("Parts", [Version("v1", files[1:])]))
    with refused("UNKNOWN_VARIANT") as error:
        await client.resolve(site.page(parts.id))
    assert "v1.yaml (Config, Other)" in error.metadata["available"]


async def test_what_a_scan_found_dangerous_is_refused_with_what_it_says(
    client: DownloadClient, site: Civitai
) -> None:
    bad = File("bad.safetensors", SAFE, virus_scan="Danger", virus_message="Win.Trojan.Agent FOUND")
    model = site.add(Model("Paint", [Version("v1", [bad])]))
    with refused("UNSAFE_FORMAT") as error:
        await client.resolve(site.page(model.id))
    assert 'virus scan and says "Win.Trojan.Agent FOUND; No Pickle imports"' in error.message
    worse = File("worse.ckpt", SAFE, format="PickleTensor", pickle_scan="Danger")
    good = File("good.safetensors", SAFE, size="full", fp="fp32", pickle_scan="Pending")
    model = site.add(Model("Paint", [Version("v1", [bad, worse, good])]))
    plan = await client.resolve(site.page(model.id))
    assert plan.files[0].path == "good.safetensors"
    assert any("found to be dangerous" in reason for reason in plan.reasons)
    assert any("has not scanned it: Pending" in reason for reason in plan.reasons)
    with refused("UNSAFE_FORMAT"):
        await client.resolve(site.page(model.id), variant="PickleTensor")


async def test_what_passes_is_tried_again_and_what_lasts_is_told(
    client: DownloadClient, site: Civitai
) -> None:
    model, _ = one(site)
    path = f"/api/v1/models/{model.id}"
    cloudflare = Status(503, body=CLOUDFLARE, headers={"Content-Type": "text/html"})
    for fault in (cloudflare, Status(500, body=b'{"error":"x"}'), Status(429, retry_after="0")):
        site.api.resources[path].faults = [fault]
        assert (await client.resolve(site.page(model.id))).bytes_total == len(SAFE)
    site.api.resources[path].faults = [Status(429, retry_after="100")]
    with refused("UPSTREAM_UNAVAILABLE") as error:
        await client.resolve(site.page(model.id))
    assert (error.metadata["status"], error.retry_after) == ("429", 100)
    for answer in (b"<html>log in</html>", b"[1]", b"[" * 100_000, b'{"modelVersions": 1e999'):
        site.api.resources[path].faults = [Status(200, body=answer)] * 3
        with refused("UPSTREAM_UNAVAILABLE") as error:
            await client.resolve(site.page(model.id))
        assert "JSON" in error.message


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"id": "x", "name": 5, "modelVersions": "none", "mode": 7},
        {"modelVersions": [None, 3, {"id": True, "files": [None, {"name": 3}], "publishedAt": "2025-01-01"}]},
        {"modelVersions": [{"id": 10**30, "publishedAt": "9" * 50, "files": [{"name": "a", "type": []}]}]},
        {
            "type": {},
            "tags": {"a": 1},
            "creator": "me",
            "allowCommercialUse": {"x": 1},
            "modelVersions": [
                {
                    "id": 5,
                    "publishedAt": "2025-01-01T00:00:00Z",
                    "images": [{"url": "javascript:alert(1)"}, {"url": 4}],
                    "trainedWords": [None, {"a": 1}, ["b"]],
                    "description": "<p>" * 50_000,
                    "files": [
                        {
                            "name": "a.safetensors",
                            "sizeKB": "many",
                            "metadata": [],
                            "hashes": "none",
                            "downloadUrl": "http://[/api/download/models/9",
                        }
                    ],
                }
            ],
        },
    ],
)
async def test_answers_of_other_types_than_promised_are_refused_or_taken_as_not_said(
    client: DownloadClient, site: Civitai, told: dict[str, Any]
) -> None:
    site.api.put(
        "/api/v1/models/5", Resource(b"", fault_of=lambda _: Status(200, body=json.dumps(told).encode()))
    )
    site.api.put("/api/download/models/5", Resource(SAFE))
    if told.get("tags"):
        plan = await client.resolve(site.page(5))
        assert (plan.files[0].path, plan.bytes_total) == ("a.safetensors", len(SAFE))
        assert (plan.metadata.preview_url, plan.metadata.description) == ("", "")
    else:
        with refused("SOURCE_NOT_FOUND"):
            await client.resolve(site.page(5))


@pytest.mark.parametrize(
    "source", ["https://civitai.com/images/1", "https://civitai.com/user/me", "https://civitai.com/models/x"]
)
async def test_pages_of_anything_else_are_refused_and_not_asked_for(
    client: DownloadClient, site: Civitai, source: str
) -> None:
    with refused("FIELD_INVALID") as error:
        await client.resolve(source)
    assert "no page of a model" in str(error.violations)
    assert not site.api.requests


async def test_a_token_in_a_link_is_used_and_nowhere_told(
    client: DownloadClient, site: Civitai, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    model, version = one(site, needs_login=True)
    source = site.link(version.id, type="Model", token=TOKEN)
    plan = await client.resolve(source)
    assert plan.bytes_total == len(SAFE)
    assert TOKEN not in str(plan)
    assert "token" not in plan.files[0].url
    asked = [*site.asked("/api/")]
    assert {request.headers["authorization"] for request in asked} == {f"Bearer {TOKEN}"}
    assert not [request for request in asked if TOKEN in request.path]
    assert not [r for r in site.storage.requests if "authorization" in r.headers]
    # what the site repeats is not shown either
    site.api.put(
        f"/api/v1/model-versions/{version.id}",
        Resource(b"", fault_of=lambda _: Status(401, body=f'{{"error":"bad key {TOKEN}"}}'.encode())),
    )
    with refused("TOKEN_REJECTED") as error:
        await client.resolve(source)
    assert "REDACTED" in error.message
    assert TOKEN not in f"{error.message} {error.metadata} {caplog.text}"
    assert model.id


async def test_a_redirect_of_the_api_gets_no_token(client: DownloadClient, site: Civitai) -> None:
    model, _ = one(site)
    with HttpServer() as other:
        target = other.url("/m", host="localhost")
        other.put("/m", Resource(b'{"modelVersions": []}'))
        moved = Status(307, headers={"Location": target})
        site.api.resources[f"/api/v1/models/{model.id}"].faults = [moved]
        with refused("SOURCE_NOT_FOUND"):
            await client.resolve(site.page(model.id), token=TOKEN)
        assert [("authorization" in request.headers) for request in other.requests] == [False]


async def test_a_private_endpoint_is_refused_where_private_addresses_are(
    data_dir: Path, site: Civitai
) -> None:
    model, _ = one(site)
    async with download_service(
        data_dir, civitai_endpoint=site.endpoint, allow_private_addresses=False
    ) as client:
        with refused("FORBIDDEN_ADDRESS"):
            await client.resolve(f"civitai:{model.id}")
    assert not site.api.requests
