"""The original's ModelLoadService, made from an app configuration and a record store as in its example."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from modelkeep.client import AppConfig, Client, ModelLoadService
from modelkeep.exceptions import (
    FieldInvalidException,
    ModelNotFoundException,
    RoleRequiredException,
    SubmodelRequiredException,
    UnknownModelException,
)
from modelkeep.suitefile import token_path
from modelkeep.taxonomy import SubModelType
from modelkeep.worker import verify_attachment
from modelkeep_record.store import ModelRecordServiceBase
from support import tinymodels
from support.suite import service_suite

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def root(folder: Path) -> Path:
    """An application's folder, with a main model in its folder of models and another one elsewhere."""
    root = folder / "app"
    (root / "models").mkdir(parents=True)
    (root / "invokeai.yaml").write_text("InvokeAI:\n  Model Cache:\n    ram: 2.0\n    precision: bfloat16\n")
    tinymodels.save_pipeline(root / "models" / "tiny")
    tinymodels.save_vae_file(folder / "elsewhere.safetensors", seed=9)
    return root


@pytest.fixture(scope="module")
def config(root: Path) -> AppConfig:
    return AppConfig.get_config(root=root)


@pytest.fixture(scope="module")
def store(config: AppConfig) -> Iterator[ModelRecordServiceBase]:
    with ModelRecordServiceBase.open(config) as opened:
        yield opened


@pytest.fixture(scope="module")
def key(store: ModelRecordServiceBase) -> str:
    values = {"name": "tiny", "path": "tiny", "base_model": "sd-1", "current_hash": "abc"}
    return store.add_model(None, {**values, "model_type": "main", "model_format": "diffusers"}).key


@pytest.fixture(scope="module")
def loader(config: AppConfig, store: ModelRecordServiceBase, key: str) -> Iterator[ModelLoadService]:
    """The example's, made without any service that runs."""
    with ModelLoadService(config, store) as made:
        yield made


@pytest.mark.long
def test_the_originals_example_loads_a_model_where_no_service_runs(
    loader: ModelLoadService, config: AppConfig, store: ModelRecordServiceBase, root: Path, key: str
) -> None:
    assert (loader.app_config, loader.record_store) == (config, store)
    model_info = loader.get_model(key, SubModelType("vae"))
    assert (model_info.name, model_info.hash) == ("tiny", "abc")
    assert model_info.location == root / "models" / "tiny"
    assert model_info.precision is torch.bfloat16  # as the configuration says
    with model_info as vae:
        assert len(loader.leases()) == 1
        image = vae.decode(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16))[0]
        verify_attachment(vae)
    assert loader.leases() == []
    theirs = AutoencoderKL.from_pretrained(root / "models" / "tiny" / "vae", dtype=torch.bfloat16)
    assert torch.equal(image, theirs.decode(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16))[0])
    (ram,) = [tier for tier in loader.capacity().tiers if tier.budget_bytes == 2 << 30]
    assert ram.used_bytes > 0
    with loader.get_pipeline(key, precision="float32") as pipeline:
        assert pipeline.unet.dtype is torch.float32


def test_events_go_to_the_bus_of_the_invocation(loader: ModelLoadService, key: str) -> None:
    heard: list[str] = []

    class Events:
        def dispatch(self, event_name: str, payload: Any) -> None:
            assert event_name == "queue_event"
            assert payload["data"]["graph_execution_state_id"] == "g"
            heard.append(payload["event"])

    services = SimpleNamespace(events=Events())
    context = SimpleNamespace(graph_execution_state_id="g", services=services)
    loader.get_model(key, SubModelType("vae"), context)
    assert heard == ["model_load_started", "model_load_completed"]


def test_it_raises_what_the_original_raises(
    loader: ModelLoadService, store: ModelRecordServiceBase, key: str, folder: Path
) -> None:
    with pytest.raises(UnknownModelException):
        loader.get_model("0" * 32)
    with pytest.raises(SubmodelRequiredException):
        loader.get_model(key)
    kind = {"model_type": "vae", "model_format": "checkpoint", "base_model": "sd-1"}
    gone = store.add_model(None, {"name": "gone", "path": folder / "gone.safetensors", **kind})
    with pytest.raises(ModelNotFoundException):
        loader.get_model(gone.key)


def test_records_are_read_as_they_are_now(
    loader: ModelLoadService, store: ModelRecordServiceBase, key: str, folder: Path
) -> None:
    kind = {"model_type": "vae", "model_format": "checkpoint", "base_model": "sd-1"}
    other = store.add_model(None, {"name": "other", "path": folder / "elsewhere.safetensors", **kind})
    with loader.get_model(other.key, precision="float32") as vae:
        expected = vae.state_dict()
        store.update_model(key, {"vae": str(folder / "elsewhere.safetensors")})
        with loader.get_model(key, "vae", precision="float32") as chosen:
            state = chosen.state_dict()
            assert all(torch.equal(state[name], expected[name]) for name in expected)
    store.del_model(other.key)
    with pytest.raises(UnknownModelException):
        loader.get_model(other.key)


