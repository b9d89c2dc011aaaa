"""Modules of which an accelerator holds a part: they compute there, and what they compute is the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modelkeep.worker import attach, verify_attachment
from modelkeep.worker.devicepart import DevicePart
from modelkeep.worker.lanes import Lane, Layer
from modelkeep.worker.lentfile import LentFile
from support import tinymodels
from support.hostwatch import HostWatch
from support.lentdevices import Board
from support.lentfiles import lent_file
from support.originalforwards import output_of

pytestmark = pytest.mark.timeout(120)

TINY: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "AutoencoderKL": ("diffusers", lambda: tinymodels.vae(widths=(32, 64)), {}),
    "UNet2DConditionModel": ("diffusers", tinymodels.unet, {"memory_format": "channels_last"}),
    "CLIPTextModel": ("transformers", tinymodels.text_encoder, {}),
    "T5EncoderModel": ("transformers", tinymodels.t5_encoder, {"weights": "float8"}),
}


class Halved:
    """A module of which a share is on a device, and the same one in host memory."""

    def __init__(self, board: Board, memory: int, share: float) -> None:
        lent = board.lend(memory, share)
        part = lent.part()
        host = LentFile(lent.file, part).host
        assert host is not None
        self.watch = HostWatch(host)
        self.module = attach(lent.file, part)
        self.whole = attach(memory)
        self.host = host
        lent.close()


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture(params=TINY)
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    library, make, fields = TINY[request.param]
    make().save_pretrained(tmp_path)
    made = lent_file(tmp_path, library, request.param, **fields)
    yield made
    os.close(made)


@pytest.fixture
def vae(board: Board, tmp_path: Path) -> Iterator[Halved]:
    tinymodels.vae(widths=(32, 64)).save_pretrained(tmp_path)
    made = lent_file(tmp_path, "diffusers", "AutoencoderKL", precision="float32")
    yield Halved(board, made, 0.3)
    os.close(made)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_outputs_are_the_same_and_nothing_is_computed_with_host_memory(
    board: Board, memory: int, share: float
) -> None:
    halved = Halved(board, memory, share)
    expected = output_of(halved.whole)
    for _ in range(3):  # the second pass copies ahead what the first has seen
        with halved.watch:
            assert output_of(halved.module) == expected
    assert halved.watch.strays == []
    assert halved.watch.copied_bytes > 0
    verify_attachment(halved.module)


def test_parameters_that_are_listed_are_the_lent_ones(vae: Halved) -> None:
    output_of(vae.module)
    mine, theirs = vae.module.state_dict(), vae.whole.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
    first, end = vae.host.data_ptr(), vae.host.data_ptr() + vae.host.numel()
    inside = [name for name, p in vae.module.named_parameters() if first <= p.data_ptr() < end]
    assert 0 < len(inside) < len(mine)


def test_a_weight_that_somebody_has_stays_what_it_is(vae: Halved) -> None:
    names = [name for name, _ in vae.module.decoder.named_parameters()]
    whole = dict(vae.whole.decoder.named_parameters())

    def weight(name: str) -> Any:
        path, _, leaf = name.rpartition(".")
        return getattr(vae.module.decoder.get_submodule(path), leaf)

    held = {name: weight(name) for name in names}
    views = {name: weight(name).view(-1)[-1:] for name in names}
    output_of(vae.module)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in held.items())
    assert all(torch.equal(tensor, whole[name].view(-1)[-1:]) for name, tensor in views.items())


def test_what_autograd_keeps_is_kept(vae: Halved) -> None:
    gradients = []
    for module in (vae.module, vae.whole):
        latents = torch.linspace(-1, 1, 4 * 4 * 4).reshape(1, 4, 4, 4).requires_grad_()
        module.decode(latents)[0].square().sum().backward()
        assert latents.grad is not None
        gradients.append(latents.grad)
    assert torch.equal(*gradients)


def test_a_layer_that_fails_changes_nothing(vae: Halved) -> None:
    expected = output_of(vae.whole)
    layers = [m for m in vae.module.decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    for layer in layers[:3]:
        with pytest.raises(RuntimeError):
            layer(torch.zeros(1))
    assert output_of(vae.module) == expected


def test_a_weight_that_the_caller_puts_there_counts(vae: Halved) -> None:
    expected = output_of(vae.whole)
    for module in (vae.module, vae.whole):
        layer = module.decoder.conv_out
        layer.weight = torch.nn.Parameter(torch.ones_like(layer.weight), requires_grad=False)
        with torch.no_grad():
            module.decoder.conv_in.bias.data = torch.ones(module.decoder.conv_in.bias.shape)
    changed = output_of(vae.whole)
    assert changed != expected
    assert output_of(vae.module) == changed


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_every_mode_may_follow_every_other(vae: Halved, mode: Any) -> None:
    expected = output_of(vae.whole)
    latents = torch.zeros(1, 4, 4, 4)
    with mode():
        vae.module.decode(latents)
    assert output_of(vae.module) == expected
    vae.module.decode(latents)
    with torch.inference_mode():
        vae.module.decode(latents)
    assert output_of(vae.module) == expected


def test_threads_have_memory_of_their_own(vae: Halved) -> None:
    expected = output_of(vae.whole)
    found: list[str] = []

    def run() -> None:
        found.extend(output_of(vae.module) for _ in range(4))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {expected}
    assert len(found) == 16


def test_two_layers_take_turns_in_memory_and_one_within_another_gets_more(board: Board) -> None:
    host = torch.arange(64, dtype=torch.uint8)
    one, two, three = (Layer({"weight": host[at : at + 8]}, host) for at in (0, 8, 16))
    lane = Lane(DevicePart(board.name, "SIM-0", None, 0))
    for _ in range(3):
        for layer, first in ((one, 0), (two, 8), (three, 16)):
            lane.enter(layer)
            assert lane.weights(layer)["weight"].tolist() == list(range(first, first + 8))
            lane.leave(layer)
    assert lane.slots == 2
    lane.enter(one)
    lane.enter(two)
    lane.enter(three)
    assert lane.slots == 3
    assert lane.weights(one)["weight"].tolist() == list(range(8))
