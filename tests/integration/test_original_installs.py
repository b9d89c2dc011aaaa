"""The original's ModelInstallService, example by example, through the Python client against a real suite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import MODEL_EVENT, Client, InstallStatus
from modelkeep.configs import (
    LoRAConfig,
    MainCheckpointConfig,
    SchedulerPredictionType,
    VaeDiffusersConfig,
)
from modelkeep.exceptions import SourceNotFoundException, UnknownJobIDException, UnknownModelException
from modelkeep.supervisor import Suite
from support import modelshapes
from support.httpserver import HttpServer, Resource

pytestmark = pytest.mark.timeout(60)


class Bus:
    """An event bus: keeps what is dispatched."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def dispatch(self, event_name: str, payload: Any) -> None:
        assert event_name == MODEL_EVENT == "model_event"
        self.events.append((payload["event"], payload["data"]))

    def of(self, source: object) -> list[tuple[str, dict[str, Any]]]:
        return [(name, data) for name, data in self.events if data["source"] == str(source)]


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"services": ("record", "download", "install")}


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def client(suite: Suite, bus: Bus) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir, event_bus=bus) as opened:
        yield opened
        opened.model_install.wait_for_installs(timeout=30)
        for config in opened.model_record_store.all_models():
            opened.model_install.unregister(config.key)
        opened.model_install.prune_jobs()


@pytest.fixture
def sushi(tmp_path: Path) -> Path:
    """A local safetensors file: a LoRA of true shapes."""
    return modelshapes.write_safetensors(tmp_path / "sushi.safetensors", modelshapes.table("lora.sd-1.peft"))