def test_what_was_resident_of_a_removed_model_goes(
    loader: ModelLoadService, store: ModelRecordServiceBase, folder: Path
) -> None:
    tinymodels.save_vae_file(folder / "short-lived.safetensors", seed=31)
    kind = {"model_type": "vae", "model_format": "checkpoint", "base_model": "sd-1"}
    key = store.add_model(None, {"name": "short", "path": folder / "short-lived.safetensors", **kind}).key
    loader.get_model(key)
    assert len(loader.residents(key)) == 1
    store.del_model(key)
    watch = threading.Event()
    for _ in range(200):
        if not loader.residents(key):
            break
        watch.wait(0.1)
    assert loader.residents(key) == []


@pytest.mark.long
def test_several_loaders_work_side_by_side_and_leave_nothing(
    config: AppConfig, store: ModelRecordServiceBase, loader: ModelLoadService, key: str
) -> None:
    before = set(Path(tempfile.gettempdir()).glob("modelkeep-*"))
    threads = set(threading.enumerate())
    with ModelLoadService(config, store) as second, second.get_model(key, "vae") as vae:
        assert (len(second.leases()), len(loader.leases())) == (1, 0)
        assert len(second.residents()) == 1
    assert vae.decode(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16))[0].shape == (1, 3, 16, 16)
    assert set(Path(tempfile.gettempdir()).glob("modelkeep-*")) == before
    assert {thread.name for thread in set(threading.enumerate()) - threads if thread.is_alive()} <= {
        "modelkeep hold"
    }
    assert loader.get_model(key, "vae").precision is torch.bfloat16


@pytest.mark.long
def test_a_connection_of_the_applications_own_will_do(config: AppConfig, root: Path, key: str) -> None:
    connection = sqlite3.connect(config.db_path, check_same_thread=False)
    lock = threading.RLock()
    store = ModelRecordServiceBase.open(config, connection, lock)
    with ModelLoadService(config, store) as loader, loader.get_model(key, "vae") as vae:
        assert vae.dtype is torch.bfloat16
    store.close()
    connection.close()


def test_the_configurations_device_is_asked_for(root: Path, store: ModelRecordServiceBase, key: str) -> None:
    with ModelLoadService(SimpleNamespace(device="cpu", models_path=root / "models"), store) as loader:
        assert loader.get_model(key, "vae").device.type == "cpu"
    with (
        ModelLoadService(SimpleNamespace(device="cuda:7", models_path=root / "models"), store) as loader,
        pytest.raises(FieldInvalidException, match="no device cuda:7: it has cpu"),
    ):
        loader.get_model(key, "vae")


def test_a_precision_that_is_none_is_refused(store: ModelRecordServiceBase) -> None:
    with pytest.raises(FieldInvalidException, match="float8"):
        ModelLoadService(SimpleNamespace(precision="float8", root="."), store)


@pytest.mark.long
def test_with_the_records_of_a_suite_the_suite_loads(root: Path) -> None:
    environment = {"MODELKEEP_LOADER_ALLOW_ANY_IMPORT_ROOT": "true"}
    with service_suite(services=("record", "loader"), env=environment) as suite:
        named = SimpleNamespace(data_dir=suite.data_dir, precision="float16")
        with Client(data_dir=suite.data_dir) as client:
            values = {"name": "vae", "path": root / "models" / "tiny" / "vae", "base_model": "sd-1"}
            kind = {"model_type": "vae", "model_format": "diffusers"}
            key = client.model_record_store.add_model(None, {**values, **kind}).key
            with (
                ModelLoadService(named, client.model_record_store) as loader,
                loader.get_model(key) as vae,
            ):
                assert vae.dtype is torch.float16
                assert len(client.model_loader.leases()) == 1
            assert client.model_loader.leases() == []
            assert len(client.model_loader.residents(key)) == 1  # it goes on when the object is closed
            # Over TCP, by address and token, whatever store the records are read from here.
            token = suite.data_dir / "token-of-a-worker"
            token.write_text(token_path(suite.data_dir).read_text())
            token.chmod(0o600)
            far = SimpleNamespace(loader_address=suite.over_tcp["loader"], token_file=token)
            with ModelLoadService(far, object()) as loader, loader.get_model(key) as vae:
                assert vae.dtype is torch.float32
            nobody = SimpleNamespace(loader_address=suite.over_tcp["loader"])
            with ModelLoadService(nobody, object()) as loader, pytest.raises(RoleRequiredException):
                loader.get_model(key)
