"""The original's ModelInstallService by its constructor, against a real suite."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.appconfig import AppConfig as FileConfig
from modelkeep.client import MODEL_EVENT, Client, ModelInstallService, ModelRecordStore
from modelkeep.exceptions import RootMismatchException, UnavailableException, UnknownModelException
from modelkeep.supervisor import Suite
from modelkeep_record.store import ModelRecordServiceBase
from support.installs import small_lora
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)


class Bus:
    """An event bus: keeps what is dispatched."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def dispatch(self, event_name: str, payload: Any) -> None:
        assert event_name == MODEL_EVENT
        self.events.append((payload["event"], payload["data"]))


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"services": ("record", "download", "install")}


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as opened:
        yield opened
        for job in opened.model_install.list_jobs():
            opened.model_install.delete_job(job)
        for config in opened.model_record_store.all_models():
            opened.model_install.unregister(config.key)


@pytest.fixture
def store(client: Client) -> ModelRecordStore:
    return client.model_record_store


@pytest.fixture
def sushi(tmp_path: Path) -> Path:
    return small_lora(tmp_path / "sushi.safetensors")


class AppConfig:
    """A configuration such as the original's, with what it has beside what is read."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.root = str(data_dir)
        self.models_path = data_dir / "models"
        self.autoimport_dir = "autoimport"
        self.precision = "float16"
        self.token_file: Path | None = None


def test_the_example_of_making_an_installer(suite: Suite, store: ModelRecordStore, sushi: Path) -> None:
    config = AppConfig(suite.data_dir)
    installer = ModelInstallService(config, store)
    installer.start(None)

    job = installer.install_model(sushi)
    source2job = installer.wait_for_installs()
    assert source2job == {sushi: job}
    assert job.status == "completed"
    assert job.config_out is not None
    key = job.config_out.key
    assert store.get_model(key).path == str(sushi)
    assert installer.get_job(sushi).id == job.id
    assert [found.id for found in installer.list_jobs("sushi")] == [job.id]
    assert installer.register_path(sushi) == key
    installer.unregister(key)
    copied = installer.install_path(sushi, {"name": "Sushi"})
    assert store.get_model(copied).name == "Sushi"
    installer.delete(copied)
    with pytest.raises(UnknownModelException):
        store.get_model(copied)
    assert sushi.exists()
    assert installer.unconditionally_delete(installer.register_path(sushi)) == [sushi]
    assert installer.prune_jobs() == 4
    assert installer.list_jobs() == []
    installer.close()


def test_the_parts_of_the_installer_are_its_properties(suite: Suite, store: ModelRecordStore) -> None:
    config, bus = AppConfig(suite.data_dir), Bus()
    with ModelInstallService(config, store, bus) as installer:
        assert installer.app_config is config
        assert installer.record_store is store
        assert installer.event_bus is bus
    with ModelInstallService(app_config=config, record_store=store, event_bus=None) as installer:
        assert installer.event_bus is None


def test_the_configuration_says_where_the_service_is(
    suite: Suite, store: ModelRecordStore, sushi: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELKEEP_DATA_DIR", str(tmp_path / "nobody"))
    with ModelInstallService(SimpleNamespace(), store) as installer, pytest.raises(UnavailableException):
        installer.start(None)
    at = SimpleNamespace(install_address=suite.addresses["install"], data_dir=None, models_path="")
    for config in (at, SimpleNamespace(data_dir=str(suite.data_dir))):
        with ModelInstallService(config, store) as installer:
            installer.start(None)
            assert store.exists(installer.register_path(sushi))
    monkeypatch.setenv("MODELKEEP_DATA_DIR", str(suite.data_dir))
    with ModelInstallService(object(), store) as installer:
        installer.start()


def test_a_models_path_that_is_not_the_services_is_told_at_the_start(
    suite: Suite, store: ModelRecordStore, tmp_path: Path
) -> None:
    config = AppConfig(suite.data_dir)
    config.models_path = tmp_path / "models"
    with ModelInstallService(config, store) as installer, pytest.raises(RootMismatchException) as raised:
        installer.start(None)
    assert str(suite.data_dir / "models") in str(raised.value)
    assert f"--models-dir {tmp_path / 'models'}" in raised.value.remedy


def test_the_configuration_of_an_application_makes_an_installer(
    suite: Suite, store: ModelRecordStore, sushi: Path, tmp_path: Path
) -> None:
    (tmp_path / "invokeai.yaml").write_text(f"models_dir: {suite.data_dir / 'models'}\n")
    config = FileConfig.get_config(root=tmp_path, data_dir=suite.data_dir)
    config.parse_args([])
    with ModelInstallService(config, store) as installer:
        installer.start(None)
        assert store.exists(installer.register_path(sushi))
    elsewhere: dict[str, Any] = {"root": tmp_path, "models_dir": "models", "data_dir": suite.data_dir}
    for other in (FileConfig(**elsewhere), SimpleNamespace(**elsewhere)):
        with ModelInstallService(other, store) as installer, pytest.raises(RootMismatchException):
            installer.start(None)


def test_an_installer_and_a_store_inside_the_application_have_the_same_records(
    suite: Suite, store: ModelRecordStore, sushi: Path, tmp_path: Path
) -> None:
    config = FileConfig(
        root=tmp_path,
        models_dir=suite.data_dir / "models",
        model_config_db=suite.data_dir / "record" / "record.db",
        data_dir=suite.data_dir,
    )
    embedded: Any = ModelRecordServiceBase.open(config)
    with embedded, ModelInstallService(config, embedded) as installer:
        installer.start(None)
        job = installer.install_model(sushi)
        installer.wait_for_installs()
        assert job.config_out is not None
        key, path = job.config_out.key, suite.data_dir / "models" / job.config_out.path
        # Its digests may just be noted, with a revision of their own.
        assert embedded.get_model(key).name == store.get_model(key).name == job.config_out.name
        assert embedded.search_by_path(path).key == store.search_by_path(path).key == key
        embedded.update_model(key, {"description": "changed beside the service"})
        assert store.get_model(key).description == "changed beside the service"


def test_events_reach_the_bus_of_the_installer_from_its_start_on(
    client: Client, suite: Suite, store: ModelRecordStore, sushi: Path
) -> None:
    bus = Bus()
    with ModelInstallService(AppConfig(suite.data_dir), store, bus) as installer:
        installer.start(None)
        key = client.model_install.register_path(sushi)  # by another client
        wait_until(lambda: len(bus.events) == 2, "two events")
    assert [name for name, _ in bus.events] == ["model_install_started", "model_install_completed"]
    assert bus.events[1][1]["key"] == key


def test_a_forgotten_installer_leaves_no_thread(suite: Suite, store: ModelRecordStore) -> None:
    before = set(threading.enumerate())
    installer = ModelInstallService(AppConfig(suite.data_dir), store, Bus())
    installer.start(None)
    assert set(threading.enumerate()) - before
    del installer
    gc.collect()
    deadline = time.monotonic() + 20
    while left := [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
