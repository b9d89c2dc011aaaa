"""Where an InvokeAI's records are, and what may go wrong with them: ImportInvokeAI."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from modelkeep.install.v1 import invokeai_pb2 as pb
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from support.failures import refused
from support.installs import InstallClient, install_beside
from support.invokeai import InvokeAI
from support.invokeai_imports import FAILED, NEW, Told, import_from
from support.records import RecordProcess
from support.smalldisk import bound

YAML_3 = """
__metadata__:
  version: 3.0.0
sd-1/main/stable-diffusion-v1-5:
  path: sd-1/main/stable-diffusion-v1-5
  description: Stable Diffusion version 1.5
  model_format: diffusers
  variant: normal
sd-2/main/inpainting:
  path: sd-2/main/inpainting.safetensors
  model_format: checkpoint
  config: configs/stable-diffusion/v2-inpainting-inference-v.yaml
  vae: models/sd-2/vae/other
  variant: inpaint
  upcast_attention: true
sd-1/lora/ink/and paper:
  path: sd-1/lora/ink.safetensors
  model_format: lycoris
sd-1/embedding/easy:
  path: sd-1/embedding/easy.pt
"""

YAML_2 = """
stable-diffusion-1.5:
  description: The first one
  weights: models/ldm/v1/model.ckpt
  config: configs/stable-diffusion/v1-inference.yaml
  vae: models/ldm/v1/vae.ckpt
  width: 512
  height: 768
  default: true
  format: ckpt
from-the-hub:
  repo_id: runwayml/stable-diffusion-inpainting
  format: diffusers
