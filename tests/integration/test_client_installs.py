"""The Python client's calls about installs and installed models, against a real suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.client import Client
from modelkeep.exceptions import FieldInvalidException, SourceNotFoundException, UnknownJobIDException
from modelkeep.supervisor import Suite
from support.installs import small_lora


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as client:
        yield client
        for config in client.model_record_store.all_models():
            client.model_install.unregister(config.key)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return small_lora(tmp_path / "ink.safetensors")


def test_what_is_installed_already_is_said_and_rehearsed(client: Client, lora: Path) -> None:
    installs = client.model_install
    assert (installs.rehearse(lora).installed_already, installs.rehearse(lora).id) == (False, 0)
    first = installs.wait_for_job(installs.import_model(lora, labels={"run": "7"}), timeout=20)
    again = installs.wait_for_job(installs.import_model(lora), timeout=20)
    assert (first.status, again.status) == ("completed", "completed")
    assert (again.installed_already, again.model_key) == (True, first.model_key)
    assert again.config_out is not None
    assert again.config_out.labels == {"run": "7"}
    assert installs.rehearse(lora).model_key == first.model_key
    copied = installs.wait_for_job(installs.import_model(lora, inplace=False), timeout=20)
    assert copied.same_content == [first.model_key]
    one = installs.wait_for_job(installs.import_model(lora, inplace=False, reuse="content"), timeout=20)
    assert one.installed_already
    assert {job.id for job in installs.list_jobs(labels={"run": "7"})} == {first.id}
    assert installs.prune_jobs([first.id], statuses=["error"]) == 0
    assert installs.prune_jobs([first.id]) == 1
    with pytest.raises(UnknownJobIDException):
        installs.get_job_by_id(first.id)
    assert installs.prune_jobs(older_than=3600) == 0
    with pytest.raises(FieldInvalidException, match="older_than"):
        installs.prune_jobs(older_than=float("nan"))
    assert installs.prune_jobs() >= 3


def test_an_uninstall_is_told_first_and_a_moved_model_relinked(client: Client, lora: Path) -> None:
    installs = client.model_install
    job = installs.wait_for_job(installs.import_model(lora, inplace=False), timeout=20)
    assert job.local_path is not None
    told = installs.uninstall(job.model_key, "owned", validate_only=True)
    assert (told.deleted_paths, told.deleted_count) == ([job.local_path], 1)
    assert (told.deleted_bytes, told.leases, told.leases_known, told.shared) == (
        lora.stat().st_size,
        [],
        True,
        {},
    )
    assert job.local_path.exists()
    kept = installs.uninstall(job.model_key, "keep")
    assert kept.deleted_count == 0

    second = installs.wait_for_job(installs.import_model(lora), timeout=20)
    moved = lora.rename(lora.with_name("moved.safetensors"))
    assert installs.rehearse(moved).missing_content == [second.model_key]
    with pytest.raises(SourceNotFoundException):
        installs.relink(second.model_key, lora)
    with pytest.raises(FieldInvalidException):
        installs.relink(second.model_key, small_lora(lora, base="sdxl"))
    config = installs.relink(second.model_key, moved)
    assert (config.key, config.path) == (second.model_key, str(moved))


def test_a_model_file_that_is_not_there_is_no_repository(client: Client) -> None:
    with pytest.raises(SourceNotFoundException, match="nothing at"):
        client.model_install.import_model("owner/name.safetensors")
