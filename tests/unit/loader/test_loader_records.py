"""What the loader takes of a record."""

from __future__ import annotations

import pytest

from modelkeep.model.v1 import model_pb2
from modelkeep_loader.peers import to_record


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (model_pb2.Model(), {}),
        (model_pb2.Model(main=model_pb2.MainConfig()), {}),
        (model_pb2.Model(vae=model_pb2.VaeConfig(scaling_factor=0.5)), {"scaling_factor": 0.5}),
        (
            model_pb2.Model(main=model_pb2.MainConfig(vae="v", upcast_attention=False)),
            {"vae": "v", "upcast_attention": False},
        ),
    ],
)
def test_of_a_config_what_is_set_is_there(model: model_pb2.Model, config: dict[str, object]) -> None:
    assert to_record(model).config == config


def test_a_record_of_a_newer_version_is_of_an_unknown_kind() -> None:
    model = model_pb2.Model(key="k", name="n", base="sd-99", main=model_pb2.MainConfig(vae="v"))
    model.type = model.format = model.main.prediction_type = 99  # type: ignore[assignment]  # open enums
    record = to_record(model)
    assert (record.type, record.format, record.base) == ("unknown", "unknown", "sd-99")
    assert record.config == {"vae": "v"}