"""


async def test_a_models_yaml_of_version_3_comes_along(service: InstallClient, source: Path) -> None:
    root = InvokeAI(source / "invokeai", "3.0")
    root.yaml(YAML_3)
    root.put("sd-1/main/stable-diffusion-v1-5/model_index.json", b"{}")
    for path in ("sd-2/main/inpainting.safetensors", "sd-1/lora/ink.safetensors", "sd-1/embedding/easy.pt"):
        root.put(path)
    told = await import_from(service, root)
    assert set(told.outcomes.values()) == {NEW}
    assert (told.root.schema, told.root.database_path, told.root.model_count) == ("3.0.0", "", 4)
    found = {one.name: await service.model(one.key) for one in told.models}
    assert set(found) == {"stable-diffusion-v1-5", "inpainting", "ink/and paper", "easy"}
    folder, inpainting = found["stable-diffusion-v1-5"], found["inpainting"]
    assert folder.path == str(root.models / "sd-1/main/stable-diffusion-v1-5")
    assert (folder.format, folder.description) == (
        taxonomy_pb2.MODEL_FORMAT_DIFFUSERS,
        "Stable Diffusion version 1.5",
    )
    assert json.loads(folder.extra_fields["key"]) == "sd-1/main/stable-diffusion-v1-5"
    assert inpainting.main.variant == taxonomy_pb2.MODEL_VARIANT_INPAINT
    assert inpainting.main.upcast_attention
    assert inpainting.main.vae == str(root.models / "sd-2/vae/other")
    assert inpainting.main.checkpoint_config == str(
        root.path / "configs/stable-diffusion/v2-inpainting-inference-v.yaml"
    )
    assert found["easy"].format == taxonomy_pb2.MODEL_FORMAT_EMBEDDING_FILE
    assert (await import_from(service, root)).counts.unchanged_count == 4


async def test_a_models_yaml_of_version_2_comes_along(service: InstallClient, source: Path) -> None:
    root = InvokeAI(source / "invokeai", "2.3")
    root.yaml(YAML_2)
    root.put("ldm/v1/model.ckpt")
    told = await import_from(service, root)
    assert told.outcomes == {"stable-diffusion-1.5": NEW, "from-the-hub": FAILED}
    model = await service.model(told.models[0].key)
    assert (model.path, model.base) == (str(root.models / "ldm/v1/model.ckpt"), "sd-1")
    assert (model.default_settings.width, model.default_settings.height) == (512, 768)
    assert model.main.vae == str(root.models / "ldm/v1/vae.ckpt")
    assert model.extra_fields["default"] == "true"
    assert "modelkeep install runwayml/stable-diffusion-inpainting" in told.models[1].error.metadata["remedy"]


async def test_what_both_have_is_taken_from_the_database(service: InstallClient, source: Path) -> None:
    root = InvokeAI(source / "invokeai", "3.7")
    root.add(1, name="from the database", path="sd-1/lora/ink.safetensors")
    root.yaml(YAML_3)
    told = await import_from(service, root)
    assert "from the database" in told.outcomes
    assert "ink/and paper" not in told.outcomes
    assert told.counts.total_count == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", "line 1, column 6"),
        ("a: &x {path: b}\nb: *x\n", "line 2, column 4: has an alias"),
        ("a: {path: !!bool b}\n", "is no YAML: a value does not fit its tag"),
        ("- 1\n", "has no entries"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1, column 4"),
    ],
)
async def test_a_models_yaml_that_is_none_is_told(
    service: InstallClient, source: Path, text: str, problem: str
) -> None:
    root = InvokeAI(source / "invokeai", "3.0")
    root.yaml(text)
    with refused("FIELD_INVALID") as error:
        await import_from(service, root)
    assert problem in error.message


async def test_what_is_no_root_is_refused(service: InstallClient, source: Path, tmp_path: Path) -> None:
    with refused("FIELD_INVALID") as error:
        await import_from(service, source)
    assert "has neither" in error.message
    with refused("SOURCE_NOT_FOUND"):
        await import_from(service, source / "nothing")
    with refused("FORBIDDEN_PATH"):
        await import_from(service, tmp_path)
    (source / "file").touch()
    with refused("FIELD_INVALID"):
        await import_from(service, source / "file")
    with refused("FIELD_INVALID"):
        await import_from(service, Path("relative"))


async def test_nothing_outside_the_roots_is_read(
    service: InstallClient, source: Path, data_dir: Path, tmp_path: Path
) -> None:
    root = InvokeAI(source / "invokeai")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    root.add(1, name="outside", path=str(tmp_path / "model.safetensors"), there=False)
    root.add(2, name="above", path="../../../../etc/passwd", there=False)
    root.add(3, name="models", path=".", there=False)
    root.add(4, name="ours", path=str(data_dir / "record" / "record.db"), there=False)
    (root.models / "link").symlink_to(tmp_path / "model.safetensors")
    root.add(5, name="link", path="link", there=False)
    told = await import_from(service, root)
    reasons = {one.name: (one.outcome, one.error.reason) for one in told.models}
    assert reasons == {
        **dict.fromkeys(("outside", "above", "ours", "link"), (FAILED, "FORBIDDEN_PATH")),
        "models": (FAILED, "INVALID_MODEL"),
    }
    assert told.models[0].error.metadata["setting"] == "import_roots"
    # nor is a database, by a link or by the settings
    for there in ("databases", "invokeai.yaml"):
        path = root.path / there
        path.rename(tmp_path / there)
        path.symlink_to(tmp_path / there)
        with refused("FORBIDDEN_PATH"):
            await import_from(service, root)
        path.unlink()
        (tmp_path / there).rename(path)
    (root.path / "invokeai.yaml").write_text(f"db_dir: {tmp_path}\n")
    with refused("FORBIDDEN_PATH"):
        await import_from(service, root)


@pytest.mark.parametrize("content", [b"", b"no database at all", None])
async def test_a_broken_database_is_told(service: InstallClient, source: Path, content: bytes | None) -> None:
    root = InvokeAI(source / "invokeai")
    root.add(1)
    with root.open() as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = root.database.read_bytes()
    root.database.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with refused("FIELD_INVALID") as error:
        await import_from(service, root)
    # an empty file is what SQLite takes for a new database
    why = "a table of models" if content == b"" else "cannot be read as a database of InvokeAI"
    assert why in error.message


async def test_links_in_a_circle_and_settings_that_have_no_end_hold_up_nothing(
    service: InstallClient, source: Path
) -> None:
    root = InvokeAI(source / "invokeai")
    root.add(1)
    (root.models / "loop").symlink_to("loop")
    root.insert(root.config(2, path="loop/model.safetensors"), root.config(3, path="loop"))
    assert sorted((await import_from(service, root)).outcomes.values()) == [NEW, FAILED, FAILED]
    settings = root.path / "invokeai.yaml"
    settings.unlink()
    os.mkfifo(settings)
    with refused("FIELD_INVALID") as error:
        await import_from(service, root)
    assert "no regular file" in error.message


async def test_a_record_that_cannot_be_read_holds_up_no_other(service: InstallClient, source: Path) -> None:
    root = InvokeAI(source / "invokeai", "3.7")
    root.add(1)
    with root.open() as db:
        db.execute("DROP TABLE model_config")
        db.execute("CREATE TABLE model_config (id TEXT, config TEXT, created_at TEXT, updated_at TEXT)")
        rows = [
            ("a", "{", None, None),
            ("b", "[]", None, "yesterday"),
            ("c", None, None, None),
            ("d", "[" * 100_000, None, None),
            ("e", json.dumps({"path": 5}), None, None),
            ("e1", '{"path": "x.safetensors", "deep": ' + "[" * 600 + "]" * 600 + "}", None, None),
            ("e2", '{"path": "y.safetensors", "deep": ' + "[" * 900 + "1" + "]" * 900 + "}", None, None),
            ("f", json.dumps({"name": "x" * 5_000_000}), None, None),
            ("g", b"\xff\xfe", None, None),
            ("h", json.dumps(root.config(2)) + "", "2024-01-01", None),
        ]
        db.executemany("INSERT INTO model_config VALUES (?, ?, ?, ?)", rows)
    told = await import_from(service, root)
    assert [one.outcome for one in told.models] == [FAILED] * 9 + [NEW]
    assert {one.error.reason for one in told.models[:9]} == {"INVALID_MODEL_CONFIG", "INVALID_MODEL"}


@pytest.mark.long
@pytest.mark.parametrize("journal", ["wal", "delete"])
async def test_nothing_of_InvokeAI_changes_while_it_writes(
    service: InstallClient, source: Path, journal: str
) -> None:
    root = InvokeAI(source / "invokeai", journal=journal)
    root.insert(*(root.config(number) for number in range(1, 500)))
    written: list[int] = []
    stop = threading.Event()

    def write() -> None:
        # as InvokeAI: one connection that stays open, and waits five seconds for its turn
        db = sqlite3.connect(root.database, timeout=5, isolation_level=None)
        while not stop.is_set():
            db.execute("INSERT INTO images VALUES (?)", (str(len(written)),))
            written.append(1)
            stop.wait(0.002)
        db.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        told = await import_from(service, root)
    finally:
        stop.set()
        await asyncio.to_thread(writer.join)
    assert told.counts.new_count == 499
    with root.open() as db:
        [(count,)] = db.execute("SELECT count(*) FROM images").fetchall()
        assert count == len(written) > 0
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = _bytes_of(root.path)
    assert (await import_from(service, root)).counts.unchanged_count == 499
    after = _bytes_of(root.path)
    assert after == before  # not even the files that SQLite makes beside a database that is read


async def test_a_database_that_stays_locked_is_told_and_the_next_call_goes_on(
    service: InstallClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelkeep_install.invokeai.read._PATIENCE_S", 0.1)
    root = InvokeAI(source / "invokeai", journal="delete")
    root.add(1)
    db = sqlite3.connect(root.database, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    with refused("UPSTREAM_UNAVAILABLE") as error:
        await import_from(service, root)
    assert "locked" in error.message
    db.execute("COMMIT")
    db.close()
    assert (await import_from(service, root)).counts.new_count == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("journal", ["wal", "delete"])
async def test_an_old_disk_that_cannot_be_written_is_read(
    service: InstallClient, source: Path, tmp_path: Path, journal: str
) -> None:
    InvokeAI(tmp_path / "invokeai", journal=journal).add(1)
    with bound(tmp_path, source / "disk", read_only=True) as disk:
        told = await import_from(service, disk / "invokeai")
        assert (told.counts.new_count, told.counts.missing_count) == (1, 0)
    if journal == "wal":  # a log that was left has what the database does not have yet
        log = tmp_path / "invokeai" / "databases" / "invokeai.db-wal"
        log.write_bytes(b"1")
        with bound(tmp_path, source / "again", read_only=True) as disk, refused("FIELD_INVALID"):
            await import_from(service, disk / "invokeai")


async def test_the_settings_say_where_everything_is(service: InstallClient, source: Path) -> None:
    root = InvokeAI(source / "invokeai")
    config = root.add(1)
    key = config["key"]
    picture = root.picture(key)
    (source / "models").mkdir()
    for path in (root.models / key, picture.parent):
        path.rename(source / "models" / path.name)
    (root.path / "databases").rename(source / "else where?%20#")
    (root.path / "invokeai.yaml").write_text(
        f"schema_version: 4.0.2\nmodels_dir: {source}/models\ndb_dir: '{source}/else where?%20#'\n"
    )
    told = await import_from(service, root)
    assert (told.root.models_dir, told.counts.missing_count) == (str(source / "models"), 0)
    model = await service.model(key)
    assert (model.path, model.HasField("cover_image")) == (f"{source}/models/{config['path']}", True)


async def test_a_root_that_was_moved_takes_its_records_along(service: InstallClient, source: Path) -> None:
    root = InvokeAI(source / "invokeai")
    config = root.add(1)
    await import_from(service, root)
    root.path.rename(source / "elsewhere")
    told = await import_from(service, source / "elsewhere")
    assert list(told.models[0].changed_fields) == ["path"]
    model = await service.model(config["key"])
    assert model.path == str(source / "elsewhere" / "models" / config["path"])
    assert (await import_from(service, source / "elsewhere")).counts.unchanged_count == 1


async def test_models_that_are_installed_in_models_dir_are_relative_to_it(
    service: InstallClient, source: Path
) -> None:
    root = InvokeAI(source / "invokeai")
    config = root.add(1)
    (service.models / "invokeai").mkdir()
    (root.models / config["key"]).rename(service.models / "invokeai" / config["key"])
    (root.path / "invokeai.yaml").write_text(f"models_dir: {service.models}/invokeai\n")
    await import_from(service, root)
    model = await service.model(config["key"])
    assert (model.path, bool(model.root_id)) == (f"invokeai/{config['path']}", True)
    assert (await import_from(service, root)).counts.unchanged_count == 1


async def test_related_models_find_each_other_over_all_pages(service: InstallClient, source: Path) -> None:
    root = InvokeAI(source / "invokeai")
    root.insert(*(root.config(number) for number in range(1, 251)))
    root.relate(f"{1:032x}", f"{250:032x}")
    await import_from(service, root)
    assert list((await service.model(f"{1:032x}")).related_keys) == [f"{250:032x}"]
    assert list((await service.model(f"{250:032x}")).related_keys) == [f"{1:032x}"]
    assert (await import_from(service, root)).counts.unchanged_count == 250
    root.relate(f"{1:032x}", f"{2:032x}")
    assert (await import_from(service, root)).counts.updated_count >= 1
    assert list((await service.model(f"{2:032x}")).related_keys) == [f"{1:032x}"]
    # also with one that is new, and told of later
    root.add(300)
    root.relate(f"{1:032x}", f"{300:032x}")
    told = await import_from(service, root)
    assert (told.counts.updated_count, told.counts.new_count, told.counts.failed_count) == (1, 1, 0)
    related = [f"{number:032x}" for number in (2, 250, 300)]
    assert list((await service.model(f"{1:032x}")).related_keys) == related
    root.update(f"{1:032x}", name="renamed")
    assert (await import_from(service, root)).counts.updated_count == 1
    assert (await import_from(service, root)).counts.unchanged_count == 251


async def test_an_import_that_is_left_in_the_middle_is_gone_on_with(
    service: InstallClient, source: Path
) -> None:
    root = InvokeAI(source / "invokeai")
    root.insert(*(root.config(number) for number in range(1, 1001)))
    call = service.stub.ImportInvokeAI(pb.ImportInvokeAIRequest(root=str(root.path)))
    async for answer in call:
        if answer.HasField("models"):
            call.cancel()
            break
    told = await import_from(service, root)
    assert told.counts.unchanged_count >= 100
    assert told.counts.unchanged_count + told.counts.new_count == 1000
    assert await service.models_count() == 1000


async def test_a_record_service_that_restarts_only_holds_it_up(data_dir: Path, source: Path) -> None:
    root = InvokeAI(source / "invokeai")
    root.insert(*(root.config(number) for number in range(1, 301)))
    process = RecordProcess(data_dir)
    records = await process.start()
    async with install_beside(data_dir, records, f"127.0.0.1:{process.port}") as service:
        answers = []
        call = service.stub.ImportInvokeAI(pb.ImportInvokeAIRequest(root=str(root.path)))
        async for answer in call:
            answers.append(answer)
            if len(answers) == 2:
                await process.stop()
                records = await process.start()
        assert Told(answers).counts.total_count == 300
        count = await records.GetStoreInfo(record_pb.GetStoreInfoRequest())
        assert count.model_count == 300
    await process.stop()


def _bytes_of(folder: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }
