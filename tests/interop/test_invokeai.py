"""Roots that the real InvokeAI made, imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.record.v1.covers_pb2 import GetCoverImageRequest
from support.installs import InstallClient, install_service
from support.invokeai_environment import make_roots
from support.invokeai_imports import NEW, UNCHANGED, import_from
from support.invokeai_records import RECORDS, returned, said

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("invokeai") / "import"
    return folder, make_roots(folder)


@pytest.fixture
async def service(roots: tuple[Path, dict[str, Any]], data_dir: Path) -> Any:
    async with install_service(data_dir, import_roots=(roots[0],)) as client:
        yield client


async def test_every_field_of_every_class_comes_along(
    service: InstallClient, roots: tuple[Path, dict[str, Any]]
) -> None:
    folder, made = roots
    root = folder / "6.14"
    (root / "models" / "00000001-0b4e-4bd5-9b4a-5c1f1e6f7a80").mkdir(exist_ok=True)
    (root / "models" / "00000001-0b4e-4bd5-9b4a-5c1f1e6f7a80" / "weights.safetensors").write_bytes(b"1")
    told = await import_from(service, root)
    records = made["6.14"]["records"]
    assert (told.root.database_path, told.root.is_newer) == (made["6.14"]["database"], False)
    assert told.counts.new_count == told.counts.total_count == len(records) >= 128
    assert told.counts.unknown_count == 1
    keys = {one.invokeai_key: one.key for one in told.models}
    for name, record in records.items():
        model = await service.model(keys[record["key"]])
        assert returned(model, root) == said(record), name
        # a model of an address is nowhere on the disk; of the others one has a file
        on_disk = "://" not in record["path"]
        assert model.HasField("missing_time") == (on_disk and not record["key"].startswith("00000001-")), name
    for key, others in made["6.14"]["related"].items():
        assert list((await service.model(keys[key])).related_keys) == sorted(keys[other] for other in others)
    shown = await service.records.GetCoverImage(GetCoverImageRequest(key=keys[made["6.14"]["picture"]]))
    assert shown.image == (root / "models" / "model_images" / f"{made['6.14']['picture']}.webp").read_bytes()
    assert shown.cover_image.media_type == "image/webp"
    again = await import_from(service, root)
    changed = {one.name: list(one.changed_fields) for one in again.models if one.outcome != UNCHANGED}
    assert changed == {}


def test_the_records_of_the_quick_tests_are_those_of_InvokeAI(roots: tuple[Path, dict[str, Any]]) -> None:
    assert roots[1]["6.14"]["records"] == RECORDS


@pytest.mark.parametrize("release", ["3.7", "4.2", "5.6"])
async def test_the_tables_of_older_releases_are_read(
    service: InstallClient, roots: tuple[Path, dict[str, Any]], release: str
) -> None:
    folder, made = roots
    record = made[release]["records"]["record"]
    told = await import_from(service, folder / release)
    assert [one.outcome for one in told.models] == [NEW]
    model = await service.model(told.models[0].key)
    assert model.path == str(folder / release / "models" / record["path"])
    assert model.type == taxonomy_pb2.MODEL_TYPE_MAIN
    kept = {name: json.loads(text) for name, text in model.extra_fields.items()}
    assert model.main.checkpoint_config == str(
        folder / release / "configs" / "stable-diffusion" / "v1-inference.yaml"
    )
    if release == "3.7":
        assert (model.original_hash, model.current_hash) == ("d" * 32, "c" * 32)
        assert model.main.vae == str(folder / release / "models" / "sd-1/vae/x")
        assert list(model.tags) == ["style"]
        assert kept == {
            "key": record["key"],
            "ztsnr_training": False,
            "last_modified": 1700000000.5,
            "model_metadata": {"name": "Ink", "author": "A"},
        }
    else:
        assert returned(model, folder / release) == said(record)
    assert (await import_from(service, folder / release)).counts.unchanged_count == 1
