"""The command line on the loader's memory: what stays, for how long, who holds it, and a drain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.client import Client
from modelkeep.loader.v1 import hold_pb2, resident_pb2
from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceStub
from modelkeep.rpc import open_channel
from modelkeep.supervisor import Suite
from support import tinymodels
from support.cli import run, run_json

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def vae(suite: Suite, folder: Path) -> str:
    """Name of a VAE."""
    tinymodels.save_vae_file(folder / "kept.safetensors")
    run(suite, "install", str(folder / "kept.safetensors"), "--set", "base=sd-1", "--name", "kept")
    return "kept"


@pytest.mark.long
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
    assert run(suite, "cache", "pin", vae, "--weights", "foo", code=2).stderr.count("foo") == 1
    assert run(suite, "cache", "unpin", vae, "--weights", "float8").stdout == "Nothing of kept was pinned.\n"
    assert run(suite, "cache", "unpin", vae).stdout == "Took 1 pin off kept.\n"
    assert run(suite, "cache", "unpin", vae).stdout == "Nothing of kept was pinned.\n"
    assert "Dropped 1 component" in run(suite, "cache", "evict", vae).stdout


def test_a_load_says_how_long_it_is_kept(suite: Suite, vae: str) -> None:
    run(suite, "load", vae, "--keep-alive", "3600")
    (resident,) = run_json(suite, "cache", "residents")["residents"]
    assert resident["keep_until_time"] > resident["last_use_time"]
    run(suite, "load", vae, "--keep-alive", "0")
    assert run_json(suite, "cache", "residents")["residents"] == []
    run(suite, "load", vae, "--weights", "float8")
    listed = run(suite, "cache", "residents", "-o", "wide").stdout
    assert ("float8" in listed, "float32" in listed) == (True, True), "what it is, and what it is computed in"
    assert "as float8, resident" in run(suite, "cache", "estimate", vae, "--weights", "float8").stdout
    assert "Dropped 1 component, which freed " in run(suite, "cache", "evict", vae).stdout
    unknown = run(suite, "cache", "estimate", "kept/nope", code=3).stderr
    assert "[UNKNOWN_SUBMODEL]" in unknown
    assert "it is one component" in unknown
    for no_time in ("nan", "inf", "1e12"):
        refused = run(suite, "load", vae, "--keep-alive", no_time, code=2).stderr
        assert "must be from 0 to" in refused


@pytest.fixture(scope="module")
def lease(suite: Suite, folder: Path) -> Iterator[resident_pb2.Lease]:
    """A lease on a VAE called "held", that lives by its time."""
    tinymodels.save_vae_file(folder / "held.safetensors")
    run(suite, "install", str(folder / "held.safetensors"), "--set", "base=sd-1", "--name", "held")
    run(suite, "load", "held")
    with Client(data_dir=suite.data_dir) as client:
        key = client.model_record_store.search_by_name("held")[0].key
        address = client.addresses["loader"]
    request = hold_pb2.AcquireLeaseRequest(
        components=[{"key": key}], delivery=hold_pb2.DELIVERY_NONE, label="a test", labels={"job": "42"}
    )
    request.ttl.seconds = 3600
    with open_channel(address) as channel:
        yield LoaderServiceStub(channel).AcquireLease(request, timeout=60).grant.lease


@pytest.mark.long
def test_leases_are_listed_by_label_asked_back_and_ended_by_a_drain(
    suite: Suite, lease: resident_pb2.Lease
) -> None:
    assert [one["id"] for one in run_json(suite, "cache", "leases", "--label", "job=42")["leases"]] == [
        lease.id
    ]
    assert run_json(suite, "cache", "leases", "--label", "job=43") == {"leases": []}
    assert lease.id in run(suite, "cache", "leases", "--filter", "label=job=42", "-q").stdout
    assert "job=42" in run(suite, "cache", "leases", "-o", "wide").stdout

    said = run(suite, "cache", "revoke", lease.id, "--grace", "600", "--why", "a new kernel").stdout
    assert said.startswith(f"Asked {lease.id} of held back; it ends by ")
    (told,) = run_json(suite, "cache", "leases")["leases"]
    assert (told["state"], told["end_message"]) == ("LEASE_STATE_REVOKING", "a new kernel")
    assert "revoking" in run(suite, "cache", "leases").stdout

    said = run(suite, "cache", "drain", "--why", "a new kernel").stdout
    assert "gives no new leases. 1 lease left" in said
    assert lease.id in said
    assert "no new leases (a new kernel)" in run(suite, "cache", "capacity").stdout
    refused = run(suite, "load", "held", code=4).stderr
    assert "a new kernel" in refused

    last = run_json(suite, "cache", "drain", "--revoke", "--wait", "0", "--yes")
    assert (last["lease_count"], last["done"]) == (0, True)
    assert "none is left" in run(suite, "cache", "drain", "--wait", "5").stdout
    assert run(suite, "cache", "undrain").stdout == "The loader gives leases again.\n"
    assert run_json(suite, "cache", "undrain") == {"was_drained": False}
    run(suite, "load", "held")
