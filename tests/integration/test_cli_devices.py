"""The command line on accelerators: simulated ones, of a suite of real services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.supervisor import Suite
from support import tinymodels
from support.cli import run, run_json

# A suite of its own, and a helper that imports torch.
pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"env": {"MODELKEEP_LOADER_ACCELERATOR": "sim:2x64MiB"}}


@pytest.fixture(scope="module")
def vae(suite: Suite, folder: Path) -> str:
    """Name of a VAE."""
    tinymodels.save_vae_file(folder / "lent.safetensors")
    run(suite, "install", str(folder / "lent.safetensors"), "--set", "base=sd-1", "--name", "lent")
    return "lent"


def test_a_model_is_estimated_loaded_shown_pinned_and_dropped_on_a_device(suite: Suite, vae: str) -> None:
    told = run(suite, "cache", "estimate", vae, "--device", "sim:1").stdout
    assert "on sim:1" in told
    assert "needs of sim:1" in told
    assert "on sim:1 (" in run(suite, "load", vae, "--device", "sim:1").stdout
    held = {one["tier"]: one["device"] for one in run_json(suite, "cache", "residents")["residents"]}
    assert held == {"TIER_VRAM": "sim:1"}
    rows = run(suite, "cache", "residents").stdout.splitlines()[1:]
    assert [row.split("\t")[2] for row in rows] == ["sim:1"]
    capacity = run(suite, "cache", "capacity").stdout
    assert "vram sim:1" in capacity
    assert "simulated accelerator" in capacity
    assert "from files, 0 B from RAM" in capacity
    run(suite, "cache", "pin", vae, "--device", "sim:1")
    assert "MODEL_PINNED" in run(suite, "cache", "evict", vae, "--tier", "vram", code=1).stderr
    assert run(suite, "cache", "unpin", vae, "--device", "sim:0").stdout == "Nothing of lent was pinned.\n"
    assert run(suite, "cache", "unpin", vae).stdout == "Took 1 pin off lent.\n"
    run(suite, "cache", "evict", vae, "--tier", "vram", "--device", "sim:1")
    assert [one["device"] for one in run_json(suite, "cache", "residents")["residents"]] == []


def test_without_a_word_it_goes_to_an_accelerator_and_a_tier_says_otherwise(suite: Suite, vae: str) -> None:
    (where,) = run_json(suite, "load", vae)["residents"]
    assert where["device"].startswith("sim:")
    (where,) = run_json(suite, "load", vae, "--tier", "ram")["residents"]
    assert where["device"] == "cpu"
    refused = run(suite, "load", vae, "--device", "cuda:0", code=2).stderr
    assert "this host has no device cuda:0: it has cpu, sim:0, sim:1" in refused.lower()
    assert "FIELD_INVALID" in run(suite, "load", vae, "--device", "cpu", "--tier", "vram", code=2).stderr
