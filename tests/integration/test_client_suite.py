"""The Python client against a real suite: jobs that follow, handlers, events, the original's names."""

from __future__ import annotations

import asyncio
import functools
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import (
    AsyncClient,
    Client,
    DownloadJobPath,
    DownloadJobRemoteSource,
    DownloadJobStatus,
    DownloadJobURL,
    InstallStatus,
    _jobs,
)
from modelkeep.client._watch import follow
from modelkeep.configs import LoRAConfig, VaeCheckpointConfig, VaeDiffusersConfig
from modelkeep.exceptions import (
    DeadlineExceededException,
    DuplicateModelException,
    FieldInvalidException,
    InstallInProgressException,
    InvalidModelConfigException,
    UnavailableException,
    UnknownJobIDException,
    UnknownModelException,
)
from modelkeep.supervisor import Suite
from support import modelshapes
from support.httpserver import HttpServer, Resource, pattern

README = Path(__file__).resolve().parents[2] / "clients" / "python" / "README.md"
VAE = {"name": "v", "path": "/v.safetensors", "type": "vae", "format": "checkpoint", "base": "sd-1"}


class Bus:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.threads: set[str] = set()

    def dispatch(self, event_name: str, payload: Any) -> None:
        self.events.append((event_name, payload))
        self.threads.add(threading.current_thread().name)

    def of(self, source: object) -> list[dict[str, Any]]:
        return [payload for _, payload in self.events if payload["data"]["source"] == str(source)]


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as opened:
        yield opened
        for config in opened.model_record_store.all_models():
            opened.model_record_store.del_model(config.key)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return modelshapes.write_safetensors(tmp_path / "sketch.safetensors", modelshapes.table("lora.sd-1.peft"))


# -- records --------------------------------------------------------------------------------------------


def test_records_are_kept_under_the_originals_names(client: Client, tmp_path: Path) -> None:
    store = client.model_record_store
    assert store.version() == "3.2"
    path = tmp_path / "v.safetensors"
    path.touch()  # else the installer, which looks meanwhile, marks the record as missing
    terms = {"tags": ["sfw", "soft"], "license": "allowCommercialUse=Sell"}
    added = store.add_model("f" * 32, {**VAE, "path": path, **terms})
    assert isinstance(added, VaeCheckpointConfig)
    assert store.exists("f" * 32)
    assert not store.exists("e" * 32)
    assert not store.exists("no key at all")
    assert store.get_model("f" * 32) == added
    assert store.search_by_path(str(path)) == added
    assert store.search_by_path(path) == added
    assert store.search_by_name(base="sd-1", type="vae") == [added]
    assert store.search_by_name("v", "sdxl") == []
    assert store.search_by_tag(["sfw", "soft"]) == [added]
    assert store.search_by_tag(["sfw", "hard"]) == []
    assert store.model_info_by_name("v", "sd-1", "vae") == added
    assert [config.key for config in store.all_models() if config.license.contains("allowCommercialUse=Sell")]
    with pytest.raises(DuplicateModelException):
        store.add_model("f" * 32, {**VAE, "path": "/w"})
    with pytest.raises(InvalidModelConfigException):
        store.add_model(None, {**VAE, "type": "nonsense"})
    with pytest.raises(UnknownModelException):
        store.search_by_path("/nowhere")
    store.del_model("f" * 32)
    with pytest.raises(UnknownModelException):
        store.get_model("f" * 32)


def test_records_are_changed_by_object_and_by_sparse_dict(client: Client) -> None:
    store = client.model_record_store
    key = store.add_model(None, {**VAE, "description": "old", "tags": ["a"]}).key
    assert store.update_model(key, {"description": "new"}).tags == ["a"]
    cleared = store.update_model(key, {"description": None, "tags": []})
    assert (cleared.description, cleared.tags) == (None, [])
    cleared.name = "by object"
    changed = store.update_model(key, cleared)
    assert changed.name == "by object"
    # An object that was read before another change still writes all of itself, as in the original.
    assert store.update_model(key, cleared).name == "by object"
    moved = store.update_model(key, {"model_format": "diffusers"})
    assert isinstance(moved, VaeDiffusersConfig)
    with pytest.raises(InvalidModelConfigException):
        store.update_model(key, {"nonsense": 1})
    with pytest.raises(UnknownModelException):
        store.update_model("e" * 32, {"name": "x"})


def test_lists_follow_all_pages(client: Client) -> None:
    store = client.model_record_store
    # A page ends before 4 MiB, so a hundred long descriptions take several.
    for number in range(100):
        store.add_model(None, {**VAE, "path": f"/{number}", "description": "x" * 60_000})
    assert len(store.all_models()) == 100


