"""Layers whose weights are computed from what is lent: what is read, and what is refused."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch

from modelkeep.quantised import CAST
from modelkeep.worker.manifest import QuantisedWeight
from modelkeep.worker.quantised import install


@pytest.fixture
def layer() -> torch.nn.Linear:
    """A layer that has its weight in float8."""
    made = torch.nn.Linear(3, 2, bias=False)
    stored = made.weight.detach().to(torch.float8_e4m3fn)
    weight = QuantisedWeight(CAST, (2, 3), "F32", {"data": "weight__data"})
    install({"weight": weight}, {}, {"": made}, {"weight__data": stored})
    return made


def test_a_computed_weight_is_as_any_tensor(layer: torch.nn.Linear) -> None:
    x = torch.ones(1, 3, requires_grad=True)
    out = layer(x)
    assert type(out) is torch.Tensor
    assert type(layer.weight + 1) is torch.Tensor
    (grad,) = torch.autograd.grad(out.sum(), [x])
    assert torch.equal(grad, layer.weight.sum(0, keepdim=True))
    assert type(copy.deepcopy(layer.weight)) is torch.Tensor
    assert layer.weight.dtype is torch.float32
    assert not layer.weight.requires_grad


def test_what_would_write_into_a_computed_weight_is_refused_and_says_what_to_do(
    layer: torch.nn.Linear,
) -> None:
    before = layer.weight.clone()
    with pytest.raises(RuntimeError, match="dequantised"):
        layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="dequantised"):
        layer.weight.data += 1  # as a LoRA is fused
    with pytest.raises(RuntimeError, match="dequantised"):
        layer.weight.data = before
    with pytest.raises(RuntimeError, match="dequantised"):
        layer.weight.data.copy_(before)
    with pytest.raises(RuntimeError, match="dequantised"):
        layer.weight[0] = 1
    assert torch.equal(layer.weight, before)


def test_a_lora_is_put_beside_a_computed_weight_and_not_fused(layer: torch.nn.Linear) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    model = torch.nn.Sequential(layer)
    x = torch.ones(1, 3)
    plain = model(x)
    inject_adapter_in_model(LoraConfig(r=1, target_modules=["0"], init_lora_weights=False), model)
    beside = model(x)
    assert not torch.equal(plain, beside)
    with pytest.raises(RuntimeError, match="unfused"):
        cast("Any", model[0]).merge()
    assert torch.equal(model(x), beside)
