"""ResolveSource for Civitai's models: which version, which file, what is told of them; nothing is fetched."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import resolve_pb2
from support.civitai import TOKEN, Civitai, File, Model, Version
from support.downloads import DownloadClient, download_service
from support.failures import refused
from support.httpserver import pattern

BODY = pattern(200_000)
SAFE = b"\x02\x00\x00\x00\x00\x00\x00\x00{}" + BODY


@pytest.fixture
async def client(data_dir: Path, site: Civitai) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, civitai_endpoint=site.endpoint) as service:
        yield service


def whole(name: str = "paint.safetensors", **fields: Any) -> File:
    return File(name, SAFE, **fields)


async def test_a_page_with_a_version_tells_its_file_and_all_that_civitai_says(
    client: DownloadClient, site: Civitai
) -> None:
    pictures = [
        {"url": "https://image.example/1.jpeg", "nsfwLevel": 4, "type": "image"},
        {"url": "https://image.example/2.mp4", "nsfwLevel": 1, "type": "video"},
        {"url": "https://image.example/3.jpeg", "nsfwLevel": 1, "type": "image"},
    ]
    version = Version(
        "v1.0",
        [whole()],
        trained_words=["paint, oil,", "(wet, thick:1.2), paint"],
        description="<ul><li>First &amp; best</li></ul>",
        images=pictures,
    )
    model = site.add(Model("Paint", [version]))
    plan = await client.resolve(site.page(model.id, version.id))
    page = f"https://civitai.com/models/{model.id}?modelVersionId={version.id}"
    assert (plan.kind, plan.source, plan.revision) == (
        resolve_pb2.SOURCE_KIND_CIVITAI,
        page,
        str(version.id),
    )
    assert (plan.name, plan.is_folder, plan.variant) == ("Paint – v1.0", False, "")
    [file] = plan.files
    assert (file.path, file.size_bytes, file.sha256) == (
        "paint.safetensors",
        len(SAFE),
        hashlib.sha256(SAFE).hexdigest(),
    )
    assert (plan.bytes_total, plan.source_bytes_total) == (len(SAFE), len(SAFE))
    told = plan.metadata
    assert (told.name, told.author, told.type, told.base) == (
        "Paint – v1.0",
        "painter",
        "Checkpoint",
        "SDXL 1.0",
    )
    assert told.description == "Paints everything.\n\n- First & best"
    assert list(told.trigger_phrases) == ["paint", "oil", "(wet, thick:1.2)"]
    assert list(told.tags) == ["base model", "art"]
    assert told.license == (
        "allowCommercialUse=Image;allowCommercialUse=Sell;allowDerivatives=true;allowNoCredit=false;"
        "allowDifferentLicense=false"
    )
    assert (told.page_url, told.preview_url, told.nsfw_level) == (page, "https://image.example/3.jpeg", 1)
    assert told.publish_time.ToJsonString() == "2026-01-05T09:16:12.062Z"
    assert list(plan.choices) == []
    assert sum(request.bytes_sent for request in site.storage.requests) < 1 << 16


async def test_a_download_fetches_the_planned_address(client: DownloadClient, site: Civitai) -> None:
    version = Version("v1", [whole(fp="fp32"), whole("other.safetensors")])
    model = site.add(Model("Paint", [version]))
    plan = await client.resolve(site.page(model.id), variant="fp32")
    job = await client.run(plan.files[0].url, expected_sha256=plan.files[0].sha256)
    assert job.verified, job.error
    assert Path(job.path).read_bytes() == SAFE
    assert Path(job.path).name == plan.files[0].path


async def test_every_spelling_comes_to_the_same_version(client: DownloadClient, site: Civitai) -> None:
    version = Version("v1", [whole()])
    model = site.add(Model("Paint", [version]))
    sha256 = hashlib.sha256(SAFE).hexdigest()
    spellings = (
        site.page(model.id),
        site.page(model.id, version.id),
        f"https://civitai.com/models/{model.id}",
        f"http://www.civitai.com/models/{model.id}/paint?modelVersionId={version.id}",
        site.link(version.id),
        f"civitai:{model.id}",
        f"civitai:{model.id}@{version.id}",
        f"urn:air:sdxl:checkpoint:civitai:{model.id}@{version.id}",
        site.api.url(f"/api/v1/models/{model.id}"),
        site.api.url(f"/api/v1/model-versions/{version.id}"),
        site.api.url(f"/api/v1/model-versions/by-hash/{sha256}"),
        site.api.url(f"/api/v1/model-versions/by-hash/{sha256[:10]}"),
    )
    plans = [await client.resolve(spelling) for spelling in spellings]
    assert {plan.source for plan in plans} == {
        f"https://civitai.com/models/{model.id}?modelVersionId={version.id}"
    }
    assert len({plan.digest for plan in plans}) == 1
    assert {plan.metadata.author for plan in plans} == {"painter"}
    assert await client.resolve(plans[0].source) == plans[1]


async def test_without_a_version_the_newest_that_is_published_and_free_comes(
    client: DownloadClient, site: Civitai
) -> None:
    published = [
        Version("old", [whole()], published="2024-01-05T09:16:12.062Z"),
        Version("draft", [whole()], published=None, status="Draft"),
        Version("new", [whole()], published="2026-02-05T09:16:12.062Z"),
        Version("paid", [whole()], published="2026-03-05T09:16:12.062Z", early_until="2999-01-01T00:00:00Z"),
        Version(
            "free by now", [whole()], published="2026-01-05T00:00:00Z", early_until="2026-01-09T00:00:00Z"
        ),
        Version("planned", [whole()], published="2999-03-05T09:16:12.062Z"),
    ]
    model = site.add(Model("Paint", published))
    plan = await client.resolve(site.page(model.id))
    assert plan.name == "Paint – new"
    assert plan.reasons[0] == "new is the newest version that is published and free."
    assert plan.reasons[1] == (
        "paid is newer, and in early access until 2999-01-01 00:00 UTC: it is left out."
    )
    choices = [(choice.value, choice.chosen) for choice in plan.choices if choice.kind == "version"]
    assert choices == [("paid", False), ("new", True), ("free by now", False), ("old", False)]
    older = next(choice for choice in plan.choices if choice.value == "old")
    assert (await client.resolve(older.source)).name == "Paint – old"
    site.paid.add(published[3].id)
    assert (await client.resolve(site.page(model.id), token=TOKEN)).name == "Paint – paid"


async def test_a_links_parameters_choose_exactly_that_file(client: DownloadClient, site: Civitai) -> None:
    files = [
        whole("a.safetensors"),
        whole("b.safetensors", size="full", fp="fp32"),
        File("c.ckpt", b"\x80\x02" + BODY, format="PickleTensor", size="full", fp="fp32"),
        whole("vae.safetensors", type="VAE", size="", fp=""),
    ]
    version = Version("v1", files)
    site.add(Model("Paint", [version]))

    async def name(variant: str = "", **parameters: str) -> str:
        return (await client.resolve(site.link(version.id, **parameters), variant=variant)).files[0].path

    assert await name() == "a.safetensors"
    assert await name(type="Model", format="SafeTensor", size="full", fp="fp32") == "b.safetensors"
    assert await name(type="VAE") == "vae.safetensors"
    assert await name(format="PickleTensor") == "c.ckpt"
    assert await name(fileId=str(files[2].id)) == "c.ckpt"
    assert await name("FP32") == "b.safetensors"
    assert await name("full") == "b.safetensors"
    assert await name("pickletensor") == "c.ckpt"
    assert await name("safetensors") == "a.safetensors"
    for variant, parameters in (("fp8", {}), ("", {"fp": "fp8"}), ("fp16", {"size": "full"})):
        with refused("UNKNOWN_VARIANT") as error:
            await name(variant, **parameters)
        assert "b.safetensors (SafeTensor, full, fp32)" in error.metadata["available"]


async def test_other_files_are_choices_and_come_when_they_are_named(
    client: DownloadClient, site: Civitai
) -> None:
    files = [
        whole("a.safetensors"),
        whole("b.safetensors", size="full", fp="fp32"),
        whole("vae.safetensors", type="VAE", size="", fp=""),
    ]
    version = Version("v1", files)
    model = site.add(Model("Paint", [version]))
    plan = await client.resolve(site.page(model.id))
    assert [file.path for file in plan.files] == ["a.safetensors"]
    assert plan.reasons[1].startswith("a.safetensors (SafeTensor, pruned, fp16) is the version's primary")
    assert (plan.variant, plan.source_bytes_total) == ("fp16", 3 * len(SAFE))
    told = [(choice.kind, choice.value, choice.chosen, choice.bytes_total) for choice in plan.choices]
    assert told == [
        ("file", "a.safetensors (SafeTensor, pruned, fp16)", True, len(SAFE)),
        ("file", "b.safetensors (SafeTensor, full, fp32)", False, len(SAFE)),
        ("file", "vae.safetensors (VAE, SafeTensor)", False, len(SAFE)),
    ]
    for choice, file in zip(plan.choices, files, strict=True):
        assert choice.source.startswith("https://civitai.com/api/download/models/")
        assert (await client.resolve(choice.source)).files[0].path == file.name


async def test_safetensors_come_before_a_pickle_and_a_pickle_is_said(
    client: DownloadClient, site: Civitai
) -> None:
    pickle = File("p.ckpt", b"\x80\x02" + BODY, format="PickleTensor")
    both = Version("both", [pickle, whole("s.safetensors", size="full", fp="fp32")])
    model = site.add(Model("Paint", [both]))
    plan = await client.resolve(site.page(model.id))
    assert plan.files[0].path == "s.safetensors"
    assert any("Pickles are left aside" in reason for reason in plan.reasons)
    alone = site.add(Model("Old", [Version("v1", [pickle])]))
    plan = await client.resolve(site.page(alone.id))
    assert any("It is a pickle" in reason for reason in plan.reasons)


@pytest.mark.parametrize(("size_kb", "told"), [(None, True), (195.3, False), (1e300, False), (-4.0, False)])
async def test_a_size_is_exact_or_not_told(
    client: DownloadClient, site: Civitai, size_kb: float | None, told: bool
) -> None:
    file = whole(size_kb=size_kb)
    model = site.add(Model("Paint", [Version("v1", [file, whole("b.safetensors", size_kb=size_kb)])]))
    plan = await client.resolve(site.page(model.id))
    assert plan.bytes_total == len(SAFE), "the storage itself tells it"
    assert [choice.HasField("bytes_total") for choice in plan.choices] == [told, told]
    site.signed_s = -1.0  # what the storage refuses may pass, and is no reason to have no plan
    plan = await client.resolve(site.page(model.id))
    assert plan.files[0].HasField("size_bytes") is told


async def test_names_and_hashes_that_are_none_are_not_taken(client: DownloadClient, site: Civitai) -> None:
    file = File("../../x.safetensors", SAFE, hashes={"SHA256": "no hash", "AutoV2": "AB"})
    model = site.add(Model("../Paint\n\x1b[31m", [Version("v1", [file])]))
    plan = await client.resolve(site.page(model.id))
    assert "/" not in plan.files[0].path
    assert plan.files[0].sha256 == ""
    assert plan.name == "../Paint [31m – v1"
