"""InstallService over a real channel: what helpers left beside a local file goes into its record."""

from __future__ import annotations

import json
import os
from pathlib import Path

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2
from modelkeep.model.v1.default_settings_pb2 import DefaultSettings
from support.installs import InstallClient, small_lora
from support.scans import NEW, found, scan

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
VERSION = {
    "id": 12,
    "modelId": 7,
    "baseModel": "SD 1.5",
    "trainedWords": ["inkpaper, ink style"],
    "description": None,
    "model": {"type": "LORA", "description": "<p>Ink on paper.</p>", "tags": ["ink"], "allowNoCredit": False},
}
NOTES = {"description": "Mine.", "activation text": "brush", "preferred weight": 0.75}


def lora(folder: Path, name: str = "ink") -> Path:
    """A LoRA with both files beside it."""
    file = small_lora(folder / f"{name}.safetensors", metadata={"name": name})
    (folder / f"{name}.civitai.info").write_text(json.dumps(VERSION))
    (folder / f"{name}.json").write_text(json.dumps(NOTES))
    (folder / f"{name}.preview.png").write_bytes(b"png")
    return file


def check(model: model_pb2.Model) -> None:
    assert model.description == "Ink on paper."
    assert list(model.trigger_phrases) == ["inkpaper", "ink style"]
    assert (list(model.tags), model.license) == (["ink"], "allowNoCredit=false")
    assert model.source_url == "https://civitai.com/models/7?modelVersionId=12"
    assert model.default_settings == DefaultSettings(weight=0.75)


async def test_an_import_in_place_has_them_and_a_probe_shows_them(
    service: InstallClient, source: Path
) -> None:
    file = lora(source)
    answer: pb.ProbeModelResponse = await service.stub.ProbeModel(pb.ProbeModelRequest(path=str(file)))
    check(answer.result.model)
    assert answer.result.description == "Ink on paper."
    told = [e.observation for e in answer.result.evidence if e.finding == "side car"]
    assert [line.split()[0] for line in told] == ["ink.civitai.info", "ink.json"]
    assert answer.result.file_count == 1
    job = await service.install(file)
    assert job.state == COMPLETED, job.error
    check(await service.model(job.model_key))
    assert [one.path for one in await service.files(job.model_key)] == ["ink.safetensors"]


async def test_a_copy_has_them_and_they_stay_where_they_are(service: InstallClient, source: Path) -> None:
    file = lora(source)
    names = sorted(os.listdir(source))
    overrides = install_pb2.ModelOverrides(trigger_phrases=["mine"])
    job = await service.install(file, inplace=False, overrides=overrides)
    assert job.state == COMPLETED, job.error
    model = await service.model(job.model_key)
    assert (model.description, list(model.trigger_phrases)) == ("Ink on paper.", ["mine"])
    assert os.listdir(service.models / job.model_key) == ["ink.safetensors"]
    assert sorted(os.listdir(source)) == names


async def test_a_scan_has_them_and_broken_ones_keep_no_model_away(
    service: InstallClient, source: Path
) -> None:
    lora(source, "a")
    lora(source, "b")
    (source / "b.civitai.info").unlink()
    os.mkfifo(source / "b.civitai.info")
    (source / "b.json").write_text("{" * 10_000)
    done = await scan(service, source)
    assert await found(service, done, source) == {"a.safetensors": NEW, "b.safetensors": NEW}
    a, b = sorted([await service.model(key) for key in done.registered_keys], key=lambda model: model.name)
    check(a)
    assert (b.name, list(b.trigger_phrases), b.license) == ("b", [], "")


async def test_uninstalling_a_model_leaves_them(service: InstallClient, source: Path) -> None:
    file = lora(source)
    job = await service.install(file)
    request = pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_ANY_ALLOWED_ROOT)
    answer: pb.UninstallModelResponse = await service.stub.UninstallModel(request)
    assert list(answer.deleted_paths) == [str(file)]
    assert sorted(os.listdir(source)) == ["ink.civitai.info", "ink.json", "ink.preview.png"]