def test_a_model_inside_models_dir_is_found_by_its_absolute_path(
    client: Client, suite: Suite, lora: Path
) -> None:
    job = client.model_install.import_model(lora, inplace=False)
    client.model_install.wait_for_installs(timeout=20)
    assert job.local_path is not None
    assert job.local_path.is_relative_to(suite.data_dir / "models")
    found = client.model_record_store.search_by_path(job.local_path)
    assert found.key == job.model_key
    assert not Path(found.path).is_absolute()
    assert client.model_install.delete(found.key) == [job.local_path]


# -- installs -------------------------------------------------------------------------------------------


def test_wait_for_installs_is_keyed_by_the_callers_own_objects(client: Client, tmp_path: Path) -> None:
    good = modelshapes.write_safetensors(tmp_path / "good.safetensors", modelshapes.table("lora.sd-1.peft"))
    bad = tmp_path / "bad.safetensors"
    bad.write_text("this is no model")
    sources = [good, str(bad)]
    jobs = [client.model_install.import_model(source) for source in sources]
    source2job = client.model_install.wait_for_installs(timeout=20)
    assert set(source2job) == set(sources)
    assert [source2job[source] for source in sources] == jobs
    assert jobs[0].status == "completed"
    assert isinstance(jobs[0].config_out, LoRAConfig)
    assert jobs[0].local_path == good
    assert jobs[0].inplace
    assert jobs[1].status == InstallStatus.ERROR
    assert jobs[1].error_type == "InvalidModelException"
    assert jobs[1].error
    newest = client.model_install.get_job(bad)
    assert newest is jobs[1]
    assert jobs[1] in client.model_install.list_jobs("bad.safe")
    assert client.model_install.prune_jobs() >= 2
    with pytest.raises(UnknownJobIDException):
        client.model_install.get_job(good)


def test_overrides_win_in_the_record_and_bad_ones_are_refused_at_once(client: Client, lora: Path) -> None:
    config = {"name": "mine", "base_model": "sd-2", "tags": ["x"]}
    job = client.model_install.import_model(lora, config=config)
    client.model_install.wait_for_installs(timeout=20)
    assert job.config_in == config
    assert job.config_out is not None
    assert (job.config_out.name, job.config_out.base_model, job.config_out.tags) == ("mine", "sd-2", ["x"])
    with pytest.raises(InvalidModelConfigException) as caught:
        client.model_install.import_model(lora, config={"prediction_type": "v-prediction", "key": "x"})
    assert {violation.field for violation in caught.value.violations} == {"prediction_type", "key"}


def test_the_event_bus_hears_of_an_install_in_order(suite: Suite, web: HttpServer, lora: Path) -> None:
    body = lora.read_bytes()
    url = web.put("/events.safetensors", Resource(body, rate=len(body)))
    bus = Bus()
    with Client(data_dir=suite.data_dir, event_bus=bus) as client:
        remote = client.model_install.import_model(url)
        local = client.model_install.import_model(lora)
        client.model_install.wait_for_installs(timeout=25)
        assert {name for name, _ in bus.events} == {"model_event"}
        names = [event["event"] for event in bus.of(url)]
        assert names[0] == "model_install_started"
        assert names[-1] == "model_install_completed"
        assert set(names[1:-1]) == {"model_install_progress"}
        assert bus.of(url)[-1]["data"]["key"] == remote.model_key
        progress = [event["data"] for event in bus.of(url)[1:-1]]
        done = [data["current_bytes"] for data in progress]
        assert done == sorted(done)
        assert {data["total_bytes"] for data in progress} == {len(body)}
        assert [event["event"] for event in bus.of(lora)] == [
            "model_install_started",
            "model_install_completed",
        ]
        assert bus.threads == {"modelkeep-events_0"}
        for job in (remote, local):
            client.model_install.delete(job.model_key)


def test_the_same_source_joins_its_job_and_other_arguments_are_refused(
    client: Client, web: HttpServer
) -> None:
    url = web.put("/twice.safetensors", Resource(pattern(1_000_000), rate=100_000))
    job = client.model_install.import_model(url)
    assert client.model_install.import_model(url) is job
    with pytest.raises(InstallInProgressException) as caught:
        client.model_install.import_model(url, config={"name": "other"})
    assert caught.value.metadata["id"] == str(job.id)
    with pytest.raises(DeadlineExceededException):
        client.model_install.wait_for_installs(timeout=0.1)
    client.model_install.cancel_job(job)
    assert client.model_install.wait_for_job(job, timeout=20).status == "cancelled"


