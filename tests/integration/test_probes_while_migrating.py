"""A service whose database takes long to migrate is live meanwhile, and not ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep_common.serving import Application, start_server
from modelkeep_common.settings import ServiceSettings
from modelkeep_common.sqlite import migrations
from modelkeep_download.app import DownloadApplication
from modelkeep_download.config import DownloadSettings
from modelkeep_install.app import InstallApplication
from modelkeep_install.config import InstallSettings
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings
from support.ports import free_port

_LONG = """
CREATE TABLE long_one AS
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000000)
SELECT max(n) FROM numbers;
"""


async def status(port: int, path: str) -> int:
    """The status of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        return int((await reader.read()).split()[1])
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("settings_class", "made"),
    [
        (RecordSettings, RecordApplication),
        (DownloadSettings, DownloadApplication),
        (InstallSettings, InstallApplication),
    ],
)
async def test_a_migration_keeps_no_probe_of_liveness_waiting(
    settings_class: type[ServiceSettings],
    made: Callable[[Any], Application],
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = (*migrations.COMMON, migrations.Migration(len(migrations.COMMON) + 1, _LONG))
    monkeypatch.setattr(migrations, "COMMON", common)
    settings = settings_class.for_test(data_dir, metrics_port=free_port())
    port = settings.metrics_port
    assert port
    starting = asyncio.create_task(start_server(made(settings), settings))
    told: list[tuple[int, int]] = []
    slowest = 0.0
    while not starting.done():
        await asyncio.sleep(0.05)
        try:
            begun = time.monotonic()
            told.append((await status(port, "/livez"), await status(port, "/readyz")))
            slowest = max(slowest, time.monotonic() - begun)
        except ConnectionRefusedError:
            continue  # it does not listen yet
    server = await starting
    try:
        assert told.count((200, 503)) > 3
        assert {live for live, _ in told} == {200}
        # Of those that deploy/kubernetes gives a probe of liveness.
        assert slowest < 5
        assert await status(port, "/readyz") == 200
    finally:
        await server.stop()
