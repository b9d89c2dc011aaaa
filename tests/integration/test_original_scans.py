"""The original's scan_directory, sync_to_config and start, through the Python client against a real suite."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.client import AsyncClient, Client, FindingKind, ModelInstallService
from modelkeep.exceptions import ManyMissingException, SourceNotFoundException, UnknownModelException
from modelkeep.supervisor import Suite
from support import modelshapes
from support.installs import small_lora

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def auto() -> Iterator[Path]:
    """The autoimport directory."""
    with tempfile.TemporaryDirectory(prefix="mk-auto-") as folder:
        yield Path(os.path.realpath(folder))


@pytest.fixture(scope="module")
def suite_options(auto: Path) -> dict[str, Any]:
    return {
        "services": ("record", "download", "install"),
        "env": {"MODELKEEP_INSTALL_AUTOIMPORT_DIRS": f'["{auto}"]'},
    }


@pytest.fixture
def client(suite: Suite, auto: Path) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as opened:
        yield opened
        for config in opened.model_record_store.all_models():
            opened.model_install.unconditionally_delete(config.key)


def lora(path: Path, number: int) -> Path:
    return small_lora(path, metadata={"number": str(number)})


def test_scan_directory_registers_new_models_and_the_keys_come_back(client: Client, tmp_path: Path) -> None:
    installer = client.model_install
    known = installer.register_path(lora(tmp_path / "known.safetensors", 0))
    lora(tmp_path / "loras" / "ink.safetensors", 1)
    modelshapes.write_pipeline(tmp_path / "main" / "tiny", "sd-1")
    keys = installer.scan_directory(tmp_path)
    found = {client.model_record_store.get_model(key).name: key for key in keys}
    assert found.keys() == {"ink", "tiny"}
    assert known not in keys
    assert all(Path(client.model_record_store.get_model(key).path).is_absolute() for key in keys)
    assert installer.scan_directory(tmp_path) == []


def test_scan_directory_installs_new_models_in_the_models_directory(
    client: Client, suite: Suite, tmp_path: Path
) -> None:
    lora(tmp_path / "ink.safetensors", 2)
    [key] = client.model_install.scan_directory(scan_dir=tmp_path, install=True)
    assert client.model_record_store.get_model(key).path == f"{key}/ink.safetensors"
    assert (suite.data_dir / "models" / key / "ink.safetensors").is_file()
    assert (tmp_path / "ink.safetensors").is_file()


def test_a_relative_folder_is_the_callers_and_one_that_is_not_there_is_an_error(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora(tmp_path / "here" / "ink.safetensors", 3)
    monkeypatch.chdir(tmp_path)
    assert len(client.model_install.scan_directory("here")) == 1
    with pytest.raises(SourceNotFoundException):
        client.model_install.scan_directory("nothing")


def test_sync_to_config_registers_what_is_new_and_unregisters_orphans(
    client: Client, suite: Suite, auto: Path
) -> None:
    installer, records = client.model_install, client.model_record_store
    orphan = installer.register_path(lora(auto / "gone.safetensors", 4))
    stays = installer.register_path(lora(auto / "stays.safetensors", 5))
    lora(auto / "new.safetensors", 6)
    lora(suite.data_dir / "models" / "by-hand" / "inside.safetensors", 7)
    (auto / "gone.safetensors").unlink()
    installer.sync_to_config()
    with pytest.raises(UnknownModelException):
        records.get_model(orphan)
    names = {config.name: config.path for config in records.all_models()}
    assert names == {
        "stays": str(auto / "stays.safetensors"),
        "new": str(auto / "new.safetensors"),
        "inside": "by-hand/inside.safetensors",
    }
    assert records.get_model(stays).name == "stays"


def test_sync_to_config_keeps_the_records_of_a_disk_that_is_away(
    client: Client, auto: Path, tmp_path: Path
) -> None:
    disk = auto / "disk"
    keys = [client.model_install.register_path(lora(disk / f"{n}.safetensors", n)) for n in range(2)]
    disk.rename(tmp_path / "away")
    with pytest.raises(ManyMissingException) as raised:
        client.model_install.sync_to_config()
    assert "force" in raised.value.remedy
    assert {config.key for config in client.model_record_store.all_models()} == set(keys)
    client.model_install.sync_to_config(force=True)
    assert client.model_record_store.all_models() == []


def test_start_syncs_the_models_directory_and_the_autoimport_directory(
    client: Client, suite: Suite, auto: Path
) -> None:
    lora(auto / "while-away.safetensors", 8)
    suite.kill("install")
    suite.restart("install")
    installer = client.model_install
    newest = max(installer.list_scans(), key=lambda scan: scan.id)
    assert newest.message.at_start
    assert installer.wait_for_scan(newest, timeout=30).state == "completed"
    assert [config.name for config in client.model_record_store.all_models()] == ["while-away"]


def test_the_start_of_an_installer_syncs(client: Client, suite: Suite, auto: Path) -> None:
    lora(auto / "before-start.safetensors", 9)
    installer = ModelInstallService(SimpleNamespace(data_dir=suite.data_dir), client.model_record_store)
    with installer:
        installer.start(invoker=None)
        assert installer.wait_for_scan(installer.list_scans()[0]).state == "completed"
    assert [config.name for config in client.model_record_store.all_models()] == ["before-start"]


async def test_a_scan_is_a_job_that_is_looked_at_and_cancelled(
    suite: Suite, client: Client, tmp_path: Path
) -> None:
    for number in range(3):
        lora(tmp_path / f"{number}.safetensors", number)
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    async with AsyncClient(data_dir=suite.data_dir) as opened:
        installer = opened.model_install
        scan = await installer.scan(tmp_path, validate_only=True, labels={"run": "7"})
        assert (scan.path, dict(scan.message.labels)) == (tmp_path, {"run": "7"})
        done = await installer.wait_for_scan(scan)
        assert (done.state, done.exception, done.counts["new"], done.counts["unknown"]) == (
            "completed",
            None,
            3,
            1,
        )
        [unknown] = await installer.scan_findings(scan, ["unknown"])
        assert unknown.kind is FindingKind.UNKNOWN
        assert unknown.path == str(tmp_path / "broken.safetensors")
        assert unknown.exception is not None
        assert unknown.exception.reason == "INVALID_MODEL"
        assert len(await installer.scan_findings(scan.id)) == 4
        assert (await installer.get_scan(scan.id)).ended
        sync = await installer.sync(validate_only=True)
        assert (await installer.wait_for_scan(sync)).state == "completed"
