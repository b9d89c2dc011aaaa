"""The original's ModelRecordService, example by example: of a real suite by the client, and embedded."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from modelkeep.client import Client, ModelRecordStore
from modelkeep.configs import (
    BaseModelType,
    CheckpointConfig,
    IPAdapterConfig,
    LoRAConfig,
    MainCheckpointConfig,
    MainConfig,
    MainDiffusersConfig,
    ModelConfigBase,
    ModelFormat,
    ModelType,
    ModelVariantType,
    ONNXSD2Config,
    SchedulerPredictionType,
    VaeCheckpointConfig,
    VaeDiffusersConfig,
)
from modelkeep.exceptions import (
    DuplicateModelException,
    FieldInvalidException,
    InvalidModelConfigException,
    UnknownModelException,
)
from modelkeep.supervisor import Suite
from modelkeep_record.store import ModelRecordServiceBase, ModelRecordServiceSQL
from support import applicationdb

KEY = "f13dd932c0c35c22dcb8d6cda4203764"
PATH = "/data/models/ckpts/v1-5-pruned-emaonly.safetensors"
V1_5: dict[str, Any] = {
    "name": "stable-diffusion-v1-5",
    "model_type": "main",
    "model_format": "checkpoint",
    "base_model": "sd-1",
    "path": PATH,
    "original_hash": "b6d1f3c4",
    "current_hash": "b6d1f3c4",
    "description": "Stable Diffusion 1.5",
    "source": "https://example.com/v1-5-pruned-emaonly.safetensors",
    "config": "configs/stable-diffusion/v1-inference.yaml",
    "vae": "sd-1/vae/ft-mse",
    "variant": "normal",
}


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"services": ("record", "install")}


#: The original's methods over gRPC, and in this process: in files of both kinds, and in an
#: application's database.
KINDS = ("service", "database", "connection", "file")
Store: TypeAlias = ModelRecordStore | ModelRecordServiceBase


@pytest.fixture
def client_store(suite: Suite) -> Iterator[ModelRecordStore]:
    """An empty store of the suite: what a test adds goes after it."""
    with Client(data_dir=suite.data_dir) as client:
        yield client.model_record_store
        for config in client.model_record_store.all_models():
            client.model_record_store.del_model(config.key)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "service":
        yield request.getfixturevalue("client_store")
    elif request.param == "connection":
        path = applicationdb.make(tmp_path / "invokeai.db")
        with contextlib.closing(sqlite3.connect(path)) as connection:
            yield ModelRecordServiceSQL.from_connection(connection, threading.Lock())
    else:
        ending = ".yaml" if request.param == "file" else ".db"
        with ModelRecordServiceBase.from_db_file(tmp_path / f"records{ending}") as opened:
            yield opened


def lora(name: str, path: str, **fields: Any) -> dict[str, Any]:
    kind = {"model_type": "lora", "model_format": "lycoris", "base_model": "sd-1"}
    return {**kind, "name": name, "path": path, **fields}


def test_a_database_file_that_is_not_there_is_made_and_initialized(
    suite: Suite, client_store: ModelRecordStore
) -> None:
    assert (suite.data_dir / "record" / "record.db").is_file()
    assert client_store.all_models() == []
    assert client_store.store_info().backend == "sqlite"


def test_get_model_returns_the_subclass_with_every_field_of_the_table(store: Store) -> None:
    store.add_model(KEY, V1_5)
    model_conf = store.get_model("f13dd932c0c35c22dcb8d6cda4203764")
    assert model_conf.path == "/data/models/ckpts/v1-5-pruned-emaonly.safetensors"
    assert isinstance(model_conf, MainCheckpointConfig)
    assert isinstance(model_conf, ModelConfigBase)
    assert isinstance(model_conf, CheckpointConfig)
    assert isinstance(model_conf, MainConfig)
    assert model_conf.key == KEY
    assert model_conf.model_type is ModelType.Main
    assert model_conf.model_format is ModelFormat("checkpoint")
    assert model_conf.base_model is BaseModelType.StableDiffusion1
    assert model_conf.variant is ModelVariantType.Normal
    given = model_conf.model_dump(mode="json")
    assert {name: given[name] for name in V1_5} == V1_5


def test_an_unrecognized_key_raises_and_exists_tells(store: Store) -> None:
    store.add_model(KEY, V1_5)
    assert store.exists(KEY) is True
    assert store.exists("0" * 32) is False
    with pytest.raises(UnknownModelException):
        store.get_model("0" * 32)


def test_a_key_is_32_random_characters_when_none_is_given(store: Store) -> None:
    keys = {store.add_model(None, lora("same name", f"/{number}")).key for number in range(3)}
    assert len(keys) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}", key) for key in keys)


def test_a_transformed_model_keeps_its_original_hash(store: Store) -> None:
    store.add_model(KEY, V1_5)
    changed = store.update_model(KEY, {"current_hash": "after conversion"})
    assert (changed.original_hash, changed.current_hash) == ("b6d1f3c4", "after conversion")
    with pytest.raises(FieldInvalidException):
        store.update_model(KEY, {"original_hash": "another"})


def test_search_by_path_compares_the_text_of_the_path(store: Store, tmp_path: Path) -> None:
    real = tmp_path / "model.safetensors"
    real.touch()
    link = tmp_path / "link.safetensors"
    link.symlink_to(real)
    made = store.add_model(None, lora("by path", str(real)))
    assert store.search_by_path(str(real)) == made
    with pytest.raises(UnknownModelException):
        store.search_by_path(link)


def test_search_by_name_matches_any_combination(store: Store) -> None:
    one = store.add_model(None, lora("style", "/1"))
    two = store.add_model(None, lora("style", "/2", base_model="sdxl"))
    three = store.add_model(None, {**V1_5, "name": "style"})
    four = store.add_model(None, lora("other", "/4"))

    def keys(*arguments: Any, **named: Any) -> set[str]:
        return {config.key for config in store.search_by_name(*arguments, **named)}

    assert keys("style") == {one.key, two.key, three.key}
    assert keys("style", BaseModelType.StableDiffusion1) == {one.key, three.key}
    assert keys("style", BaseModelType.StableDiffusion1, ModelType.LoRA) == {one.key}
    assert keys(base=BaseModelType.StableDiffusion1, type=ModelType.LoRA) == {one.key, four.key}
    assert keys(type=ModelType.Main) == {three.key}
    assert keys("nobody") == set()
    assert keys() == {one.key, two.key, three.key, four.key}
    assert store.all_models() == store.search_by_name()


def test_search_by_tag_wants_all_of_the_tags(store: Store) -> None:
    both = store.add_model(None, lora("hills", "/1", tags=["sfw", "scenery", "green"]))
    store.add_model(None, lora("cats", "/2", tags=["sfw"]))
    store.add_model(None, lora("bare", "/3"))
    # find all models that are marked as both SFW and as generating background scenery
    configs = store.search_by_tag(["sfw", "scenery"])
    assert configs == [both]


def test_other_fields_are_searched_by_a_filter_over_all_models(store: Store) -> None:
    for_sale = store.add_model(None, lora("a", "/1", license="allowCommercialUse=Sell;allowDerivatives=true"))
    store.add_model(None, lora("b", "/2", license="allowCommercialUse=None"))
    store.add_model(None, lora("c", "/3"))
    commercializable_models = [
        x for x in store.all_models() if x.license.contains("allowCommercialUse=Sell")
    ]  # fmt: skip
    assert commercializable_models == [for_sale]


def test_the_version_of_the_database_is_3_2(store: Store) -> None:
    assert store.version() == "3.2"


def test_model_info_by_name_wants_exactly_one_model(store: Store) -> None:
    foo = store.add_model(None, lora("my_model", "/foo/my_model"))
    assert store.model_info_by_name("my_model", BaseModelType("sd-1"), ModelType("lora")) == foo
    store.add_model(None, lora("my_model", "/bar/my_model"))
    with pytest.raises(DuplicateModelException):
        store.model_info_by_name("my_model", BaseModelType("sd-1"), ModelType("lora"))
    with pytest.raises(UnknownModelException):
        store.model_info_by_name("my_model", BaseModelType("sd-2"), ModelType("lora"))
    # What the original recommends instead: several results, then get_model by key.
    found = store.search_by_name("my_model", BaseModelType("sd-1"), ModelType("lora"))
    assert {store.get_model(config.key).path for config in found} == {"/foo/my_model", "/bar/my_model"}


def test_add_model_takes_an_object_or_a_dict_whose_class_is_found(store: Store) -> None:
    config = VaeDiffusersConfig(name="object", path="/vae", base_model=BaseModelType.Any)
    added = store.add_model(KEY, config)
    assert isinstance(added, VaeDiffusersConfig)
    assert (added.key, added.name, config.key) == (KEY, "object", "")
    by_dict = {"name": "dict", "path": "/vae.safetensors", "model_type": "vae", "base_model": "any"}
    found = store.add_model(None, {**by_dict, "model_format": "checkpoint"})
    assert isinstance(found, VaeCheckpointConfig)
    assert store.get_model(found.key) == found


def test_add_model_refuses_a_taken_key_and_an_invalid_dict(store: Store) -> None:
    store.add_model(KEY, V1_5)
    with pytest.raises(DuplicateModelException):
        store.add_model(KEY, lora("another", "/another"))
    for wrong in ({"model_type": "nonsense"}, {"base_model": "sd-1.5"}, {"surprise": 1}, {"path": ""}):
        with pytest.raises(InvalidModelConfigException):
            store.add_model(None, lora("bad", "/bad") | wrong)
    assert [config.key for config in store.all_models()] == [KEY]


def test_update_model_takes_an_object_or_a_sparse_dict(store: Store) -> None:
    store.add_model(KEY, V1_5)
    by_dict = store.update_model(KEY, {"name": "renamed", "variant": "inpaint"})
    assert isinstance(by_dict, MainCheckpointConfig)
    assert (by_dict.name, by_dict.variant) == ("renamed", ModelVariantType.Inpaint)
    assert (by_dict.description, by_dict.config) == (V1_5["description"], V1_5["config"])
    by_dict.description = "by object"
    by_dict.vae = None
    by_object = store.update_model(KEY, by_dict)
    assert isinstance(by_object, MainCheckpointConfig)
    assert (by_object.name, by_object.description, by_object.vae) == ("renamed", "by object", None)
    converted = store.update_model(KEY, {"model_format": "diffusers", "path": "sd-1/main/v1-5"})
    assert isinstance(converted, MainDiffusersConfig)
    assert converted.variant is ModelVariantType.Inpaint


def test_each_variant_and_prediction_type_is_stored(store: Store) -> None:
    assert [variant.value for variant in ModelVariantType] == ["normal", "inpaint", "depth"]
    for number, variant in enumerate(ModelVariantType):
        for prediction in SchedulerPredictionType:
            fields = {"path": f"/{number}/{prediction}", "variant": variant, "prediction_type": prediction}
            stored = store.get_model(store.add_model(None, {**V1_5, **fields}).key)
            assert isinstance(stored, MainCheckpointConfig)
            assert (stored.variant, stored.prediction_type) == (variant, prediction)


def test_update_model_raises_for_unknown_models_and_invalid_values(store: Store) -> None:
    with pytest.raises(UnknownModelException):
        store.update_model(KEY, {"name": "nobody"})
    store.add_model(KEY, V1_5)
    for wrong in ({"variant": "painted"}, {"name": ""}, {"nonsense": True}, {"model_format": "lycoris"}):
        with pytest.raises(InvalidModelConfigException):
            store.update_model(KEY, wrong)
    assert store.get_model(KEY).name == V1_5["name"]


def test_the_other_classes_come_back_as_they_were_stored(store: Store) -> None:
    kind = {"model_type": "onnx", "model_format": "onnx", "base_model": "sd-2"}
    onnx = store.add_model(
        None, {**kind, "name": "o", "path": "/o", "prediction_type": "epsilon", "upcast_attention": True}
    )
    assert isinstance(onnx, ONNXSD2Config)
    assert onnx.prediction_type is SchedulerPredictionType("epsilon")
    assert onnx.upcast_attention is True
    assert isinstance(store.add_model(None, lora("l", "/l")), LoRAConfig)
    adapter = {"model_type": "ip_adapter", "model_format": "invokeai", "base_model": "sdxl"}
    assert isinstance(store.add_model(None, {**adapter, "name": "i", "path": "/i"}), IPAdapterConfig)


def test_a_model_may_work_with_two_bases_or_with_any(store: Store) -> None:
    vae = {"model_type": "vae", "model_format": "diffusers"}
    two = store.add_model(
        None, {**vae, "name": "two", "path": "/2", "base_model": "sd-1", "compatible_bases": ["sd-2"]}
    )
    every = store.add_model(None, {**vae, "name": "every", "path": "/e", "base_model": "any"})
    names = {base: {c.name for c in store.search_by_name(base=base)} for base in ("sd-1", "sd-2", "sdxl")}
    assert names == {"sd-1": {"two", "every"}, "sd-2": {"two", "every"}, "sdxl": {"every"}}
    assert two.bases == ["sd-1", "sd-2"]
    assert every.base_model is BaseModelType.Any
