"""The original's ModelLoadService, example by example, through the Python client against a real suite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from modelkeep.client import MODEL_EVENT, Client
from modelkeep.exceptions import (
    FieldInvalidException,
    InvalidModelException,
    ModelNotFoundException,
    SubmodelRequiredException,
    UnknownModelException,
)
from modelkeep.loader.v1 import resident_pb2
from modelkeep.supervisor import Suite
from modelkeep.taxonomy import BaseModelType, ModelType, SubModelType
from support import modelshapes

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    # The loader's helper imports its libraries while the pipeline is made.
    return {"services": ("record", "install", "loader"), "env": {"MODELKEEP_LOADER_WARM_HELPER": "true"}}


@pytest.fixture(scope="module")
def events() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture(scope="module")
def client(suite: Suite, events: list[tuple[str, dict[str, Any]]]) -> Iterator[Client]:
    class Bus:
        def dispatch(self, event_name: str, payload: Any) -> None:
            assert event_name == MODEL_EVENT
            if payload["event"].startswith("model_load"):
                events.append((payload["event"], payload["data"]))

    with Client(data_dir=suite.data_dir, event_bus=Bus()) as opened:
        yield opened


@pytest.fixture(scope="module")
def key(client: Client, suite: Suite) -> str:
    """A main model: a whole pipeline, in small."""
    from support import tinymodels

    path = tinymodels.save_pipeline(suite.data_dir.parent / "tiny")
    job = client.model_install.import_model(path, config={"base_model": "sd-1", "model_type": "main"})
    client.model_install.wait_for_installs(timeout=30)
    assert job.status == "completed", job.error
    return job.model_key


@pytest.mark.long
def test_a_submodel_is_loaded_locked_while_in_scope_and_used(client: Client, suite: Suite, key: str) -> None:
    loader = client.model_loader
    latents = torch.zeros(1, 4, 2, 2)
    model_info = loader.get_model(key, SubModelType("vae"))
    assert loader.leases() == []
    with model_info as vae:
        image = vae.decode(latents)[0]
        assert [lease.components[0].key for lease in loader.leases()] == [key]
    assert loader.leases() == []
    assert image.shape == (1, 3, 16, 16)
    assert (model_info.key, model_info.name) == (key, "tiny")
    assert model_info.base_model is BaseModelType.StableDiffusion1
    assert model_info.type is SubModelType.VAE
    assert model_info.location == suite.data_dir.parent / "tiny"
    assert model_info.precision is torch.float32
    with model_info.context as again:  # what locks it, on its own
        assert again.dtype is torch.float32


def test_what_cannot_be_assembled_here_leaves_no_lease_behind(
    client: Client, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misfit(descriptor: int, part: object) -> torch.nn.Module:
        raise InvalidModelException("another version of diffusers")

    monkeypatch.setattr("modelkeep.worker._parts.attach", misfit)
    model_info = client.model_loader.get_model(key, SubModelType.VAE)
    with pytest.raises(InvalidModelException, match="another version"):
        model_info.__enter__()
    assert client.model_loader.leases() == []


def test_a_main_model_needs_a_submodel(client: Client, key: str) -> None:
    with pytest.raises(SubmodelRequiredException):
        client.model_loader.get_model(key)


def test_components_are_brought_into_memory_by_one_name_or_by_several(client: Client, key: str) -> None:
    by_name = client.model_loader.load(key, "unet")
    by_names = client.model_loader.load(key, ["unet", SubModelType.VAE])
    assert [resident.class_name for resident in by_name] == ["UNet2DConditionModel"]
    assert [resident.class_name for resident in by_names] == ["UNet2DConditionModel", "AutoencoderKL"]


def test_a_model_is_kept_and_memory_reserved_as_whoever_gets_it_says(client: Client, key: str) -> None:
    loader = client.model_loader
    with pytest.raises(FieldInvalidException, match="keep_alive"):
        loader.get_model(key, "vae", keep_alive=float("nan"))
    with pytest.raises(FieldInvalidException, match="activation_bytes"):
        loader.get_model(key, "vae", activation_bytes=cast("int", 0.5))
    with loader.get_model(key, "vae", keep_alive=3600, activation_bytes=12_345):
        assert [lease.activation_bytes for lease in loader.leases()] == [12_345]
    (vae,) = [one for one in loader.residents(key) if one.class_name == "AutoencoderKL"]
    assert vae.keep_until_time.seconds > time.time() + 3000
    with loader.get_model(key, "vae", keep_alive=0):
        assert [lease.activation_bytes for lease in loader.leases()] == [0]
    # It goes as soon as this process maps it no more.
    assert all(
        one.keep_until_time.seconds <= time.time()
        for one in loader.residents(key)
        if one.class_name == "AutoencoderKL"
    )


def test_estimates_and_pins_are_of_the_form_that_is_named(client: Client, key: str) -> None:
    loader = client.model_loader
    (whole,) = loader.estimate(key, "unet").components
    (float8,) = loader.estimate(key, "unet", weights="float8").components
    assert float8.size_bytes < whole.size_bytes
    (last,) = loader.estimate(key, "unet", memory_format="channels_last").components
    assert last.component.memory_format == resident_pb2.MEMORY_FORMAT_CHANNELS_LAST
    loader.pin(key, "unet", weights="float8")
    loader.pin(key, "unet", memory_format="channels_last")
    assert loader.unpin(key, "unet", weights="stored") == []
    assert len(loader.unpin(key, "unet", memory_format="channels_last")) == 1
    (left,) = loader.unpin(key, "unet")
    assert left.weights == resident_pb2.WEIGHT_FORM_FLOAT8


def test_events_of_loading_carry_the_payload(
    client: Client, suite: Suite, key: str, events: list[tuple[str, dict[str, Any]]]
) -> None:
    context = SimpleNamespace(
        queue_id="default", queue_item_id=3, queue_batch_id="b", graph_execution_state_id="g"
    )
    events.clear()
    client.model_loader.get_model(key, SubModelType("vae"))
    assert events == []  # without a context nobody is told
    model_info = client.model_loader.get_model(key, SubModelType("vae"), context)
    payload = {
        "queue_id": "default",
        "queue_item_id": 3,
        "queue_batch_id": "b",
        "graph_execution_state_id": "g",
        "model_key": key,
        "submodel": "vae",
        "hash": model_info.hash,
        "location": str(model_info.location),
        "precision": "torch.float32",
    }
    assert [name for name, _ in events] == ["model_load_started", "model_load_completed"]
    for _, data in events:
        assert data.pop("timestamp") > 0
        assert data == payload
    assert model_info.hash == client.model_record_store.get_model(key).current_hash


def test_events_go_to_the_bus_of_the_context_if_it_has_one(
    client: Client, key: str, events: list[tuple[str, dict[str, Any]]]
) -> None:
    heard: list[tuple[str, Any]] = []

    class Events:
        def dispatch(self, event_name: str, payload: Any) -> None:
            heard.append((event_name, payload))

    context = SimpleNamespace(queue_id="default", services=SimpleNamespace(events=Events()))
    events.clear()
    client.model_loader.get_model(key, context, submodel_type="vae")
    assert [name for name, _ in heard] == ["queue_event", "queue_event"]
    assert [payload["event"] for _, payload in heard] == ["model_load_started", "model_load_completed"]
    for _, payload in heard:
        data = payload["data"]
        assert (data["queue_id"], data["model_key"], data["submodel"]) == ("default", key, "vae")
        assert (data["queue_item_id"], data["precision"]) == (None, "torch.float32")
        assert data["timestamp"] > 0
    assert events == []  # and not to the client's too


def test_get_model_has_both_forms_of_the_original(client: Client, key: str) -> None:
    loader = client.model_loader
    context = SimpleNamespace(queue_id="default")
    forms = [
        loader.get_model(key, "vae", context),
        loader.get_model(key, context, submodel_type=SubModelType.VAE),
        loader.get_model(key, context=context, submodel="vae"),
        loader.get_model(key=key, submodel_type="vae"),
    ]
    assert [info.type for info in forms] == [SubModelType.VAE] * 4
    assert len({info.location for info in forms}) == 1
    with pytest.raises(TypeError):
        loader.get_model(key, "vae", submodel_type="unet")


def test_what_get_model_raises(client: Client, tmp_path: Path) -> None:
    loader, store = client.model_loader, client.model_record_store
    with pytest.raises(UnknownModelException):
        loader.get_model("0" * 32)
    vae = {"name": "vae", "model_type": "vae", "model_format": "checkpoint", "base_model": "sd-1"}
    gone = store.add_model(None, {**vae, "path": tmp_path / "gone.safetensors"})
    with pytest.raises(ModelNotFoundException):
        loader.get_model(gone.key)
    sinner = tmp_path / "sinner.safetensors"
    sinner.write_text("this is no model")
    guilty = store.add_model(None, {**vae, "path": sinner})
    with pytest.raises(InvalidModelException):
        loader.get_model(guilty.key)
    lora = modelshapes.write_safetensors(tmp_path / "l.safetensors", modelshapes.table("lora.sd-1.peft"))
    wrong = store.add_model(None, {**vae, "path": lora})
    with pytest.raises(InvalidModelException):
        loader.get_model(wrong.key)


def test_the_type_of_a_model_that_is_one_component_is_its_model_type(
    client: Client, suite: Suite, key: str
) -> None:
    job = client.model_install.import_model(
        suite.data_dir.parent / "tiny" / "vae", config={"base_model": "sd-1"}
    )
    client.model_install.wait_for_installs(timeout=30)
    assert job.status == "completed", job.error
    model_info = client.model_loader.get_model(job.model_key)
    assert model_info.type is ModelType.Vae


def test_the_workers_face_has_the_types_of_get_model(client: Client, key: str) -> None:
    from modelkeep.worker import ModelInfo

    info = client.model_loader.get_model(key, SubModelType("vae"))
    assert type(info) is ModelInfo
    assert type(info.type) is SubModelType


def test_the_vae_of_a_record_may_be_relative_to_models_dir(client: Client, suite: Suite, key: str) -> None:
    from support import tinymodels

    folder = suite.data_dir.parent / "other-vae"
    tinymodels.vae(seed=99).save_pretrained(folder)
    installer, store = client.model_install, client.model_record_store
    installed = installer.import_model(folder, inplace=False, config={"base_model": "sd-1"})
    installer.wait_for_job(installed, timeout=30)
    assert installed.config_out is not None, installed.error
    relative = installed.config_out.path
    assert not Path(relative).is_absolute()
    with client.model_loader.get_model(key, "vae") as vae:
        built_in = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    for path in (relative, str(suite.data_dir / "models" / relative)):
        store.update_model(key, {"vae": path})
        try:
            with client.model_loader.get_model(key, "vae") as vae:
                state = vae.state_dict()
                expected = tinymodels.vae(seed=99).state_dict()
                assert state.keys() == expected.keys()
                assert all(torch.equal(state[name], expected[name]) for name in expected)
                assert any(not torch.equal(state[name], built_in[name]) for name in expected)
        finally:
            store.update_model(key, {"vae": None})