def test_the_basic_usage_of_import_model(
    client: Client, web: HttpServer, sushi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installer = client.model_install
    broken = tmp_path / "broken.safetensors"
    broken.write_text("this is no model")
    sources = [
        sushi,  # a local safetensors file
        modelshapes.write_vae_folder(tmp_path / "sushi_diffusers"),  # a local diffusers folder
        web.put("/fjacks/sd-3.safetensors", Resource(sushi.read_bytes())),  # arbitrary URL
        str(broken),
    ]

    for source in sources:
        install_job = installer.install_model(source)
        assert install_job.source is source

    source2job = installer.wait_for_installs()
    for source in sources:
        job = source2job[source]
        if job.status == "completed":
            model_config = job.config_out
            assert model_config is not None
            model_key = model_config.key
            print(f"{source} installed as {model_key}")
        elif job.status == "error":
            print(f"{source}: {job.error_type}.\nStack trace:\n{job.error}")

    assert set(source2job) == set(sources)
    said = capsys.readouterr().out.splitlines()
    for line, source in zip(said[:3], sources, strict=False):
        assert line == f"{source} installed as {source2job[source].model_key}"
    assert said[3] == f"{broken}: InvalidModelException."
    assert isinstance(source2job[sources[0]].config_out, LoRAConfig)
    assert isinstance(source2job[sources[1]].config_out, VaeDiffusersConfig)
    assert isinstance(source2job[sources[2]].config_out, LoRAConfig)


def test_the_fields_of_a_job_that_succeeds(client: Client, sushi: Path) -> None:
    assert {"waiting", "running", "completed", "error"} <= {status.value for status in InstallStatus}
    job = client.model_install.import_model(sushi, config={"name": "Sushi"})
    assert job.status in (InstallStatus.WAITING, InstallStatus.RUNNING, InstallStatus.COMPLETED)
    client.model_install.wait_for_installs(timeout=20)
    assert job.status is InstallStatus.COMPLETED
    assert job.config_in == {"name": "Sushi"}
    stored = client.model_record_store.get_model(job.model_key)
    assert job.config_out is not None
    assert (job.config_out.key, job.config_out.name, job.config_out.path) == (
        stored.key,
        "Sushi",
        stored.path,
    )
    assert job.inplace is True
    assert job.source == sushi
    assert job.local_path == sushi  # of a local model the same as source
    assert (job.error_type, job.error) == (None, None)


def test_the_fields_of_a_job_that_fails(client: Client, bus: Bus, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_text("this is no model")
    job = client.model_install.import_model(broken)
    client.model_install.wait_for_installs(timeout=20)
    assert job.status == "error"
    assert job.error_type == "InvalidModelException"
    assert job.error is not None
    assert "broken.safetensors" in job.error
    assert re.search(r"\nTraceback .*\n(  \w+\.py:\d+ in \w+\n)+InvalidModelException$", job.error)
    assert job.config_out is None
    name, data = bus.of(broken)[-1]
    assert name == "model_install_error"
    assert data.keys() == {"timestamp", "source", "error_type", "error"}
    assert (data["error_type"], data["error"]) == (job.error_type, job.error)


def test_the_traceback_of_a_job_has_no_secret_of_its_source(
    client: Client, bus: Bus, web: HttpServer, sushi: Path
) -> None:
    resource = Resource(sushi.read_bytes(), authorization="Bearer another")
    url = web.put("/locked/sushi.safetensors", resource) + "?token=hush-hush"
    job = client.model_install.import_model(url, access_token="hush-hush")
    client.model_install.wait_for_installs(timeout=20)
    assert job.status == "error"
    assert job.error is not None
    assert re.search(r"\nTraceback .*\n(  \w+\.py:\d+ in \w+\n)+TokenRejectedException$", job.error)
    assert "hush" not in job.error
    _, data = bus.of(job.source)[-1]
    assert data["error"] == job.error


def test_a_remote_model_is_downloaded_into_models_dir_with_events_on_the_way(
    client: Client, suite: Suite, web: HttpServer, bus: Bus, sushi: Path
) -> None:
    body = sushi.read_bytes()
    url = web.put("/remote.safetensors", Resource(body, rate=2 * len(body)))
    job = client.model_install.import_model(url)
    assert job.local_path is None
    client.model_install.wait_for_installs(timeout=30)
    assert job.status == "completed"
    assert job.source == url
    assert job.local_path is not None
    assert job.local_path.is_relative_to(suite.data_dir / "models")
    assert job.local_path.read_bytes() == body
    events = bus.of(url)
    assert [name for name, _ in events][:1] == ["model_install_started"]
    assert {name for name, _ in events[1:-1]} == {"model_install_progress"}
    assert [name for name, _ in events][-1:] == ["model_install_completed"]
    assert events[0][1].keys() == {"timestamp", "source"}
    for _, data in events[1:-1]:
        assert data.keys() == {"timestamp", "source", "current_bytes", "total_bytes"}
        assert 0 <= data["current_bytes"] <= data["total_bytes"] == len(body)
    assert events[-1][1].keys() == {"timestamp", "source", "key"}
    assert events[-1][1]["key"] == job.model_key


def test_a_local_model_is_moved_into_models_dir(client: Client, suite: Suite, sushi: Path) -> None:
    body = sushi.read_bytes()
    planned = client.model_install.rehearse(sushi, move=True)
    assert sushi.exists()
    assert planned.local_path == (suite.data_dir / "models").resolve()
    job = client.model_install.import_model(sushi, move=True)
    client.model_install.wait_for_installs(timeout=20)
    assert (job.status, job.inplace, job.message.move) == ("completed", False, True)
    assert not sushi.exists()
    assert job.local_path is not None
    assert job.local_path.read_bytes() == body
    sushi.write_bytes(body)
    assert client.model_install.install_path(sushi, move=True) == job.model_key, "it is installed already"
    assert sushi.exists()


def test_register_path_and_install_path_answer_with_the_key(
    client: Client, suite: Suite, sushi: Path, tmp_path: Path
) -> None:
    installer, store = client.model_install, client.model_record_store
    key = installer.register_path(sushi, {"name": "Sushi"})
    assert (store.get_model(key).path, store.get_model(key).name) == (str(sushi), "Sushi")
    copied = installer.install_path(sushi, {"description": "raw"})
    assert copied != key
    config = store.get_model(copied)
    assert config.description == "raw"
    assert (suite.data_dir / "models" / config.path).read_bytes() == sushi.read_bytes()
    assert sushi.exists()
    assert all(job.message.download_id == 0 for job in installer.list_jobs())
    with pytest.raises(SourceNotFoundException):
        installer.register_path(tmp_path / "nothing.safetensors")


def test_a_local_model_has_no_progress_events(client: Client, bus: Bus, sushi: Path) -> None:
    client.model_install.import_model(sushi)
    client.model_install.wait_for_installs(timeout=20)
    assert [name for name, _ in bus.of(sushi)] == ["model_install_started", "model_install_completed"]
    client.model_install.import_model(sushi, inplace=False)
    client.model_install.wait_for_installs(timeout=20)
    assert [name for name, _ in bus.of(sushi)] == ["model_install_started", "model_install_completed"] * 2


def test_inplace_registers_and_otherwise_a_copy_goes_into_models_dir(
    client: Client, suite: Suite, sushi: Path
) -> None:
    registered = client.model_install.import_model(sushi)
    client.model_install.wait_for_installs(timeout=20)
    assert registered.config_out is not None
    assert registered.config_out.path == str(sushi)
    client.model_install.unregister(registered.model_key)
    copied = client.model_install.import_model(sushi, inplace=False)
    client.model_install.wait_for_installs(timeout=20)
    assert copied.inplace is False
    assert copied.config_out is not None
    # Relative to models_dir, as the original has it.
    where = suite.data_dir / "models" / copied.config_out.path
    assert where == copied.local_path
    assert where.read_bytes() == sushi.read_bytes()


def test_access_token_opens_a_source_that_requires_it(client: Client, web: HttpServer, sushi: Path) -> None:
    resource = Resource(sushi.read_bytes(), authorization="Bearer open-sesame")
    url = web.put("/locked.safetensors", resource)
    job = client.model_install.import_model(url, access_token="open-sesame")
    client.model_install.wait_for_installs(timeout=20)
    assert job.status == "completed", job.error
    assert "open-sesame" not in str(job.message)


def test_config_overrides_what_the_probe_says(client: Client, tmp_path: Path) -> None:
    # Weights that no family knows, so that everything has to be said.
    odd = modelshapes.write_safetensors(tmp_path / "odd.safetensors", {"odd.weight": [8, 8]})
    install_job = client.model_install.import_model(
        source=odd,
        config=dict(  # noqa: C408  # as the original writes it
            model_type="main",
            base_model="sd-2",
            prediction_type=SchedulerPredictionType("v_prediction"),
            name="stable diffusion 2 base model",
        ),
    )
    client.model_install.wait_for_installs(timeout=20)
    assert install_job.status == "completed", install_job.error
    config = install_job.config_out
    assert isinstance(config, MainCheckpointConfig)
    assert config.prediction_type is SchedulerPredictionType.VPrediction
    assert (config.name, config.base_model) == ("stable diffusion 2 base model", "sd-2")


def test_probing_tells_type_and_base_and_gives_a_name(client: Client, sushi: Path) -> None:
    result = client.model_install.probe(sushi)
    assert (result.name, result.base, result.model.WhichOneof("config")) == ("sushi", "sd-1", "lora")
    assert client.model_install.probe(sushi, config={"base_model": "sd-2"}).model.base == "sd-2"
    assert client.model_record_store.all_models() == []  # a probe registers nothing
    job = client.model_install.import_model(sushi)
    client.model_install.wait_for_installs(timeout=20)
    config = job.config_out
    assert isinstance(config, LoRAConfig)
    assert (config.name, config.model_type, config.base_model) == ("sushi", "lora", "sd-1")
    assert config.description
    assert config.original_hash
    assert config.original_hash == config.current_hash
    assert config.source == str(sushi)


def test_jobs_are_listed_found_and_pruned(client: Client, sushi: Path, tmp_path: Path) -> None:
    installer = client.model_install
    rice = modelshapes.write_safetensors(tmp_path / "rice.safetensors", modelshapes.table("lora.sd-2.peft"))
    jobs = [installer.import_model(sushi), installer.import_model(rice)]
    installer.wait_for_installs(timeout=20)
    assert {job.id for job in installer.list_jobs()} == {job.id for job in jobs}
    assert [job.id for job in installer.list_jobs("sushi.safe")] == [jobs[0].id]
    assert installer.get_job(rice) is jobs[1]
    installer.prune_jobs()
    assert installer.list_jobs() == []
    with pytest.raises(UnknownJobIDException):
        installer.get_job(rice)
    assert len(client.model_record_store.all_models()) == 2


def test_jobs_of_addresses_that_are_shown_alike_are_each_found_by_their_own(
    client: Client, web: HttpServer, sushi: Path
) -> None:
    installer = client.model_install
    web.put("/get.safetensors", Resource(sushi.read_bytes()))
    one, other = (web.url(f"/get.safetensors?weights={name}") for name in ("anna", "bert"))
    jobs = installer.import_model(one), installer.import_model(other)
    assert {job.message.source.url for job in jobs} == {web.url("/get.safetensors?weights=REDACTED")}
    assert installer.wait_for_installs(timeout=20) == {one: jobs[0], other: jobs[1]}
    assert (installer.get_job(one).id, installer.get_job(other).id) == (jobs[0].id, jobs[1].id)
    with pytest.raises(UnknownJobIDException):  # its newest job is another model's, for all that is shown
        installer.get_job(web.url("/get.safetensors?weights=carl"))


def test_of_installs_that_are_shown_alike_everyone_is_waited_for(
    client: Client, suite: Suite, web: HttpServer, sushi: Path
) -> None:
    body = sushi.read_bytes()
    web.put("/get.safetensors?weights=anna", Resource(body, rate=len(body)))
    web.put("/get.safetensors?weights=bert", Resource(body, rate=2 * len(body)))
    with Client(data_dir=suite.data_dir) as onlooker:
        for name in ("anna", "bert"):
            client.model_install.import_model(web.url(f"/get.safetensors?weights={name}"))
        onlooker.model_install.wait_for_installs(timeout=20)
        assert {job.status for job in onlooker.model_install.list_jobs()} == {"completed"}


def test_prune_jobs_leaves_what_is_pending(client: Client, web: HttpServer, sushi: Path) -> None:
    body = sushi.read_bytes()
    url = web.put("/slow.safetensors", Resource(body, rate=len(body) // 10))
    pending = client.model_install.import_model(url)
    done = client.model_install.import_model(sushi)
    client.model_install.wait_for_job(done, timeout=20)
    client.model_install.prune_jobs()
    assert [job.id for job in client.model_install.list_jobs()] == [pending.id]
    client.model_install.cancel_job(pending)
    assert client.model_install.wait_for_job(pending, timeout=20).status == "cancelled"


def test_jobs_are_paused_resumed_made_anew_and_deleted(client: Client, web: HttpServer, sushi: Path) -> None:
    installer, body = client.model_install, sushi.read_bytes()
    resource = Resource(body, rate=len(body) // 30)
    job = installer.import_model(web.put("/slow.safetensors", resource))
    assert installer.pause_job(job) is job
    assert (job.status, job.error, job.retry_of) == ("paused", None, None)
    assert installer.wait_for_installs() == {job.source: job}, "what is paused is not waited for"
    installer.cancel_job(job)
    installer.wait_for_job(job, timeout=20, ended=True)
    assert job.status == "cancelled"
    again = installer.retry_job(job)
    assert again.retry_of == job.id
    resource.rate = None
    installer.pause_job(again.id)
    installer.resume_job(again.id)
    assert installer.wait_for_job(again.id, timeout=20).status == "completed"
    assert installer.retry_failed_jobs() == []
    assert installer.delete_job(again).status == "completed"
    with pytest.raises(UnknownJobIDException):
        installer.get_job_by_id(again.id)
    assert client.model_record_store.exists(again.model_key)


def test_unregister_removes_the_record_and_no_file(client: Client, sushi: Path) -> None:
    job = client.model_install.import_model(sushi, inplace=False)
    client.model_install.wait_for_installs(timeout=20)
    assert job.local_path is not None
    client.model_install.unregister(job.model_key)
    with pytest.raises(UnknownModelException):
        client.model_record_store.get_model(job.model_key)
    assert job.local_path.exists()
    # "equivalent to installer.record_store.del_model(key)"
    again = client.model_install.import_model(sushi)
    client.model_install.wait_for_installs(timeout=20)
    client.model_record_store.del_model(again.model_key)
    assert sushi.exists()
    assert not client.model_record_store.exists(again.model_key)


def test_delete_takes_only_the_files_inside_models_dir(client: Client, sushi: Path) -> None:
    inside = client.model_install.import_model(sushi, inplace=False)
    client.model_install.wait_for_installs(timeout=20)
    outside = client.model_install.import_model(sushi)
    client.model_install.wait_for_installs(timeout=20)
    assert inside.local_path is not None
    client.model_install.delete(inside.model_key)
    client.model_install.delete(outside.model_key)
    assert not inside.local_path.exists()
    assert sushi.exists()
    assert client.model_record_store.all_models() == []


def test_unconditionally_delete_takes_files_outside_models_dir_too(client: Client, sushi: Path) -> None:
    job = client.model_install.import_model(sushi)
    client.model_install.wait_for_installs(timeout=20)
    assert client.model_install.unconditionally_delete(job.model_key) == [sushi]
    assert not sushi.exists()
    assert not client.model_record_store.exists(job.model_key)


def test_the_parts_of_the_installer_are_at_hand(client: Client, suite: Suite, bus: Bus) -> None:
    assert client.model_install.event_bus is bus
    assert client.model_record_store.version() == "3.2"
    info = client.server_info("install")
    models = [root.path for root in info.roots if root.purpose == "models"]
    assert models == [str((suite.data_dir / "models").resolve())]
