"""Requests are checked against their rules without holding up the event loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from support.downloads import REPOSITORY

PROGRAM = """
import asyncio, sys, time
from pathlib import Path
import grpc.aio
from modelkeep.record.v1 import record_service_pb2 as pb, record_service_pb2_grpc as rpc
from modelkeep_common import serving
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings

class Longest:
    # The longest time for which the event loop did not come round.
    def __init__(self):
        self.seconds, self.last = 0.0, time.perf_counter()
    async def run(self):
        while True:
            now = time.perf_counter()
            self.seconds, self.last = max(self.seconds, now - self.last), now
            await asyncio.sleep(0)

async def main():
    serving._IMPORT_RULES_AFTER_S = 60  # the very first call pays for everything
    settings = RecordSettings.for_test(Path(sys.argv[1]))
    server = await serving.start_server(RecordApplication(settings), settings)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = rpc.RecordServiceStub(channel)
        await stub.GetStoreInfo(pb.GetStoreInfoRequest())  # has no rules
        assert "protovalidate" not in sys.modules
        longest = Longest()
        task = asyncio.create_task(longest.run())
        began = time.perf_counter()
        try:
            await stub.GetModel(pb.GetModelRequest(key="no key"))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        took = time.perf_counter() - began
        task.cancel()
    assert "protovalidate" in sys.modules
    print(took, longest.seconds)
    await server.stop()

asyncio.run(main())
"""


async def test_the_first_check_does_not_hold_up_the_event_loop(data_dir: Path) -> None:
    path = os.pathsep.join(str(REPOSITORY / part) for part in ("services", "clients/python"))
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM, str(data_dir)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=25,
    )
    assert ended.returncode == 0, ended.stderr
    took, longest = map(float, ended.stdout.split())
    # Half would do to show that it was another thread that did it; on a quiet machine it is a tenth.
    assert longest < took / 2, (took, longest)
