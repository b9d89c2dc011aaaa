"""An InvokeAI's models come along: ImportInvokeAI."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from modelkeep.configs import UnknownConfig
from modelkeep.configs.wire import from_model
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from modelkeep.record.v1.covers_pb2 import GetCoverImageRequest, SetCoverImageRequest
from support.installs import InstallClient, small_lora
from support.invokeai import RELEASES, WEBP, InvokeAI
from support.invokeai_imports import FAILED, KEPT, NEW, SKIPPED, UNCHANGED, UPDATED, import_from
from support.scans import scan


@pytest.fixture
def root(source: Path) -> InvokeAI:
    return InvokeAI(source / "invokeai")


async def test_a_record_comes_along_with_all_that_it_says(service: InstallClient, root: InvokeAI) -> None:
    config = root.add(
        1,
        name="ink",
        type="main",
        format="checkpoint",
        description="draws in ink",
        source_url="https://models.example.com/ink",
        trigger_phrases=["ink style", "drawing"],
        variant="inpaint",
        prediction_type="v_prediction",
        config_path="stable-diffusion/v1-inpainting-inference.yaml",
        default_settings={"steps": 20, "cfg_scale": 7.5, "vae": None},
        repo_variant="fp16",
        capabilities={"modes": ["txt2img"]},
    )
    other = root.add(2, name="other")
    root.relate(config["key"], other["key"])
    told = await import_from(service, root)
    assert told.outcomes == {"ink": NEW, "other": NEW}
    model = await service.model(config["key"])
    assert model.path == str(root.models / config["path"])
    assert (model.name, model.description, model.base) == ("ink", "draws in ink", "sd-1")
    assert model.source == "https://models.example.com/1.safetensors"
    assert model.source_type == taxonomy_pb2.MODEL_SOURCE_TYPE_URL
    assert model.source_url == "https://models.example.com/ink"
    assert list(model.trigger_phrases) == ["drawing", "ink style"]
    assert model.main.variant == taxonomy_pb2.MODEL_VARIANT_INPAINT
    assert model.main.prediction_type == taxonomy_pb2.PREDICTION_TYPE_V_PREDICTION
    assert model.main.checkpoint_config == str(
        root.path / "configs/stable-diffusion/v1-inpainting-inference.yaml"
    )
    assert (model.default_settings.steps, model.default_settings.cfg_scale) == (20, 7.5)
    assert not model.default_settings.HasField("vae")
    assert list(model.related_keys) == [other["key"]]
    assert {name: json.loads(text) for name, text in model.extra_fields.items()} == {
        "hash": config["hash"],
        "file_size": 7,
        "repo_variant": "fp16",
        "capabilities": {"modes": ["txt2img"]},
    }
    assert model.size_bytes == 7
    [file] = await service.files(model.key)
    assert (file.path, file.size_bytes) == ("ink.safetensors", 7)
    assert file.blake3 == config["hash"].removeprefix("blake3:")
    assert file.digest_state == model_pb2.DIGEST_STATE_PENDING


async def test_a_picture_comes_along_and_follows_InvokeAIs(service: InstallClient, root: InvokeAI) -> None:
    key = root.add(1)["key"]
    picture = root.picture(key)
    told = await import_from(service, root)
    assert told.outcomes == {"model 1": NEW}
    answer = await service.records.GetCoverImage(GetCoverImageRequest(key=key))
    assert (answer.image, answer.cover_image.media_type) == (WEBP, "image/webp")
    assert (await import_from(service, root)).counts.unchanged_count == 1
    picture.unlink()
    root.put(f"model_images/{key}.gif", b"GIF89a another")
    told = await import_from(service, root)
    assert (told.models[0].outcome, list(told.models[0].changed_fields)) == (UPDATED, ["cover_image"])
    assert (await service.model(key)).cover_image.media_type == "image/gif"
    # one that was chosen here stays
    await service.records.SetCoverImage(SetCoverImageRequest(key=key, image=WEBP))
    assert (await import_from(service, root)).counts.kept_count == 1
    assert (await import_from(service, root, overwrite=True)).counts.updated_count == 1
    (root.models / f"model_images/{key}.gif").unlink()
    assert (await import_from(service, root)).counts.updated_count == 1
    assert not (await service.model(key)).HasField("cover_image")
    assert (await import_from(service, root)).counts.unchanged_count == 1


@pytest.mark.parametrize("data", [b"<svg/>", WEBP + bytes(1 << 20)], ids=["no picture", "too large"])
async def test_a_picture_that_cannot_be_taken_is_told_and_the_rest_comes_along(
    service: InstallClient, root: InvokeAI, data: bytes
) -> None:
    key = root.add(1)["key"]
    root.picture(key, data)
    told = await import_from(service, root)
    assert (told.models[0].outcome, told.models[0].error.reason) == (NEW, "INVALID_MODEL")
    assert "The picture" in told.models[0].error.message
    assert not (await service.model(key)).HasField("cover_image")
    assert (await import_from(service, root)).counts.unchanged_count == 1


async def test_twice_changes_nothing(service: InstallClient, root: InvokeAI) -> None:
    for number in range(1, 4):
        root.add(number, trigger_phrases=["b", "a"], default_settings={"weight": 0.5})
    root.add(4, there=False)
    root.relate(f"{1:032x}", f"{2:032x}")
    await import_from(service, root)
    before = [await service.model(f"{n:032x}") for n in range(1, 5)]
    told = await import_from(service, root)
    assert set(told.outcomes.values()) == {UNCHANGED}
    assert told.counts.unchanged_count == 4
    assert [await service.model(f"{n:032x}") for n in range(1, 5)] == before


async def test_a_dry_run_tells_the_same_and_changes_nothing(service: InstallClient, root: InvokeAI) -> None:
    root.add(1)
    root.add(2, there=False)
    told = await import_from(service, root, validate_only=True)
    assert told.outcomes == {"model 1": NEW, "model 2": NEW}
    assert [one.is_missing for one in told.models] == [False, True]
    assert await service.models_count() == 0
    assert (await import_from(service, root)).outcomes == told.outcomes
    assert await service.models_count() == 2


async def test_what_is_missing_is_registered_and_marked_or_left_out(
    service: InstallClient, root: InvokeAI
) -> None:
    config = root.add(1, there=False, file_size=123)
    told = await import_from(service, root, skip_missing=True)
    assert told.outcomes == {"model 1": SKIPPED}
    assert await service.models_count() == 0
    told = await import_from(service, root)
    assert told.counts.missing_count == 1
    model = await service.model(f"{1:032x}")
    assert model.HasField("missing_time")
    assert (model.size_bytes, model.extra_fields["file_size"]) == (0, "123")
    # once they are back, the next import lists them, whatever was changed here
    root.put(config["path"])
    changed = model_pb2.Model(key=model.key, description="mine")
    await service.records.UpdateModel(record_pb.UpdateModelRequest(model=changed))
    assert (await import_from(service, root)).counts.kept_count == 1
    await service.records.UpdateModel(
        record_pb.UpdateModelRequest(
            model=model_pb2.Model(key=model.key), update_mask={"paths": ["description"]}
        )
    )
    told = await import_from(service, root)
    assert (told.models[0].outcome, list(told.models[0].changed_fields)) == (UPDATED, ["files"])
    [file] = await service.files(model.key)
    assert (file.size_bytes, file.blake3) == (7, "")  # it is not the file that InvokeAI took the digest of
    assert (await service.model(model.key)).size_bytes == 7
    assert (await import_from(service, root)).counts.unchanged_count == 1


async def test_what_invokeai_changed_since_is_taken_over(service: InstallClient, root: InvokeAI) -> None:
    config = root.add(1)
    await import_from(service, root)
    root.update(config["key"], name="renamed", trigger_phrases=["new"])
    told = await import_from(service, root, validate_only=True)
    assert (told.models[0].outcome, list(told.models[0].changed_fields)) == (
        UPDATED,
        ["name", "trigger_phrases"],
    )
    assert (await service.model(config["key"])).name == "model 1"
    await import_from(service, root)
    model = await service.model(config["key"])
    assert (model.name, list(model.trigger_phrases)) == ("renamed", ["new"])
    assert (await import_from(service, root)).outcomes == {"renamed": UNCHANGED}


async def test_what_was_changed_here_stays_until_it_is_overwritten(
    service: InstallClient, root: InvokeAI
) -> None:
    config = root.add(1, description="theirs")
    key = config["key"]
    await import_from(service, root)
    model = model_pb2.Model(key=key, description="mine", labels={"mine": "too"}, license="mit")
    await service.records.UpdateModel(record_pb.UpdateModelRequest(model=model))
    told = await import_from(service, root)
    assert (told.models[0].outcome, list(told.models[0].changed_fields)) == (KEPT, ["description"])
    root.update(key, description="theirs, newer")
    assert (await import_from(service, root)).counts.kept_count == 1
    assert (await service.model(key)).description == "mine"
    assert (await import_from(service, root, overwrite=True)).counts.updated_count == 1
    model = await service.model(key)
    assert (model.description, model.license, model.labels["mine"]) == ("theirs, newer", "mit", "too")
    # from now on it is as imported
    root.update(key, description="newest")
    assert (await import_from(service, root)).counts.updated_count == 1


async def test_what_InvokeAI_has_no_field_for_is_nobodys_change(
    service: InstallClient, root: InvokeAI
) -> None:
    config = root.add(1)
    await import_from(service, root)
    model = model_pb2.Model(key=config["key"], tags=["mine"], license="mit")
    await service.records.UpdateModel(record_pb.UpdateModelRequest(model=model))
    assert (await import_from(service, root)).counts.unchanged_count == 1
    root.update(config["key"], name="renamed")
    assert (await import_from(service, root)).counts.updated_count == 1
    model = await service.model(config["key"])
    assert (model.name, list(model.tags), model.license) == ("renamed", ["mine"], "mit")


async def test_a_place_that_has_a_record_already_gets_no_second_one(
    service: InstallClient, root: InvokeAI
) -> None:
    config = root.add(1, description="of InvokeAI")
    path = small_lora(root.models / config["path"])
    job = await service.install(path, inplace=True)
    told = await import_from(service, root)
    assert (told.models[0].outcome, told.models[0].key) == (KEPT, job.model_key)
    assert "description" in told.models[0].changed_fields
    assert (await import_from(service, root, overwrite=True)).counts.updated_count == 1
    model = await service.model(job.model_key)
    assert (model.description, model.extra_fields["key"]) == ("of InvokeAI", json.dumps(config["key"]))
    assert (await import_from(service, root)).counts.unchanged_count == 1
    assert await service.models_count() == 1


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("8C6D3E4A-0b4e-4bd5-9b4a-5c1f1e6f7a80", "8c6d3e4a0b4e4bd59b4a5c1f1e6f7a80"),
        ("openai-gpt-image", None),
    ],
)
async def test_other_keys_become_keys_of_ours(
    service: InstallClient, root: InvokeAI, there: str, here: str | None
) -> None:
    root.add(1, key=there, path="a/b.safetensors")
    root.add(2)
    root.relate(there, f"{2:032x}")
    told = await import_from(service, root)
    key = next(one.key for one in told.models if one.invokeai_key == there)
    assert here in (key, None)
    model = await service.model(key)
    assert json.loads(model.extra_fields["key"]) == there
    assert list((await service.model(f"{2:032x}")).related_keys) == [key]
    assert (await import_from(service, root)).counts.unchanged_count == 2


@pytest.mark.parametrize("release", ["3.7", "4.2", "5.6", "6.14"])
@pytest.mark.parametrize("journal", ["wal", "delete"])
async def test_every_release_since_3_4_is_read(
    service: InstallClient, source: Path, release: str, journal: str
) -> None:
    root = InvokeAI(source / "invokeai", release, journal=journal)
    config = root.add(1, type="vae", format="checkpoint")
    with root.open() as db:
        if release == "3.7":
            db.execute("UPDATE model_config SET original_hash = 'a'")
            db.execute("INSERT INTO model_metadata VALUES (?, ?)", (config["key"], '{"author": "somebody"}'))
            db.execute("INSERT INTO tags VALUES (1, 'style')")
            db.execute("INSERT INTO model_tags VALUES (?, 1)", (config["key"],))
    told = await import_from(service, root)
    number, dated = RELEASES[release]
    assert (told.root.schema, told.root.is_newer) == (dated or f"migration_{number}", False)
    assert (told.root.database_path, told.root.model_count) == (str(root.database), 1)
    model = await service.model(config["key"])
    assert model.WhichOneof("config") == "vae"
    if release == "3.7":
        assert list(model.tags) == ["style"]
        assert json.loads(model.extra_fields["model_metadata"]) == {"author": "somebody"}
        assert json.loads(model.extra_fields["original_hash"]) == "a"


async def test_a_newer_schema_is_read_as_far_as_it_goes(service: InstallClient, root: InvokeAI) -> None:
    config = root.add(1)
    with root.open() as db:
        db.execute("ALTER TABLE models ADD COLUMN rating INTEGER")
        db.execute("UPDATE models SET rating = 5")
        db.execute("INSERT INTO applied_migrations VALUES ('2027_01_01_add_ratings', NULL)")
    told = await import_from(service, root)
    assert (told.root.schema, told.root.is_newer) == ("2027_01_01_add_ratings", True)
    assert (await service.model(config["key"])).extra_fields["rating"] == "5"


@pytest.mark.parametrize(
    ("fields", "type_", "base"),
    [
        ({"type": "hologram", "format": "crystal"}, taxonomy_pb2.MODEL_TYPE_UNKNOWN, "sd-1"),
        ({"type": "main", "format": "embedding_file"}, taxonomy_pb2.MODEL_TYPE_UNKNOWN, "sd-1"),
        ({"type": "main", "format": "checkpoint", "base": "ltx-9"}, taxonomy_pb2.MODEL_TYPE_MAIN, "ltx-9"),
        ({"base": "NO base"}, taxonomy_pb2.MODEL_TYPE_LORA, "unknown"),
    ],
)
async def test_kinds_that_this_version_does_not_know_are_unknown(
    service: InstallClient, root: InvokeAI, fields: dict[str, Any], type_: int, base: str
) -> None:
    config = root.add(1, **fields, variant="odd", depth=3)
    told = await import_from(service, root)
    assert (told.models[0].outcome, told.models[0].is_unknown) == (NEW, True)
    model = await service.model(config["key"])
    assert (model.type, model.base) == (type_, base)
    config_here = from_model(model)
    kept = {name: json.loads(text) for name, text in model.extra_fields.items()}
    assert kept["depth"] == 3
    if type_ == taxonomy_pb2.MODEL_TYPE_UNKNOWN:
        assert isinstance(config_here, UnknownConfig)
        assert (kept["type"], kept["format"]) == (fields["type"], fields["format"])
        assert config_here.raw["variant"] == "odd"
    assert (await import_from(service, root)).counts.unchanged_count == 1


async def test_secrets_of_an_address_stay_behind(service: InstallClient, root: InvokeAI) -> None:
    response = json.dumps({"download": "https://models.example.com/1?token=hunter22", "bos_token": "<s>"})
    config = root.add(
        1,
        source="https://models.example.com/1?token=hunter22",
        source_api_response=response,
        mirror=["https://u:hunter22@models.example.com/1"],
    )
    await import_from(service, root)
    model = await service.model(config["key"])
    assert model.source == "https://models.example.com/1?token=REDACTED"
    assert "hunter22" not in str(model)
    kept = json.loads(json.loads(model.extra_fields["source_api_response"]))
    assert kept["bos_token"] == "<s>"
    assert (await import_from(service, root)).counts.unchanged_count == 1


async def test_what_does_not_fit_its_place_is_kept_all_the_same(
    service: InstallClient, root: InvokeAI
) -> None:
    long, wide = "x" * 600, "é" * 300_000
    config = root.add(
        1,
        name=long,
        path="a.safetensors",
        description="y" * 70_000,
        source_url="ftp://models.example.com",
        source_api_response=wide,
        default_settings={"steps": 0, "weight": "much", "later": 1, "scheduler": "euler"},
        trigger_phrases=["ok", 5],
        source_type="carrier_pigeon",
    )
    told = await import_from(service, root)
    assert told.models[0].outcome == NEW, told.models[0]
    model = await service.model(config["key"])
    kept = {name: json.loads(text) for name, text in model.extra_fields.items()}
    assert kept["name"] == long
    assert kept["description"] == config["description"]
    assert kept["source_url"] == config["source_url"]
    assert kept["source_type"] == "carrier_pigeon"
    assert kept["trigger_phrases"] == ["ok", 5]
    assert kept["default_settings"] == {"steps": 0, "weight": "much", "later": 1}
    assert model.default_settings.scheduler == "euler"
    parts = [kept[name] for name in sorted(kept, key=_part) if name.startswith("source_api_response[")]
    assert json.loads("".join(parts)) == wide
    assert (await import_from(service, root)).counts.unchanged_count == 1


def _part(name: str) -> int:
    return int(name.partition("[")[2].partition("/")[0] or 0)


async def test_a_record_that_is_too_large_does_without_what_makes_it_so(
    service: InstallClient, root: InvokeAI
) -> None:
    config = root.add(1, source_api_response="x" * 1_200_000, repo_variant="fp16")
    told = await import_from(service, root)
    assert (told.models[0].outcome, told.models[0].error.reason) == (NEW, "INVALID_MODEL_CONFIG")
    assert "it does without source_api_response" in told.models[0].error.message
    model = await service.model(config["key"])
    assert model.extra_fields["repo_variant"] == '"fp16"'
    assert not [name for name in model.extra_fields if name.startswith("source_api_response")]
    assert (await import_from(service, root)).counts.unchanged_count == 1


async def test_a_record_of_very_many_fields_is_told_soon_and_holds_up_no_other(
    service: InstallClient, root: InvokeAI
) -> None:
    root.insert(root.config(1) | {f"field {number}": "x" * (1 + number % 7) for number in range(60_000)})
    root.add(2)
    told = await import_from(service, root)
    assert [one.outcome for one in told.models] == [FAILED, NEW]
    assert "256" in str(told.models[0].error)


async def test_no_secret_of_a_record_reaches_a_record_or_an_answer(
    service: InstallClient, root: InvokeAI
) -> None:
    url = "https://u:hunter22@models.example.com/1?token=hunter22"
    fields: dict[str, Any] = {
        "description": f"at {url}",
        "access_token": "hunter22",
        "trigger_phrases": [url],
    }
    root.add(1, path="1.safetensors", name=url, **fields)
    root.add(2, type="mystery", format="odd", other=url, **fields)
    root.insert(root.config(3, path=url, default_settings={"scheduler": url}, tags=[url]))
    root.insert(root.config(4, key=url, name="", path="4"), root.config(5, key=f"{url}5", path=""))
    told = await import_from(service, root)
    assert told.counts.new_count == 4
    assert "hunter22" not in str([*told.models])
    for one in told.models:
        if one.outcome == NEW:
            model = await service.model(one.key)
            assert "hunter22" not in str(model), one
            assert "models.example.com" in str(model)
    assert (await import_from(service, root)).counts.unchanged_count == 4


async def test_half_characters_hold_up_nothing(service: InstallClient, root: InvokeAI) -> None:
    config = root.add(1, name="half \ud83d", path="a.safetensors", there=False, odd={"k\udc00": ["\ud83d"]})
    told = await import_from(service, root)
    assert told.models[0].outcome == NEW
    model = await service.model(config["key"])
    assert (model.name, model.extra_fields["odd"]) == ("half ?", '{"k?":["?"]}')
    assert (await import_from(service, root)).counts.unchanged_count == 1


async def test_two_records_of_one_place_make_one(service: InstallClient, source: Path) -> None:
    root = InvokeAI(source / "invokeai", "3.7")
    root.add(1, path="one.safetensors")
    root.add(2, path="one.safetensors")
    for _ in range(2):
        told = await import_from(service, root, overwrite=True)
        assert told.models[1].outcome == FAILED
        assert told.models[1].error.reason == "DUPLICATE_PATH"
    assert told.models[0].outcome == UNCHANGED


@pytest.mark.long
async def test_two_imports_at_once_make_each_record_once(service: InstallClient, root: InvokeAI) -> None:
    root.insert(*(root.config(number) for number in range(1, 501)))
    told = await asyncio.gather(*(import_from(service, root) for _ in range(3)))
    assert {one.outcome for each in told for one in each.models} <= {NEW, UNCHANGED}
    assert await service.models_count() == 500
    assert (await import_from(service, root)).counts.unchanged_count == 500


async def test_a_scan_knows_what_came_along(service: InstallClient, root: InvokeAI) -> None:
    root.add(1)
    root.picture(root.add(2, name="folder", path="sd", type="main", format="diffusers", there=False)["key"])
    root.put("sd/model_index.json", b"{}")
    root.put("sd/unet/odd name.safetensors")
    await import_from(service, root)
    done = await scan(service, root.models)
    assert (done.counts.known_count, done.counts.new_count, done.counts.unknown_count) == (2, 0, 0)


async def test_folders_and_models_elsewhere_and_models_without_files(
    service: InstallClient, root: InvokeAI, source: Path
) -> None:
    root.add(1, name="folder", path="sd", type="main", format="diffusers", there=False)
    root.put("sd/model_index.json", b"{}")
    root.put("sd/unet/model.safetensors")
    (source / "elsewhere.safetensors").write_bytes(b"1")
    root.add(2, name="elsewhere", path=str(source / "elsewhere.safetensors"), there=False)
    root.add(
        3,
        name="external",
        path="external://openai/gpt-image",
        type="external_image_generator",
        format="external_api",
        base="external",
        tags=["a", "b"],
        there=False,
    )
    told = await import_from(service, root)
    assert told.counts.missing_count == 0
    assert told.outcomes == {"folder": NEW, "elsewhere": NEW, "external": NEW}
    folder = await service.model(f"{1:032x}")
    assert folder.size_bytes == 9
    assert [file.path for file in await service.files(folder.key)] == [
        "model_index.json",
        "unet/model.safetensors",
    ]
    assert (await service.model(f"{2:032x}")).path == str(source / "elsewhere.safetensors")
    external = await service.model(f"{3:032x}")
    assert (external.path, external.HasField("missing_time"), list(external.tags)) == (
        "external://openai/gpt-image",
        False,
        ["a", "b"],
    )
    assert (await import_from(service, root)).counts.unchanged_count == 3
