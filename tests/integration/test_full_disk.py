"""A suite whose disk is full: it starts, refuses what needs room with a reason, and can be cleared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client
from modelkeep.exceptions import DiskFullException
from modelkeep.supervisor import read_suite_file
from support.smalldisk import fill, small_disk
from support.suite import service_suite

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(64) as folder:
        yield folder


def said(data_dir: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in (data_dir / "logs").iterdir())


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
