"""RecordService over a real channel: making, reading, changing and deleting records."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.failures import fails
from support.records import KEY, record_service, vae
from support.recordstores import Kind

SHA = "ab" * 32
BLAKE = "cd" * 32


@pytest.fixture
async def stub(data_dir: Path, kind: Kind) -> AsyncIterator[Any]:
    async with record_service(data_dir, kind) as service:
        yield service


async def create(stub: Any, model: model_pb2.Model, *files: model_pb2.ModelFile) -> model_pb2.Model:
    response = await stub.CreateModel(pb.CreateModelRequest(model=model, files=files))
    assert response.revision == response.model.revision
    return response.model  # type: ignore[no-any-return]  # an untyped stub


async def update(stub: Any, model: model_pb2.Model, *paths: str, **more: Any) -> model_pb2.Model:
    mask = FieldMask(paths=paths) if paths else None
    response = await stub.UpdateModel(pb.UpdateModelRequest(model=model, update_mask=mask, **more))
    return response.model  # type: ignore[no-any-return]  # an untyped stub


async def test_a_created_record_comes_back_with_key_etag_times_and_its_arm(stub: Any) -> None:
    made = await create(stub, vae(description="d", tags=["a", "b"], compatible_bases=["sd-2"]))
    assert len(made.key) == 32
    assert int(made.key, 16) >= 0
    assert made.etag.startswith('"')
    assert made.etag.endswith('"')
    assert made.create_time == made.update_time
    assert made.create_time.seconds > 1_700_000_000
    assert made.revision == 1
    assert made.WhichOneof("config") == "vae"
    got = await stub.GetModel(pb.GetModelRequest(key=made.key))
    assert got.model == made


async def test_a_given_key_is_kept_and_output_only_fields_are_ignored(stub: Any) -> None:
    made = await create(stub, vae(key=KEY, etag='"x"', revision=99))
    assert (made.key, made.revision) == (KEY, 1)
    assert made.etag != '"x"'


async def test_a_key_is_taken_once(stub: Any) -> None:
    await create(stub, vae(key=KEY))
    with fails(code="ALREADY_EXISTS", reason="DUPLICATE_MODEL") as found:
        await create(stub, vae("other", key=KEY))
    assert found[0].metadata["key"] == KEY


async def test_a_path_is_taken_once_in_its_root(stub: Any) -> None:
    first = await create(stub, vae("a", path="x/y", root_id="r1"))
    await create(stub, vae("b", path="x/y", root_id="r2"))
    with fails(code="ALREADY_EXISTS", reason="DUPLICATE_PATH") as found:
        await create(stub, vae("c", path="x/y", root_id="r1"))
    assert found[0].metadata.items() >= {"path": "x/y", "key": first.key}.items()
    other = await create(stub, vae("d"))
    with fails(code="ALREADY_EXISTS", reason="DUPLICATE_PATH"):
        await update(stub, model_pb2.Model(key=other.key, path="x/y", root_id="r1"))


@pytest.mark.parametrize(
    ("fields", "violations"),
    [
        ({"name": ""}, ["model.name"]),
        ({"path": ""}, None),
        ({"base": ""}, ["model.base"]),
        ({"type": 0, "format": 0}, ["model.type", "model.format"]),
        ({"type": 999}, ["model.type"]),
        ({"format": 999}, ["model.format"]),
        ({"key": "XYZ"}, ["model.key"]),
        ({"base": "Not Kebab"}, ["model.base"]),
        ({"size_bytes": -1}, ["model.size_bytes"]),
        ({"path": "a\0b"}, ["model.path"]),
        ({"root_id": "r"}, ["model.root_id"]),
        ({"tags": [""]}, ["model.tags[0]"]),
        ({"trigger_phrases": ["x" * 4096] * 300}, ["model"]),
    ],
)
async def test_bad_fields_are_named(stub: Any, fields: dict[str, Any], violations: list[str] | None) -> None:
    model = vae()
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(model, name).extend(value)
        else:
            setattr(model, name, value)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=violations or ["model.path"]):
        await create(stub, model)


@pytest.mark.parametrize(
    ("fields", "violation"),
    [
        ({"format": taxonomy_pb2.MODEL_FORMAT_LYCORIS}, "model.format"),
        ({"main": model_pb2.MainConfig()}, "model.main"),
        ({"vae": model_pb2.VaeConfig(checkpoint_config="c.yaml")}, "model.vae.checkpoint_config"),
        (
            {"type": taxonomy_pb2.MODEL_TYPE_MAIN, "format": taxonomy_pb2.MODEL_FORMAT_ONNX},
            "model.format",
        ),
    ],
)
async def test_a_config_that_does_not_fit_is_named(stub: Any, fields: dict[str, Any], violation: str) -> None:
    with fails(code="INVALID_ARGUMENT", reason="INVALID_MODEL_CONFIG", fields=[violation]):
        await create(stub, vae(**fields))


async def test_a_missing_model_is_a_bad_field(stub: Any) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["model"]):
        await stub.CreateModel(pb.CreateModelRequest())


async def test_an_unknown_key_is_not_found_and_an_invalid_one_a_bad_field(stub: Any) -> None:
    requests = [
        (stub.GetModel, pb.GetModelRequest),
        (stub.DeleteModel, pb.DeleteModelRequest),
        (stub.ListModelFiles, pb.ListModelFilesRequest),
    ]
    for method, request in requests:
        with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL") as found:
            await method(request(key=KEY))
        assert found[0].metadata["key"] == KEY
        for key in ("", "xyz", KEY.upper()):
            with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["key"]):
                await method(request(key=key))
    with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL"):
        await update(stub, model_pb2.Model(key=KEY, name="n"))
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["model.key"]):
        await update(stub, model_pb2.Model(name="n"))


async def test_a_batch_answers_in_order_and_names_the_missing(stub: Any) -> None:
    made = [await create(stub, vae(f"v{i}")) for i in range(3)]
    keys = [made[2].key, KEY, made[0].key]
    response = await stub.BatchGetModels(pb.BatchGetModelsRequest(keys=keys))
    assert list(response.models) == [made[2], made[0]]
    assert list(response.missing_keys) == [KEY]
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["keys"]):
        await stub.BatchGetModels(pb.BatchGetModelsRequest())


async def test_a_batch_that_is_too_large_defers_keys(stub: Any) -> None:
    made = [await create(stub, vae(f"v{i}", license="x" * 65_000)) for i in range(60)]
    keys = [model.key for model in made]
    response = await stub.BatchGetModels(pb.BatchGetModelsRequest(keys=keys))
    assert 0 < len(response.models) < 60
    assert [m.key for m in response.models] + list(response.deferred_keys) == keys


async def test_find_compares_exactly_and_wants_only_one(stub: Any) -> None:
    one = await create(stub, vae("n", compatible_bases=["sd-2"]))
    kind = taxonomy_pb2.MODEL_TYPE_VAE
    response = await stub.FindModel(pb.FindModelRequest(name="n", base="sd-1", type=kind))
    assert response.model == one
    for name, base in (("N", "sd-1"), ("n", "sd-2"), ("n", "any")):
        with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL") as found:
            await stub.FindModel(pb.FindModelRequest(name=name, base=base, type=kind))
        asked = {"name": name, "base": base, "type": "MODEL_TYPE_VAE"}
        assert found[0].metadata.items() >= asked.items()
        assert "ListModels" in found[0].metadata["remedy"]
    await create(stub, vae("n", path="/models/second"))
    with fails(code="FAILED_PRECONDITION", reason="AMBIGUOUS_MODEL") as found:
        await stub.FindModel(pb.FindModelRequest(name="n", base="sd-1", type=kind))
    assert found[0].metadata["count"] == "2"
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["name", "base", "type"]):
        await stub.FindModel(pb.FindModelRequest())


async def test_an_update_changes_what_is_set_and_nothing_else(stub: Any) -> None:
    made = await create(stub, vae(description="old", tags=["a"]))
    now = await update(stub, model_pb2.Model(key=made.key, description="new"))
    assert (now.description, list(now.tags), now.revision) == ("new", ["a"], 2)
    assert now.etag != made.etag
    assert now.create_time == made.create_time
    cleared = await update(stub, model_pb2.Model(key=made.key), "description", "tags")
    assert (cleared.description, list(cleared.tags)) == ("", [])
    got = await stub.GetModel(pb.GetModelRequest(key=made.key))
    assert got.model == cleared


async def test_an_update_that_changes_nothing_makes_no_revision(stub: Any) -> None:
    made = await create(stub, vae(description="same"))
    assert await update(stub, model_pb2.Model(key=made.key, description="same")) == made
    assert (await stub.GetStoreInfo(pb.GetStoreInfoRequest())).revision == made.revision


async def test_a_record_sent_back_with_one_change_is_accepted(stub: Any) -> None:
    made = await create(stub, vae(original_hash="h", description="d"))
    made.name = "renamed"
    assert (await update(stub, made)).name == "renamed"


async def test_the_whole_record_is_replaced_by_a_star(stub: Any) -> None:
    made = await create(stub, vae(description="d", tags=["t"]))
    now = await update(stub, vae("new", key=made.key), "*")
    assert (now.name, now.description, list(now.tags)) == ("new", "", [])


@pytest.mark.parametrize(
    ("fields", "paths", "violation"),
    [
        ({}, (), "update_mask"),
        ({"etag": ""}, (), "update_mask"),
        ({"name": "x"}, ("nonsense",), "model.nonsense"),
        ({"name": "x"}, ("revision",), "model.revision"),
        ({"original_hash": "other"}, ("original_hash",), "model.original_hash"),
        ({"name": ""}, ("name",), "model.name"),
        ({}, ("vae.nonsense",), "model.vae.nonsense"),
        ({}, ("main.vae",), "model.main.vae"),
    ],
)
async def test_a_bad_update_names_the_field(
    stub: Any, fields: dict[str, Any], paths: tuple[str, ...], violation: str
) -> None:
    made = await create(stub, vae(original_hash="h"))
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=[violation]):
        await update(stub, model_pb2.Model(key=made.key, **fields), *paths)
    assert (await stub.GetModel(pb.GetModelRequest(key=made.key))).model == made


async def test_the_first_hash_may_come_later_but_only_once(stub: Any) -> None:
    made = await create(stub, vae())
    now = await update(stub, model_pb2.Model(key=made.key, original_hash="h", current_hash="h"))
    assert now.original_hash == "h"
    same = await update(stub, model_pb2.Model(key=made.key, original_hash="h", current_hash="i"))
    assert same.current_hash == "i"
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["model.original_hash"]):
        await update(stub, model_pb2.Model(key=made.key, original_hash="i"))


async def test_another_type_takes_another_arm(stub: Any) -> None:
    made = await create(stub, vae(vae=model_pb2.VaeConfig(scaling_factor=0.5)))
    change = model_pb2.Model(
        key=made.key,
        type=taxonomy_pb2.MODEL_TYPE_MAIN,
        format=taxonomy_pb2.MODEL_FORMAT_CHECKPOINT,
        main=model_pb2.MainConfig(checkpoint_config="c.yaml"),
    )
    for paths in ((), ("type", "format", "main.checkpoint_config")):
        now = await update(stub, change, *paths)
        assert now.WhichOneof("config") == "main"
        assert now.main.checkpoint_config == "c.yaml"
        back = model_pb2.Model(key=made.key, type=made.type, format=made.format)
        assert (await update(stub, back)).WhichOneof("config") == "vae"
    with fails(code="INVALID_ARGUMENT", reason="INVALID_MODEL_CONFIG", fields=["model.format"]):
        await update(stub, model_pb2.Model(key=made.key, type=taxonomy_pb2.MODEL_TYPE_ONNX))


async def test_a_format_without_a_field_of_the_arm_wants_it_cleared(stub: Any) -> None:
    made = await create(
        stub,
        vae(format=taxonomy_pb2.MODEL_FORMAT_CHECKPOINT, vae=model_pb2.VaeConfig(checkpoint_config="c")),
    )
    change = model_pb2.Model(key=made.key, format=taxonomy_pb2.MODEL_FORMAT_DIFFUSERS)
    with fails(
        code="INVALID_ARGUMENT", reason="INVALID_MODEL_CONFIG", fields=["model.vae.checkpoint_config"]
    ):
        await update(stub, change)
    now = await update(stub, change, "format", "vae.checkpoint_config")
    assert (now.format, now.vae.checkpoint_config) == (taxonomy_pb2.MODEL_FORMAT_DIFFUSERS, "")


async def test_a_stale_etag_changes_and_deletes_nothing(stub: Any) -> None:
    made = await create(stub, vae())
    now = await update(stub, model_pb2.Model(key=made.key, etag=made.etag, name="new"))
    with fails(code="ABORTED", reason="ETAG_MISMATCH") as found:
        await update(stub, model_pb2.Model(key=made.key, etag=made.etag, name="newer"))
    assert found[0].metadata["etag"] == now.etag
    with fails(code="ABORTED", reason="ETAG_MISMATCH"):
        await stub.DeleteModel(pb.DeleteModelRequest(key=made.key, etag=made.etag))
    response = await stub.DeleteModel(pb.DeleteModelRequest(key=made.key, etag=now.etag))
    assert (response.model, response.revision) == (now, 3)
    with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL"):
        await stub.GetModel(pb.GetModelRequest(key=made.key))


async def test_files_come_with_the_record_and_are_replaced_as_a_whole(stub: Any) -> None:
    files = [model_pb2.ModelFile(path=f"f{i:03}", size_bytes=i, sha256=SHA) for i in range(120)]
    made = await create(stub, vae(), *reversed(files))
    found: list[model_pb2.ModelFile] = []
    token = ""
    while True:
        page = await stub.ListModelFiles(pb.ListModelFilesRequest(key=made.key, page_token=token))
        found += page.files
        token = page.next_page_token
        if not token:
            break
    assert found == files
    same = await update(stub, model_pb2.Model(key=made.key), files=files, replace_files=True)
    assert same == made
    now = await update(stub, model_pb2.Model(key=made.key), files=files[:1], replace_files=True)
    assert now.revision == made.revision + 1
    page = await stub.ListModelFiles(pb.ListModelFilesRequest(key=made.key))
    assert list(page.files) == files[:1]
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["replace_files"]):
        await update(stub, model_pb2.Model(key=made.key), files=files)


@pytest.mark.parametrize("path", ["/abs", "../up", "a/../../b", "a\0b", ".", ""])
async def test_a_file_outside_the_model_is_refused(stub: Any, path: str) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["files[0].path"]):
        await create(stub, vae(), model_pb2.ModelFile(path=path))
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["files[1].path"]):
        await create(stub, vae(), model_pb2.ModelFile(path="a"), model_pb2.ModelFile(path="a"))


async def test_a_repeated_request_id_answers_with_the_first_result(stub: Any) -> None:
    request_id = str(uuid.uuid4())
    request = pb.CreateModelRequest(model=vae(), request_id=request_id)
    first = await stub.CreateModel(request)
    assert await stub.CreateModel(request) == first
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await stub.CreateModel(pb.CreateModelRequest(model=vae("other"), request_id=request_id))
    change = pb.UpdateModelRequest(
        model=model_pb2.Model(key=first.model.key, name="n"), request_id=request_id
    )
    updated = await stub.UpdateModel(change)
    deletion = pb.DeleteModelRequest(key=first.model.key, request_id=request_id)
    deleted = await stub.DeleteModel(deletion)
    assert await stub.UpdateModel(change) == updated
    assert await stub.DeleteModel(deletion) == deleted
    assert deleted.model == updated.model
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["request_id"]):
        await stub.CreateModel(pb.CreateModelRequest(model=vae(), request_id="no uuid"))


async def test_a_failed_request_may_be_repeated_with_its_id(stub: Any) -> None:
    request_id = str(uuid.uuid4())
    deletion = pb.DeleteModelRequest(key=KEY, request_id=request_id)
    with fails(code="NOT_FOUND", reason="UNKNOWN_MODEL"):
        await stub.DeleteModel(deletion)
    await create(stub, vae(key=KEY))
    assert (await stub.DeleteModel(deletion)).model.key == KEY


async def test_the_store_describes_itself(stub: Any, kind: Kind) -> None:
    await create(stub, vae("a", size_bytes=5))
    await create(stub, vae("b", size_bytes=7))
    info = await stub.GetStoreInfo(pb.GetStoreInfoRequest())
    assert (info.schema_version, info.backend, info.revision) == ("3.2", kind.name, 2)
    assert (info.model_count, info.size_bytes, info.unreadable_count) == (2, 12, 0)
    assert [(c.type, c.count) for c in info.counts] == [(taxonomy_pb2.MODEL_TYPE_VAE, 2)]
    assert info.store_id
    assert info.create_time.seconds > 1_700_000_000
