"""Every class that can be lent, on a simulated accelerator, whole and in part: it computes the same there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from modelkeep.worker import attach, verify_attachment
from modelkeep.worker.lentfile import LentFile
from support.hostwatch import HostWatch
from support.lentdevices import Board
from support.lentfiles import lent_file
from support.tinyclasses import MADE
from support.tinyruns import ran, same, save_tiny

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(120),
    # The libraries have much to say of what they will do otherwise one day.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.mark.parametrize(("library", "name"), sorted(MADE), ids=lambda value: value)
def test_a_model_on_an_accelerator_computes_there_what_it_computes_in_host_memory(
    tmp_path: Path, library: str, name: str
) -> None:
    _, inputs = MADE[library, name]
    save_tiny(library, name, tmp_path)
    memory = lent_file(tmp_path, library, name, precision="float32")
    board = Board()
    for share in (1.0, 0.5, 0.0):
        lent = board.lend(memory, share)
        part = lent.part()
        host = LentFile(lent.file, part).host
        module, whole = attach(lent.file, part), attach(memory)
        lent.close()
        verify_attachment(module)
        if inputs is None:
            continue
        expected = ran(whole, inputs, "float32")
        watch = HostWatch(host if host is not None else torch.empty(0, dtype=torch.uint8))
        for _ in range(2):
            with watch:
                found = ran(module, inputs, "float32")
            assert all(same(*pair) for pair in zip(found, expected, strict=True)), share
        assert watch.strays == [], share
    os.close(memory)
