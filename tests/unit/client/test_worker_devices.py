"""Modules over an accelerator's memory: the same as over the host's, for as long as somebody has them."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modelkeep.exceptions import DeviceUnavailableException, InvalidModelException
from modelkeep.worker import attach, verify_attachment
from modelkeep.worker.devicepart import DevicePart, torch_device
from support import tinymodels
from support.digests import digest
from support.lentdevices import Board, Lent
from support.lentfiles import lent_file
from support.originalforwards import output_of

pytestmark = pytest.mark.timeout(120)

#: Class → its library, a tiny one of it, and how it is built.
TINY: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "AutoencoderKL": ("diffusers", lambda: tinymodels.vae(widths=(32, 64)), {}),
    "UNet2DConditionModel": ("diffusers", tinymodels.unet, {"memory_format": "channels_last"}),
    "CLIPTextModel": ("transformers", tinymodels.text_encoder, {}),
    "T5EncoderModel": ("transformers", tinymodels.t5_encoder, {"weights": "float8"}),
}


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
def vae(tmp_path: Path) -> Iterator[int]:
    tinymodels.vae(widths=(32, 64)).save_pretrained(tmp_path)
    made = lent_file(tmp_path, "diffusers", "AutoencoderKL", precision="float32")
    yield made
    os.close(made)


def attached(lent: Lent) -> Any:
    """The module, and no descriptor left."""
    try:
        return attach(lent.file, lent.part())
    finally:
        lent.close()


def test_a_module_on_a_device_is_the_one_in_host_memory(board: Board, memory: int) -> None:
    here, there = attach(memory), attached(board.lend(memory))
    assert digest(there) == digest(here)
    assert [p.stride() for p in there.parameters()] == [p.stride() for p in here.parameters()]
    assert output_of(there) == output_of(here)
    verify_attachment(there)


def test_the_parameters_are_the_devices_memory_and_the_buffers_are_not(board: Board, memory: int) -> None:
    lent = board.lend(memory)
    part = lent.part()
    module = attach(lent.file, part)
    lent.close()
    first, end = part.base.data_ptr(), part.base.data_ptr() + part.size_bytes
    assert all(first <= p.data_ptr() < end for p in module.parameters())
    assert not any(first <= b.data_ptr() < end for b in module.buffers() if b.numel())


def test_the_memory_stays_for_as_long_as_somebody_has_a_tensor_of_it(board: Board, vae: int) -> None:
    module = attached(board.lend(vae))
    taken = board.taken_bytes
    assert taken > 0
    weight = module.encoder.conv_in.weight
    before = weight.detach().clone()
    row = weight.detach()[0]
    del module, weight
    gc.collect()
    assert board.taken_bytes == taken
    assert torch.equal(row, before[0])
    del row
    gc.collect()
    assert board.taken_bytes == 0


def test_memory_that_is_given_back_and_comes_again_leaves_the_module_as_it_was(
    board: Board, vae: int
) -> None:
    lent = board.lend(vae)
    part = lent.part()
    module = attach(lent.file, part)
    before, addresses = output_of(module), [p.data_ptr() for p in module.parameters()]
    lent.close()
    part.let_go()
    part.let_go()
    assert board.taken_bytes == 0
    again = board.place(vae, lent.size_bytes)
    part.take_back(again)
    part.take_back(again)
    os.close(again)
    assert [p.data_ptr() for p in module.parameters()] == addresses
    assert output_of(module) == before
    verify_attachment(module)
    part.let_go()
    del module, part
    gc.collect()
    assert board.taken_bytes == 0


def test_who_writes_to_a_weight_ends_himself_and_nobody_else(board: Board, vae: int) -> None:
    module = attached(board.lend(vae))
    before = output_of(module)
    writer = os.fork()
    if writer == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        with torch.no_grad():
            next(module.parameters()).fill_(7)
        os._exit(0)
    _, status = os.waitpid(writer, 0)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    assert output_of(module) == before


def test_a_state_dict_may_lie_on_a_device(board: Board, tmp_path: Path) -> None:
    tinymodels.vae(widths=(32, 64)).save_pretrained(tmp_path)
    memory = lent_file(tmp_path, "", "", kind="state_dict", config={})
    here, there = attach(memory), attached(board.lend(memory))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], tensor) for name, tensor in there.items())
    half = attached(board.lend(memory, share=0.5))
    assert all(torch.equal(here[name], tensor) for name, tensor in half.items())
    os.close(memory)


def test_a_worker_without_the_driver_says_what_to_do() -> None:
    for device, uuid, helps in (
        ("sim:0", "GPU-1", "update modelkeep"),
        ("npu:0", "NPU-1", "update modelkeep"),
        ("cuda:0", "GPU-none", "modelkeep[cuda]"),
    ):
        with pytest.raises(DeviceUnavailableException) as raised:
            torch_device(device, uuid)
        assert raised.value.metadata["device"] == device
        assert 'the device "cpu"' in raised.value.remedy
        assert helps in raised.value.remedy
    assert torch_device("cpu", "") == torch.device("cpu")


def test_what_is_no_allocation_is_refused(board: Board, vae: int) -> None:
    with pytest.raises(DeviceUnavailableException, match="cannot be mapped"):
        DevicePart("sim:0", "SIM-0", vae, os.fstat(vae).st_size)
    lent = board.lend(vae)
    with pytest.raises(InvalidModelException, match="should"):
        attach(lent.file, DevicePart("sim:0", "SIM-0", None, 0))
    lent.close()
