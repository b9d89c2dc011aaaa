"""Default settings, fields of other programs, pictures: nothing is lost between config and message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from modelkeep.configs import (
    CoverImage,
    DefaultSettings,
    ModelConfigFactory,
    UnknownConfig,
    VaeDiffusersConfig,
)
from modelkeep.configs.overrides import config_of, overrides_of
from modelkeep.configs.wire import from_model, to_model
from modelkeep.exceptions import FieldInvalidException, InvalidModelConfigException
from modelkeep.model.v1 import default_settings_pb2, model_pb2


def vae(**more: Any) -> VaeDiffusersConfig:
    return VaeDiffusersConfig(name="v", path="p", base_model="sd-1", **more)


def read(message: model_pb2.Model) -> Any:
    return from_model(model_pb2.Model.FromString(message.SerializeToString()))


def test_a_setting_that_is_not_said_is_not_sent_and_one_that_is_nothing_is() -> None:
    message = to_model(vae(default_settings={"weight": 0, "cpu_only": False, "vae": ""}))
    settings = message.default_settings
    assert {field.name for field, _ in settings.ListFields()} == {"vae", "cpu_only", "weight"}
    assert read(message).default_settings == DefaultSettings(weight=0.0, cpu_only=False, vae="")
    assert not to_model(vae()).HasField("default_settings")
    assert read(to_model(vae(default_settings={}))).default_settings == DefaultSettings()


def test_what_a_newer_version_says_of_settings_stays_when_one_is_changed() -> None:
    message = to_model(vae(default_settings={"steps": 20, "scheduler": "euler"}))
    message.default_settings.MergeFromString(b"\xc2\xbb\x01\x03new")
    config = read(message)
    config.default_settings.steps = 30
    config.default_settings.scheduler = None
    written = to_model(config).default_settings
    expected = default_settings_pb2.DefaultSettings(steps=30)
    expected.MergeFromString(b"\xc2\xbb\x01\x03new")
    assert written == expected
    config.default_settings = None
    assert not to_model(config).HasField("default_settings")


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("width", -8), ("height", 2**31), ("cfg_scale", float("nan")), ("weight", float("inf"))],
)
def test_settings_have_bounds(name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        DefaultSettings.model_validate({name: value})
    with pytest.raises(InvalidModelConfigException) as caught:
        overrides_of({"default_settings": {name: value}})
    assert [violation.field for violation in caught.value.violations] == [f"default_settings.{name}"]


def test_settings_of_an_override_come_back_as_they_were_said() -> None:
    said = overrides_of(
        {"default_settings": {"steps": 8, "weight": -0.5}, "source_url": "https://example.org/m"}
    )
    assert said is not None
    assert config_of(said) == {
        "default_settings": DefaultSettings(steps=8, weight=-0.5),
        "source_url": "https://example.org/m",
    }
    with pytest.raises(InvalidModelConfigException, match=r"default_settings\.stepz is no field"):
        overrides_of({"default_settings": {"stepz": 8}})


VALUES: dict[str, Any] = {
    "null": None,
    "flag": True,
    "whole": 10**30,
    "part": 0.1,
    "text": "ü \x00 \U0001f600",
    "list": [1, [2.5, {"a": None}]],
    "object": {"b": 1, "a": {}},
}


def test_values_of_other_programs_come_back_as_they_are() -> None:
    back = read(to_model(vae(extra_fields=VALUES))).extra_fields
    assert list(back) == sorted(VALUES)
    assert json.dumps(back) == json.dumps({name: VALUES[name] for name in back})


def test_texts_of_values_that_do_not_change_stay_to_the_byte() -> None:
    message = to_model(vae())
    texts = {"one": "1", "two": '{ "x" : 1.50, "y":"\\u00fc" }', "three": "[]"}
    message.extra_fields.update(texts)
    config = read(message)
    config.description = "changed"
    assert dict(to_model(config).extra_fields) == texts
    config.extra_fields["one"] = True  # which Python takes for equal to 1
    config.extra_fields["four"] = "4"
    del config.extra_fields["three"]
    assert dict(to_model(config).extra_fields) == {"one": "true", "two": texts["two"], "four": '"4"'}
    config.extra_fields = {}
    assert not to_model(config).extra_fields


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a":1,"a":2}', '"\\ud800"', "[" * 40 + "]" * 40])
def test_a_text_that_is_no_value_is_shown_and_stays(text: str) -> None:
    message = to_model(vae())
    message.extra_fields["odd"] = text
    config = read(message)
    assert not isinstance(config, UnknownConfig)
    assert config.extra_fields == {"odd": text}
    config.name = "w"
    assert dict(to_model(config).extra_fields) == {"odd": text}


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "\ud800", [{"a": float("inf")}]])
def test_a_value_that_has_no_text_is_told_by_its_name(value: Any) -> None:
    config = vae()
    config.__dict__["extra_fields"] = {"odd": value, "fine": 1}  # as it is by a change from within
    with pytest.raises(FieldInvalidException) as caught:
        to_model(config)
    assert caught.value.message == 'extra_fields["odd"] must be a value that JSON can hold'


def test_what_is_no_value_of_json_is_refused_at_once() -> None:
    data = {"name": "n", "path": "p", "type": "vae", "format": "diffusers", "base": "sd-1"}
    with pytest.raises(InvalidModelConfigException, match="extra_fields"):
        ModelConfigFactory.make_config({**data, "extra_fields": {"when": object()}})


def test_a_picture_is_told_by_what_is_known_about_it() -> None:
    message = to_model(vae())
    message.cover_image.media_type, message.cover_image.size_bytes = "image/webp", 7
    assert read(message).cover_image == CoverImage(media_type="image/webp", size_bytes=7)
    assert vae().cover_image is None
