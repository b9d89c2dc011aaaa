"""What stays in the loader's memory and for how long, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.supervisor import Suite
from support import tinymodels
from support.cli import run, run_json


@pytest.fixture(scope="module")
def vae(suite: Suite, folder: Path) -> str:
    """Name of a VAE."""
    tinymodels.save_vae_file(folder / "kept.safetensors")
    run(suite, "install", str(folder / "kept.safetensors"), "--set", "base=sd-1", "--name", "kept")
    return "kept"


@pytest.mark.timeout(120)
def test_a_pin_is_set_shown_in_the_way_of_an_eviction_and_taken_back(suite: Suite, vae: str) -> None:
    later = run(suite, "cache", "pin", vae, "--no-load").stdout
    assert later == "Pinned 1 component of kept: 0 B in memory; the rest is kept once it is loaded.\n"
    assert run_json(suite, "cache", "residents")["residents"] == []
    assert "Pinned 1 component of kept" in run(suite, "cache", "pin", vae).stdout
    (resident,) = run_json(suite, "cache", "residents")["residents"]
    assert resident["pinned"] is True
    assert "unpinned" in run(suite, "cache", "residents", "-o", "wide").stdout
    (ram,) = [tier for tier in run_json(suite, "cache", "capacity")["tiers"] if tier["tier"] == "TIER_RAM"]
    assert ram["pinned_bytes"] == ram["used_bytes"] == resident["size_bytes"]
    assert "pinned" in run(suite, "cache", "capacity").stdout
    refused = run(suite, "cache", "evict", vae, code=1).stderr
    assert "MODEL_PINNED" in refused
    assert "modelkeep cache unpin" in refused
    assert run(suite, "cache", "unpin", vae).stdout == "Took 1 pin off kept.\n"
    assert run(suite, "cache", "unpin", vae).stdout == "Nothing of kept was pinned.\n"
    assert "Dropped 1 component" in run(suite, "cache", "evict", vae).stdout


@pytest.mark.timeout(120)
def test_a_load_says_how_long_it_is_kept(suite: Suite, vae: str) -> None:
    run(suite, "load", vae, "--keep-alive", "3600")
    (resident,) = run_json(suite, "cache", "residents")["residents"]
    assert resident["keep_until_time"] > resident["last_use_time"]
    run(suite, "load", vae, "--keep-alive", "0")
    assert run_json(suite, "cache", "residents")["residents"] == []
    for no_time in ("nan", "inf", "1e12"):
        refused = run(suite, "load", vae, "--keep-alive", no_time, code=2).stderr
        assert "must be from 0 to" in refused
