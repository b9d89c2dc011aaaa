"""Repositories of Hugging Face by the Python client and the command line, against a real suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client, InstallStatus
from modelkeep.supervisor import Suite
from support.cli import run, run_json
from support.hub import Hub
from support.installs import small_lora

pytestmark = pytest.mark.timeout(60)

CARD = """---
license: openrail++
instance_prompt: inkpaper
---
# Ink

A style of ink on paper, drawn by hand.
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as started:
        yield started


@pytest.fixture(scope="module")
def suite_options(hub: Hub) -> dict[str, Any]:
    env = {"MODELKEEP_DOWNLOAD_HUB_ENDPOINT": hub.url, "MODELKEEP_INSTALL_HUB_MIRRORS": f'["{hub.url[7:]}"]'}
    return {"services": ("record", "download", "install"), "env": env}


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as opened:
        yield opened
        for config in opened.model_record_store.all_models():
            opened.model_install.delete(config.key)
        opened.model_install.prune_jobs()


@pytest.fixture
def lora(tmp_path: Path) -> bytes:
    return small_lora(tmp_path / "lora.safetensors").read_bytes()


def test_jobs_are_told_by_the_callers_own_objects_and_found_by_any_spelling(
    client: Client, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/jobs", {"README.md": CARD.encode(), "ink.safetensors": lora})
    hub.repository("org/parts", {"a/pen.safetensors": lora[:-1] + b"\1", "b/x.safetensors": lora})
    installs = client.model_install
    sources = ["org/jobs", f"{hub.url}/org/parts/blob/main/a/pen.safetensors"]
    for source in sources:
        installs.install_model(source)
    source2job = installs.wait_for_installs(timeout=40)
    assert list(source2job) == sources
    for source in sources:
        job = source2job[source]
        assert (job.status, job.source, job.error) == (InstallStatus.COMPLETED, source, None)
        assert job.plan is not None
        assert job.config_out is not None
        assert job.config_out.trigger_phrases == (["inkpaper"] if source == "org/jobs" else [])
    assert installs.get_job("https://huggingface.co/org/jobs").id == source2job["org/jobs"].id
    assert installs.get_job("org/parts:a/pen.safetensors").id == source2job[sources[1]].id
    again = installs.wait_for_job(installs.import_model("hf:org/jobs"), timeout=20)
    assert again.installed_already


def test_a_dry_run_prints_the_plan_and_what_is_here_and_an_install_the_licence(
    suite: Suite, client: Client, hub: Hub, lora: bytes
) -> None:
    repository = hub.repository("org/cli", {"README.md": CARD.encode(), "ink.safetensors": lora})
    told = run(suite, "install", "org/cli", "--dry-run").stdout
    for part in ("org/cli", repository.sha, "openrail++", "ink.safetensors", "fetched"):
        assert part in told
    dry = run_json(suite, "install", "org/cli", "--dry-run")
    assert dry["plan"]["revision"] == repository.sha
    assert [file["path"] for file in dry["plan"]["files"]] == ["ink.safetensors"]
    assert dry["progress"]["bytes_total"] == str(len(lora))
    assert client.model_record_store.all_models() == []

    done = run(suite, "install", "org/cli")
    assert "Installed" in done.stdout
    assert "openrail++" in done.output
    [config] = client.model_record_store.all_models()
    assert (config.source, config.source_type) == ("org/cli", "hf_repo_id")
    assert "Installed already" in run(suite, "install", "org/cli", "--dry-run").stdout
    # the same bytes at another place need no fetching
    hub.repository("org/copy", {"ink.safetensors": lora})
    here = run(suite, "install", "org/copy", "--dry-run").stdout
    assert "copied from" in here
    shown = run(suite, "installs", "show", str(client.model_install.get_job("org/cli").id)).stdout
    assert repository.sha in shown


def test_what_the_hub_refuses_is_said_with_what_helps(suite: Suite, hub: Hub, lora: bytes) -> None:
    hub.repository("org/two", {"ink.safetensors": lora, "pen.safetensors": lora + b" " * 8})
    told = run(suite, "install", "org/two", "--dry-run", code=1).output
    assert "org/two:ink.safetensors" in told
    hub.repository("org/gated", {"ink.safetensors": lora}, gated="auto").grant("bob")
    paused = run(suite, "install", "org/gated", code=1).output
    assert "is paused" in paused
    done = run(suite, "install", "org/gated", "--token", hub.token("bob"))
    assert "Installed" in done.stdout
