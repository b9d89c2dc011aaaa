"""A suite whose disk is full: it starts, refuses what needs room with a reason, and can be cleared."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client
from modelkeep.exceptions import DiskFullException, WrongStateException
from modelkeep.supervisor import read_suite_file
from support import modelshapes
from support.cli import run, run_json
from support.httpserver import HttpServer, Resource
from support.modelshapes import write_safetensors
from support.smalldisk import fill, free_bytes, small_disk
from support.suite import service_suite
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(64) as folder:
        yield folder


@pytest.fixture
def large_disk() -> Iterator[Path]:
    """Has room for some models."""
    with small_disk(256) as folder:
        yield folder


def said(data_dir: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in (data_dir / "logs").iterdir())


@pytest.mark.long  # another whole suite
def test_on_a_full_disk_records_can_be_removed_and_none_added(disk: Path) -> None:
    with service_suite(disk / "data") as suite, Client(data_dir=suite.data_dir) as client:
        keys = [add(client, number) for number in range(20)]
        ballast = fill(disk)
        added = 20
        while is_added(client, added):
            added += 1
        assert added < 2000
        fill(disk)
        for key in keys[:10]:
            client.model_record_store.del_model(key)
        for service in suite.services:
            suite.kill(service)
            suite.restart(service)
        for key in keys[10:]:
            client.model_record_store.del_model(key)
        assert not is_added(client, 3000)
        ballast.unlink()
        deadline = time.monotonic() + 30
        while not is_added(client, 3000):
            assert time.monotonic() < deadline, "the room is there again"
            time.sleep(0.2)
    assert "Traceback" not in said(disk / "data")


@pytest.mark.long  # another whole suite
def test_a_suite_starts_and_stops_on_a_full_disk(disk: Path) -> None:
    with service_suite(disk / "data"):
        pass
    fill(disk)
    up = subprocess.Popen(
        [Path(sys.executable).with_name("modelkeep"), "up", "--port", "0", "--data-dir", disk / "data"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env=dict(os.environ),
    )
    deadline = time.monotonic() + 60
    while up.poll() is None and read_suite_file(disk / "data") is None and time.monotonic() < deadline:
        time.sleep(0.1)
    described = read_suite_file(disk / "data")
    up.send_signal(signal.SIGTERM)
    words = up.communicate(timeout=60)[0]
    assert up.returncode == 0, words
    assert described is not None, words
    assert "Traceback" not in words + said(disk / "data")


def test_a_first_start_on_a_full_disk_says_what_to_do(disk: Path) -> None:
    fill(disk)
    done = subprocess.run(
        [Path(sys.executable).with_name("modelkeep"), "up", "--port", "0", "--data-dir", disk / "data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 73, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "free some space" in done.stdout


def add(client: Client, number: int) -> str:
    config: dict[str, Any] = {
        "name": f"model {number}",
        "model_type": "lora",
        "model_format": "lycoris",
        "base_model": "sd-1",
        "path": f"loras/{number}.safetensors",
        "description": "d" * 20_000,
    }
    client.model_record_store.add_model(f"{number:032x}", config)
    return f"{number:032x}"


def is_added(client: Client, number: int) -> bool:
    try:
        add(client, number)
    except DiskFullException:
        return False
    return True


def test_on_a_full_disk_every_command_that_frees_room_works(
    large_disk: Path, tmp_path: Path, web: HttpServer
) -> None:
    disk = large_disk
    lora = write_safetensors(tmp_path / "style.safetensors", modelshapes.table("lora.sd-1.peft"))
    content = lora.read_bytes()
    with service_suite(disk / "data") as suite:
        odd = write_safetensors(tmp_path / "odd.safetensors", {"x": [256, 1024]}).read_bytes()
        slow = Resource(content, rate=len(content) // 60)
        failed = web.put("/odd.safetensors", Resource(odd))
        running = [web.put(f"/{name}.safetensors", slow) for name in ("a", "b")]
        run(suite, "install", str(lora), "--copy", "--name", "copied")
        run(suite, "install", str(lora), "--copy", "--again", "--name", "second")
        run(suite, "install", failed, code=1)
        run(suite, "install", running[0], "-d")
        run(suite, "downloads", "add", running[1], "-d")
        for name in ("/a.safetensors", "/b.safetensors"):
            wait_until(partial(web.bytes_served, name), "the download does not begin")
        fill(disk)
        with Client(data_dir=suite.data_dir) as client:
            # what the full disk has ended by itself is not cancelled any more
            queue = client.create_download_queue("")
            for install in client.model_install.list_jobs():
                with contextlib.suppress(WrongStateException):
                    client.model_install.cancel_job(install)
            for download in queue.list_jobs():
                with contextlib.suppress(WrongStateException):
                    queue.cancel_job(download)
        fill(disk)
        for job in run_json(suite, "installs", "list", failed)["installs"]:
            run(suite, "installs", "rm", job["id"])
        fill(disk)
        run(suite, "cache", "evict", "copied")
        run(suite, "rm", "copied", "-y")
        run(suite, "installs", "prune")
        run(suite, "downloads", "prune")
        fill(disk)
        run(suite, "rm", "second", "-y")
        assert free_bytes(disk) >= len(content) - (1 << 16)  # pages that the databases took meanwhile
        assert run_json(suite, "list")["models"] == []
        models = [path for path in (disk / "data" / "models").rglob("*") if path.is_file()]
        assert [path.name for path in models if not path.name.startswith(".modelkeep-root")] == []
    assert "Traceback" not in said(disk / "data")