# -- downloads ------------------------------------------------------------------------------------------


def test_handlers_hear_of_a_download_in_order_the_jobs_own_first(
    client: Client, suite: Suite, web: HttpServer
) -> None:
    body = pattern(2_000_000)
    url = web.put("/file.bin", Resource(body, rate=4_000_000))
    heard: list[tuple[str, str]] = []
    queue = client.create_download_queue(
        "ordered", event_handlers=[lambda job: heard.append(("queue", job.status))]
    )
    job = queue.create_download_job(
        url,
        suite.data_dir / "downloads" / "fetched",
        "named.bin",
        event_handlers=[lambda job: heard.append(("job", job.status))],
    )
    queue.join(timeout=25)
    assert isinstance(job, DownloadJobURL)
    assert job.status == DownloadJobStatus.COMPLETED
    assert job.path == suite.data_dir / "downloads" / "fetched" / "named.bin"
    assert job.path.read_bytes() == body
    assert (job.bytes, job.total_bytes) == (len(body), len(body))
    assert job.job_started is not None
    assert job.job_ended is not None
    assert job.job_started <= job.job_ended
    assert heard[0::2] == [("job", status) for _, status in heard[0::2]]
    assert heard[1::2] == [("queue", status) for _, status in heard[0::2]]
    states = [status for _, status in heard[0::2]]
    assert states[0] == "enqueued"
    assert states[-1] == "completed"
    assert len(states) > 2
    assert set(states[1:-1]) == {"running"}


def test_a_handler_may_call_the_client_it_belongs_to(client: Client, suite: Suite, web: HttpServer) -> None:
    url = web.put("/endless.bin", Resource(pattern(1_000_000), rate=50_000))
    heard: list[str] = []

    def stop(job: Any) -> None:
        heard.append(job.status)
        if job.status == "running" and not job.message.error.reason:
            client.download_queue.cancel_job(job)

    job = client.download_queue.create_download_job(
        url, suite.data_dir / "downloads" / "stopped", event_handlers=[stop]
    )
    client.download_queue.join(timeout=20)
    assert job.status == "cancelled"
    assert heard[-1] == "cancelled"


