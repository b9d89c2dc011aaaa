"""Configurations of original checkpoints: read within bounds, and nothing in them is obeyed but numbers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.exceptions import InvalidModelException
from modelkeep_convert.checkpoints import original


def test_what_is_read_of_one() -> None:
    text = b"""
model:
  base_learning_rate: 1.0e-04
  target: somewhere.over.the.Rainbow
  params:
    parameterization: "v"
    linear_start: 0.00085
    linear_end: 0.0120
    scale_factor: 0.18215
    unet_config:
      target: os.system
      params: {use_fp16: True, num_head_channels: 64, channel_mult: [1, 2], name: x, num_classes: sequential}
    first_stage_config: {params: {ddconfig: {ch: 128, dropout: 0.0}}}
"""
    found = original.parse(text, "it.yaml")
    assert found.prediction_type == "v_prediction"
    assert (found.beta_start, found.beta_end, found.scale_factor) == (0.00085, 0.012, 0.18215)
    assert found.unet == {
        "use_fp16": True,
        "num_head_channels": 64,
        "channel_mult": [1, 2],
        "num_classes": "sequential",
    }
    assert found.vae == {"ch": 128}


def test_sdxl_says_what_it_predicts_by_the_class_that_scales_its_output() -> None:
    text = (
        b"model: {params: {denoiser_config: {params: {scaling_config: {target: sgm.VScaling}}},"
        b" network_config: {params: {num_head_channels: 64}}}}"
    )
    found = original.parse(text, "it.yaml")
    assert found.prediction_type == "v_prediction"
    assert found.unet == {"num_head_channels": 64}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "model.params"),
        (b"[1, 2]", "model.params"),
        (b"model: {params: {}}", "model.params"),
        (b"model: {params: {parameterization: magic}}", "parameterization"),
        (b"model: {params: {parameterization: [eps]}}", "parameterization"),
        (b"model: {params: {scale_factor: .inf}}", "scale_factor"),
        (b"model: {params: {scale_factor: .nan}}", "scale_factor"),
        (b"model: {params: {scale_factor: %s}}" % (b"9" * 400), "scale_factor"),
        (b"model: {params: {x: !!bool abc}}", "does not fit its tag"),
        (b"model: {params: {x: !!timestamp abc}}", "does not fit its tag"),
        (b"model: {params: {x: !!int ''}}", "does not fit its tag"),
        (b"model: {params: {scale_factor: -1}}", "scale_factor"),
        (b"model: {params: {unet_config: {params: {num_heads: 99999999999}}}}", "num_heads"),
        (b"model: {params: {unet_config: {params: {channel_mult: [%s]}}}}" % (b"1," * 100), "channel_mult"),
        (b"model: !!python/object/apply:os.system [true]", "no YAML"),
        (b"a: &a [1, 2]\nb: *a", "anchors"),
        (b"\xff\xfe\x00", "no YAML"),
        (b"[" * 20_000, "brackets"),
        (b"[" * 500, "no YAML"),
        (b"- " * 16_000, "no YAML"),
        (b"? " * 16_000, "no YAML"),
        (b"#" * (1 << 15) + b"#", "longer"),
    ],
)
def test_what_is_none_is_refused_at_once_and_named(text: bytes, said: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidModelException, match=r"it\.yaml") as refusal:
        original.parse(text, "it.yaml")
    assert said in refusal.value.message
    assert "checkpoint_config" in refusal.value.remedy
    assert time.process_time() - started < 5


@given(st.binary(max_size=200))
def test_nothing_but_a_refusal_comes_of_other_bytes(text: bytes) -> None:
    with pytest.raises(InvalidModelException):
        original.parse(text, "it.yaml")
