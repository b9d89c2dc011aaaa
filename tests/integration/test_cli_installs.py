"""``modelkeep installs pause|resume|rm`` and ``modelkeep register``, against a real suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client
from modelkeep.supervisor import Suite
from support.cli import run, run_json
from support.httpserver import HttpServer, Resource, Status
from support.installs import small_lora

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"services": ("record", "download", "install")}


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return small_lora(tmp_path / "ink.safetensors")


@pytest.fixture(autouse=True)
def _clean(suite: Suite) -> Iterator[None]:
    yield
    with Client(data_dir=suite.data_dir) as client:
        for job in client.model_install.list_jobs():
            client.model_install.delete_job(job)
        for config in client.model_record_store.all_models():
            client.model_install.unregister(config.key)


def test_an_install_is_paused_and_resumed_by_its_number(suite: Suite, web: HttpServer, lora: Path) -> None:
    body = lora.read_bytes()
    resource = Resource(body, rate=len(body) // 30)
    url = web.put("/slow.safetensors", resource)
    id = run_json(suite, "install", url, "--detach")["id"]
    paused = run_json(suite, "installs", "pause", id)
    assert (paused["id"], paused["state"]) == (id, "INSTALL_STATE_PAUSED")
    assert run(suite, "installs", "pause", id).stdout == f"Install {id} is paused.\n"
    assert "paused" in run(suite, "installs").stdout
    resource.rate = None
    run(suite, "installs", "resume", id)
    run(suite, "installs", "watch", id)
    resource.rate = len(body) // 30
    done = run_json(suite, "installs", "show", id)
    assert done["state"] == "INSTALL_STATE_COMPLETED"
    assert web.bytes_served("/slow.safetensors") < 1.5 * len(body), "it goes on from what it has"
    run(suite, "installs", "pause", id, code=1)
    other = run_json(suite, "install", web.put("/other.safetensors", resource), "--again", "-d")["id"]
    run(suite, "installs", "pause", other)
    assert run(suite, "installs", "cancel", other).stdout == f"Install {other} is cancelled.\n"


def test_an_install_that_waits_for_a_token_takes_it_by_its_number(
    suite: Suite, web: HttpServer, lora: Path
) -> None:
    body = lora.read_bytes()
    resource = Resource(body, rate=len(body) // 30, authorization="Bearer open-sesame")
    url = web.put("/locked.safetensors", resource)
    id = run_json(suite, "install", url, "--detach", "--token", "open-sesame")["id"]
    run(suite, "installs", "pause", id)
    resource.rate = None
    told = run(suite, "installs", "resume", id, "--token", "open-sesame")
    assert "open-sesame" not in told.stdout + told.stderr
    run(suite, "installs", "watch", id)


def test_what_failed_is_made_anew_by_its_number_or_all_at_once(
    suite: Suite, web: HttpServer, lora: Path
) -> None:
    body = lora.read_bytes()
    urls = [web.put(f"/{name}.safetensors", Resource(body, faults=[Status(404)])) for name in ("one", "two")]
    failed = []
    for url in urls:
        run(suite, "install", url, code=3)
        failed.append(run_json(suite, "installs", "list", url)["installs"][0]["id"])
    made = run_json(suite, "installs", "retry", failed[0])
    assert made["retry_of_id"] == failed[0]
    run(suite, "installs", "watch", made["id"])
    [other] = run_json(suite, "installs", "retry", "--failed")["installs"]
    assert other["retry_of_id"] == failed[1]
    run(suite, "installs", "watch", other["id"])
    assert run_json(suite, "installs", "retry", "--failed") == {"installs": []}
    run(suite, "installs", "retry", code=2)
    run(suite, "installs", "retry", failed[0], "--failed", code=2)


def test_what_is_under_way_is_forgotten_and_leaves_nothing(suite: Suite, web: HttpServer, lora: Path) -> None:
    body = lora.read_bytes()
    url = web.put("/endless.safetensors", Resource(body, rate=len(body) // 60))
    going = run_json(suite, "install", url, "--detach")["id"]
    done = run_json(suite, "install", str(lora))["id"]
    assert run(suite, "installs", "rm", going, done).stdout == "Forgot 2 installs.\n"
    assert run_json(suite, "installs", "list") == {"installs": []}
    assert len(run_json(suite, "list")["models"]) == 1
    assert not any((suite.data_dir / "models" / ".staging").glob("*/*"))
    run(suite, "installs", "rm", going, code=3)


def test_register_writes_the_key_of_what_lies_there_or_of_its_copy(suite: Suite, lora: Path) -> None:
    key = run(suite, "register", str(lora), "--name", "Ink").stdout.strip()
    assert [model["name"] for model in run_json(suite, "list")["models"]] == ["Ink"]
    assert run(suite, "where", key).stdout.strip() == str(lora)
    copied = run_json(suite, "register", str(lora), "--copy")["key"]
    assert copied != key
    assert Path(run(suite, "where", copied).stdout.strip()).is_relative_to(suite.data_dir)
    run(suite, "register", str(lora.parent / "nothing"), code=3)


def test_install_and_register_move_what_lies_there(suite: Suite, lora: Path) -> None:
    other = small_lora(lora.parent / "other.safetensors", base="sdxl")
    said = run(suite, "install", str(lora), "--move", "--dry-run").stdout
    assert "would install" in said
    assert lora.exists()
    key = run_json(suite, "install", str(lora), "--move")["model_key"]
    assert Path(run(suite, "where", key).stdout.strip()).is_relative_to(suite.data_dir)
    run(suite, "register", str(other), "--move")
    assert not lora.exists()
    assert not other.exists()
    run(suite, "install", str(lora), "--move", "--copy", code=2)
