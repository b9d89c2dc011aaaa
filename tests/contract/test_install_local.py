"""InstallService over a real channel with a real RecordService: models from local paths."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from pathlib import Path

import blake3
import imohash
import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from support.failures import fails
from support.installs import (
    InstallClient,
    for_the_owner,
    install_beside,
    install_service,
    records_beside,
    small_lora,
)
from support.modelshapes import table, write_checkpoint, write_pipeline, write_safetensors

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
ERROR = install_pb2.INSTALL_STATE_ERROR
CANCELLED = install_pb2.INSTALL_STATE_CANCELLED


async def test_a_file_is_registered_in_place_with_everything_that_the_probe_found(
    service: InstallClient, source: Path
) -> None:
    path = write_checkpoint(source / "sushi.safetensors", "sd-1", channels=9)
    job = await service.install(path)
    assert job.state == COMPLETED, job.error
    model = await service.model(job.model_key)
    assert model == job.model
    assert (model.path, model.root_id) == (str(path), "")
    assert (model.name, model.base) == ("sushi", "sd-1")
    assert (model.type, model.format) == (taxonomy_pb2.MODEL_TYPE_MAIN, taxonomy_pb2.MODEL_FORMAT_CHECKPOINT)
    assert model.main.variant == taxonomy_pb2.MODEL_VARIANT_INPAINT
    assert {part.path_or_prefix for part in model.main.submodels} >= {"first_stage_model."}
    assert model.size_bytes == path.stat().st_size
    assert model.original_hash == model.current_hash == imohash.hashfile(str(path), hexdigest=True)
    assert (model.source, model.source_type) == (str(path), taxonomy_pb2.MODEL_SOURCE_TYPE_PATH)
    assert job.local_path == str(path)
    assert job.probe.evidence[0].strength == install_pb2.EVIDENCE_STRENGTH_CERTAIN
    assert job.attempt == 1
    assert path.exists()
    assert service.litter() == []


async def test_a_copy_goes_into_models_dir_read_only_under_its_key(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    job = await service.install(path, inplace=False)
    assert job.state == COMPLETED, job.error
    placed = service.models / job.model_key / "style.safetensors"
    assert job.local_path == str(placed)
    assert placed.read_bytes() == path.read_bytes()
    assert placed.stat().st_mode & 0o777 == 0o444
    model = await service.model(job.model_key)
    assert model.path == f"{job.model_key}/style.safetensors"
    assert len(model.root_id) == 36
    assert model.lora.rank == 16
    assert job.progress.bytes_done == job.progress.bytes_total == path.stat().st_size
    assert service.litter() == []


async def test_a_folder_is_copied_whole_with_links_made_files(service: InstallClient, source: Path) -> None:
    folder = source / "vae"
    write_safetensors(source / "blob", {"a": [2, 2]})
    small = {name: shape for name, shape in table("vae.diffusers").items() if "conv_in" in name}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", small)
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL", "scaling_factor": 0.18215}')
    (folder / "linked.safetensors").symlink_to("../blob")
    job = await service.install(folder, inplace=False)
    assert job.state == COMPLETED, job.error
    placed = service.models / job.model_key / "vae"
    assert sorted(p.name for p in placed.iterdir()) == sorted(p.name for p in folder.iterdir())
    assert not (placed / "linked.safetensors").is_symlink()
    model = await service.model(job.model_key)
    assert (model.base, list(model.compatible_bases)) == ("sd-1", ["sd-2"])
    assert model.vae.scaling_factor == 0.18215
    assert {f.path for f in await service.files(job.model_key)} == set(os.listdir(folder))


async def test_the_digests_of_every_file_reach_the_record_in_the_background(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    job = await service.install(path)
    [file] = await service.digested(job.model_key)
    content = path.read_bytes()
    assert file.path == "style.safetensors"
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert file.blake3 == blake3.blake3(content).hexdigest()
    assert file.digest_state == model_pb2.DIGEST_STATE_COMPUTED
    assert file.size_bytes == len(content)


async def test_what_the_caller_overrides_wins_in_the_record(service: InstallClient, source: Path) -> None:
    path = write_checkpoint(source / "a.safetensors", "sd-2")
    job = await service.install(
        path,
        overrides=install_pb2.ModelOverrides(
            name="my name",
            description="mine",
            prediction_type=taxonomy_pb2.PREDICTION_TYPE_V_PREDICTION,
            upcast_attention=True,
            tags=["x"],
            license="openrail++",
            source="elsewhere",
        ),
    )
    model = job.model
    assert (model.name, model.description, model.license, model.source) == (
        "my name",
        "mine",
        "openrail++",
        "elsewhere",
    )
    assert model.main.prediction_type == taxonomy_pb2.PREDICTION_TYPE_V_PREDICTION
    assert model.main.upcast_attention
    assert list(model.tags) == ["x"]


async def test_an_unknown_model_is_refused_with_what_would_help_and_taken_with_overrides(
    service: InstallClient, source: Path
) -> None:
    path = write_safetensors(source / "llama.safetensors", {"model.layers.0.mlp.weight": [8, 8]})
    job = await service.install(path)
    assert job.state == ERROR
    assert (job.error.code, job.error.reason) == ("FAILED_PRECONDITION", "INVALID_MODEL")
    assert "install it again with type and base given" in job.error.message
    assert await service.models_count() == 0
    overrides = install_pb2.ModelOverrides(type=taxonomy_pb2.MODEL_TYPE_TEXT_LLM, base="any")
    job = await service.install(path, overrides=overrides)
    assert job.state == COMPLETED, job.error
    assert job.model.WhichOneof("config") == "text_llm"


async def test_an_unknown_folder_takes_the_format_that_the_given_type_has(
    service: InstallClient, source: Path
) -> None:
    folder = source / "clip"
    write_safetensors(folder / "diffusion_pytorch_model.bin.safetensors", {"a": [8]})
    (folder / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    job = await service.install(folder)
    assert (job.state, job.error.reason) == (ERROR, "INVALID_MODEL")
    assert "install it again with type and base given" in job.error.message
    overrides = install_pb2.ModelOverrides(type=taxonomy_pb2.MODEL_TYPE_CONTROLNET, base="sd-1")
    job = await service.install(folder, overrides=overrides)
    assert job.state == COMPLETED, job.error
    assert job.model.format == taxonomy_pb2.MODEL_FORMAT_DIFFUSERS


async def test_overrides_that_do_not_fit_together_fail_with_the_field_that_is_wrong(
    service: InstallClient, source: Path
) -> None:
    overrides = install_pb2.ModelOverrides(format=taxonomy_pb2.MODEL_FORMAT_OLIVE)
    job = await service.install(small_lora(source / "a.safetensors"), overrides=overrides)
    assert (job.state, job.error.reason) == (ERROR, "INVALID_MODEL_CONFIG")
    assert "format: a model of type lora cannot have" in job.error.message


async def test_every_field_of_a_config_is_taken_over_and_a_text_may_be_emptied(
    service: InstallClient, source: Path
) -> None:
    part = model_pb2.Submodel(type=taxonomy_pb2.SUB_MODEL_TYPE_VAE, path_or_prefix="first_stage_model.")
    checkpoint = write_checkpoint(source / "a.safetensors", "sd-1")
    overrides = install_pb2.ModelOverrides(
        description="",
        compatible_bases=["sd-2"],
        source_type=taxonomy_pb2.MODEL_SOURCE_TYPE_CIVITAI,
        vae="vae",
        checkpoint_config="v1.yaml",
        family_variant="own",
        variant=taxonomy_pb2.MODEL_VARIANT_INPAINT,
        prediction_type=taxonomy_pb2.PREDICTION_TYPE_SAMPLE,
        upcast_attention=False,
        submodels=[part],
    )
    job = await service.install(checkpoint, overrides=overrides)
    assert job.state == COMPLETED, job.error
    assert job.overrides == overrides
    assert (job.probe.description, job.model.description) != ("", "")
    assert job.model.description == ""
    assert (list(job.model.compatible_bases), job.model.source_type) == (["sd-2"], overrides.source_type)
    assert job.model.main == model_pb2.MainConfig(
        vae="vae",
        variant=overrides.variant,
        prediction_type=overrides.prediction_type,
        upcast_attention=False,
        checkpoint_config="v1.yaml",
        family_variant="own",
        submodels=[part],
    )
    job = await service.install(
        small_lora(source / "b.safetensors"),
        overrides=install_pb2.ModelOverrides(rank=4, key_layout="peft"),
    )
    assert job.model.lora == model_pb2.LoraConfig(rank=4, key_layout="peft")


async def test_a_field_that_the_type_of_the_model_does_not_have_is_refused(
    service: InstallClient, source: Path
) -> None:
    overrides = install_pb2.ModelOverrides(image_encoder="x", rank=4)
    job = await service.install(small_lora(source / "a.safetensors"), overrides=overrides)
    assert (job.state, job.error.reason) == (ERROR, "INVALID_MODEL_CONFIG")
    assert "has no image_encoder" in job.error.message
    assert await service.models_count() == 0


async def test_a_second_spelling_of_a_path_is_the_same_path(service: InstallClient, source: Path) -> None:
    path = small_lora(source / "a.safetensors")
    first = await service.install(path)
    for spelling in (f"/{path}", f"{source}/./x/..//{path.name}"):
        again = install_pb2.InstallSource(local_path=spelling)
        answer = await service.stub.ImportModel(pb.ImportModelRequest(source=again))
        assert answer.install.source.local_path == str(path)
        ended = await service.ended(answer.install)
        assert (ended.installed_already, ended.model_key) == (True, first.model_key)


async def test_a_vae_whose_base_nothing_tells_is_found_under_each_possible_base(
    service: InstallClient, source: Path
) -> None:
    job = await service.install(write_safetensors(source / "some.safetensors", table("vae.ldm")))
    assert job.state == COMPLETED, job.error
    assert job.model.base == "unknown"
    assert list(job.model.compatible_bases) == ["sd-1", "sd-2", "sdxl"]


@pytest.mark.parametrize("inplace", [True, False])
async def test_a_pickle_is_refused_and_never_opened(
    service: InstallClient, source: Path, inplace: bool
) -> None:
    (source / "model.ckpt").write_bytes(b"\x80\x04cposix\nsystem\n")
    job = await service.install(source / "model.ckpt", inplace=inplace)
    assert (job.state, job.error.reason) == (ERROR, "UNSAFE_FORMAT")
    assert service.litter() == []


async def test_a_second_record_for_a_path_is_refused_and_the_copy_is_taken_back(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    first = await service.install(path)
    second = await service.install(path, reuse=install_pb2.REUSE_NEVER)
    assert (second.state, second.error.reason) == (ERROR, "DUPLICATE_PATH")
    assert second.error.metadata["key"] == first.model_key
    assert path.exists()


async def test_the_same_source_and_arguments_are_the_same_job_and_others_are_refused(
    data_dir: Path, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    async with (
        records_beside(data_dir) as (records, _),
        install_beside(data_dir, records, "127.0.0.1:9") as service,
    ):
        job = await service.submit(path)
        request = pb.ImportModelRequest(source=job.source)
        again = await service.stub.ImportModel(request)
        assert (again.install.id, again.existing) == (job.id, True)
        with fails(code="ALREADY_EXISTS", reason="INSTALL_IN_PROGRESS") as failure:
            await service.submit(path, inplace=False)
        assert failure[0].metadata["id"] == str(job.id)
        assert failure[0].domain == "install.modelkeep.dev"


async def test_a_repeated_request_id_answers_with_its_job_also_after_the_end(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    request_id = str(uuid.uuid4())
    job = await service.install(path, request_id=request_id)
    assert (await service.submit(path, request_id=request_id)).id == job.id
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await service.submit(path, inplace=False, request_id=request_id)


async def test_paths_outside_the_import_roots_are_refused_also_through_links(
    service: InstallClient, source: Path, tmp_path: Path
) -> None:
    outside = small_lora(tmp_path / "style.safetensors")
    (source / "link.safetensors").symlink_to(outside)
    (source / "linked-folder").symlink_to(tmp_path)
    for path in (
        outside,
        source / "link.safetensors",
        source / "linked-folder",
        source / ".." / ".." / "etc",
    ):
        with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH"):
            await service.submit(path)
        with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH"):
            await service.stub.ProbeModel(pb.ProbeModelRequest(path=str(path)))
    folder = write_pipeline(source / "pipe", "sd-1")
    (folder / "vae" / "extra.safetensors").symlink_to(outside)
    job = await service.install(folder)
    assert (job.state, job.error.reason) == (ERROR, "FORBIDDEN_PATH")


async def test_a_service_without_import_roots_takes_nothing(data_dir: Path, source: Path) -> None:
    path = small_lora(source / "style.safetensors")
    async with install_service(data_dir, import_roots=()) as service:
        with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH"):
            await service.submit(path)
    async with install_service(data_dir, import_roots=(), **for_the_owner(data_dir)) as service:
        assert (await service.install(path)).state == COMPLETED


async def test_bad_sources_are_refused_at_once(service: InstallClient, source: Path) -> None:
    with fails(code="FAILED_PRECONDITION", reason="SOURCE_NOT_FOUND"):
        await service.submit(source / "missing.safetensors")
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["source.local_path"]):
        await service.submit(Path("relative.safetensors"))
    path = small_lora(source / "a.safetensors")
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["expected_sha256"]):
        await service.submit(path, expected_sha256="0" * 64)  # never checked: not taken in silence
    for url in ("ftp://example.com/a", "https://", "nonsense"):
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["source.url"]):
            await service.submit(url)


async def test_a_probe_is_a_dry_run(service: InstallClient, source: Path) -> None:
    path = write_checkpoint(source / "a.safetensors", "sdxl")
    answer = await service.stub.ProbeModel(pb.ProbeModelRequest(path=str(path)))
    assert (answer.result.type, answer.result.base) == (taxonomy_pb2.MODEL_TYPE_MAIN, "sdxl")
    assert answer.result.model.WhichOneof("config") == "main"
    assert answer.result.file_count == 1
    assert await service.models_count() == 0
    (source / "b.safetensors").write_text("text")
    with fails(code="FAILED_PRECONDITION", reason="INVALID_MODEL"):
        await service.stub.ProbeModel(pb.ProbeModelRequest(path=str(source / "b.safetensors")))


async def test_tags_that_no_record_takes_are_refused_before_anything_is_fetched(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "a.safetensors")
    for overrides, field in (
        (install_pb2.ModelOverrides(tags=["ok", "x" * 257]), "overrides.tags[1]"),
        (install_pb2.ModelOverrides(tags=[""]), "overrides.tags[0]"),
        (install_pb2.ModelOverrides(trigger_phrases=["x" * 4097]), "overrides.trigger_phrases[0]"),
    ):
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=[field]):
            await service.submit(path, overrides=overrides)


async def test_a_long_hash_does_not_keep_another_install_waiting(
    service: InstallClient, source: Path
) -> None:
    huge = write_checkpoint(source / "huge.safetensors", "sdxl", dtype="F32")
    assert huge.stat().st_size > 10_000_000_000
    first = await service.install(huge)
    assert first.state == COMPLETED
    async with asyncio.timeout(20):
        second = await service.install(small_lora(source / "small.safetensors"))
    assert second.state == COMPLETED
    [file] = await service.files(first.model_key)
    assert file.digest_state == model_pb2.DIGEST_STATE_PENDING