def test_a_failing_handler_harms_nobody(
    client: Client, suite: Suite, web: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = web.put("/small.bin", Resource(b"\0small\xff"))

    def fail(job: Any) -> None:
        raise RuntimeError("a handler's own fault")

    job = client.download_queue.create_download_job(
        url, suite.data_dir / "downloads" / "harmless", event_handlers=[fail]
    )
    client.download_queue.join(timeout=20)
    assert job.status == "completed"
    assert "a handler's own fault" in caplog.text


def test_queues_are_apart_and_know_their_own_jobs(client: Client, suite: Suite, web: HttpServer) -> None:
    url = web.put("/idle.bin", Resource(b"\0idle\xff"))
    one, two = client.create_download_queue("one"), client.create_download_queue("two")
    folder = suite.data_dir / "downloads" / "apart"
    job = one.create_download_job(url, folder, start=False, priority=3)
    assert (job.status, job.priority) == ("idle", 3)
    assert one.id_to_job(job.id) is job
    assert [found.id for found in one.list_jobs()] == [job.id]
    assert two.list_jobs() == []
    with pytest.raises(UnknownJobIDException):
        two.id_to_job(job.id)
    with pytest.raises(UnknownJobIDException):
        two.cancel_job(job)
    with pytest.raises(UnknownJobIDException):
        one.start_job(DownloadJobRemoteSource(source=url, destination=folder))
    one.join(timeout=10)  # an idle job is not waited for
    one.start_job(job)
    one.join(timeout=20)
    assert job.status == "completed"
    assert two.prune_jobs() == 0
    assert one.prune_jobs() == 1


def test_a_local_file_is_moved_and_a_malformed_address_fails_at_once(client: Client, suite: Suite) -> None:
    source = suite.data_dir.parent / "here.bin"
    source.write_bytes(b"moved")
    folder = suite.data_dir / "downloads" / "moved"
    job = client.download_queue.submit_download_job(DownloadJobPath(source=source, destination=f"{folder}/"))
    client.download_queue.join(timeout=20)
    assert job.status == "completed"
    assert (folder / "here.bin").read_bytes() == b"moved"
    assert not source.exists()
    with pytest.raises(FieldInvalidException):
        client.download_queue.create_download_job("https://", folder)


# -- loader, all four -----------------------------------------------------------------------------------


async def test_the_asyncio_client_has_the_same_methods(suite: Suite, lora: Path) -> None:
    async with AsyncClient(data_dir=suite.data_dir) as client:
        job = await client.model_install.import_model(lora)
        await client.model_install.wait_for_installs(timeout=20)
        assert job.status == "completed"
        assert [tier.tier for tier in (await client.model_loader.capacity()).tiers]
        assert await client.model_loader.residents() == []
        assert await client.model_loader.leases() == []
        assert (await client.model_loader.evict(job.model_key)).freed_bytes == 0
        assert (await client.server_info("loader")).service == "loader"
        await client.model_install.unregister(job.model_key)


async def test_who_waits_for_a_job_is_told_that_the_client_was_closed(
    suite: Suite, web: HttpServer, lora: Path
) -> None:
    url = web.put("/slow.safetensors", Resource(lora.read_bytes(), rate=10_000))
    client = AsyncClient(data_dir=suite.data_dir)
    job = await client.model_install.import_model(url)
    download = await client.download_queue.create_download_job(url, suite.data_dir / "downloads" / "slow.bin")
    waits = [
        asyncio.create_task(client.model_install.wait_for_job(job)),
        asyncio.create_task(client.download_queue.join()),
    ]
    await asyncio.sleep(0.3)  # both wait
    await client.close()
    for wait in waits:
        with pytest.raises(RuntimeError, match="client is closed"):
            await asyncio.wait_for(wait, 5)
    async with AsyncClient(data_dir=suite.data_dir) as another:
        await another.model_install.cancel_job(job.id)
        await another.download_queue.cancel_job(download.id)


def test_a_watch_and_the_jobs_outlive_a_restart_of_the_service(
    client: Client, suite: Suite, lora: Path
) -> None:
    watch = client.model_install.watch(skip_snapshot=False)
    while not next(watch).snapshot_complete:
        pass
    client.model_install.wait_for_installs(timeout=1)
    suite.kill("install")
    suite.restart("install")
    job = client.model_install.import_model(lora)
    assert client.model_install.wait_for_installs(timeout=20)[lora].status == "completed"
    seen = []
    while "completed" not in seen:
        frame = next(watch)
        assert not frame.restarted
        seen += [event.put.status for event in frame.events if event.put is not None and event.id == job.id]
    watch.close()


def test_handlers_hear_of_what_ended_while_the_service_was_away_for_too_long(
    client: Client, suite: Suite, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_jobs, "follow", functools.partial(follow, patience_s=0.2))
    url = web.put("/away.bin", Resource(pattern(1_000_000), rate=50_000))
    heard: list[str] = []
    job = client.download_queue.create_download_job(
        url, suite.data_dir / "downloads" / "away", event_handlers=[lambda job: heard.append(job.status)]
    )
    suite.kill("download")
    with pytest.raises(UnavailableException):
        client.download_queue.join(timeout=20)
    web.put("/away.bin", Resource(pattern(1_000_000)))
    suite.restart("download")
    client.download_queue.join(timeout=20)
    assert job.status == "completed"
    assert heard[-1] == "completed"


def test_closing_in_the_middle_of_news_never_hangs(suite: Suite, lora: Path) -> None:
    for _ in range(15):
        with Client(data_dir=suite.data_dir) as client:
            key = client.model_install.import_model(lora).model_key
    with Client(data_dir=suite.data_dir) as client:
        client.model_install.import_model(lora)
        client.model_install.wait_for_installs(timeout=20)
        for config in client.model_record_store.all_models():
            client.model_record_store.del_model(config.key)
    assert key


def test_a_program_that_forgets_to_close_its_client_ends_without_noise(suite: Suite, lora: Path) -> None:
    code = (
        "import sys\n"
        "from modelkeep.client import Client\n"
        "client = Client(data_dir=sys.argv[1])\n"
        "client.model_install.import_model(sys.argv[2])\n"
        "watch = client.model_install.watch()\n"
        "next(watch)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(suite.data_dir), str(lora)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.long
@pytest.mark.timeout(120)
def test_the_ten_lines_of_the_readme_run(suite: Suite, tmp_path: Path) -> None:
    from support import tinymodels  # here, since it imports torch

    tinymodels.save_pipeline(tmp_path / "tiny-sd")
    code = re.search(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 10
    done = subprocess.run(
        [sys.executable, "-c", code[1]],
        cwd=tmp_path,
        env={"MODELKEEP_DATA_DIR": str(suite.data_dir), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["tiny-sd completed", "AutoencoderKL torch.bfloat16"]
