"""The rules of requests are compiled on another thread than the event loop's, which other calls need."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from support.downloads import REPOSITORY

PROGRAM = """
import asyncio, json, sys, threading
from pathlib import Path
import grpc.aio
from modelkeep.record.v1 import record_service_pb2 as pb, record_service_pb2_grpc as rpc
from modelkeep_common.calls import validation
from modelkeep_common.serving import server as serving
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings

LOOP, imported, checked = threading.current_thread(), [], []

class Noting:
    # Asked by each import for where a module is.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "protovalidate":
            imported.append(threading.current_thread() is LOOP)

def noting_collector():
    check = collector()
    def checks(*message, **options):
        checked.append(threading.current_thread() is LOOP)
        return check(*message, **options)
    return checks

collector = validation.collector
validation.collector = noting_collector
sys.meta_path.insert(0, Noting)

async def main():
    serving._IMPORT_RULES_AFTER_S = 60  # the very first call pays for everything
    settings = RecordSettings.for_test(Path(sys.argv[1]))
    server = await serving.start_server(RecordApplication(settings), settings)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = rpc.RecordServiceStub(channel)
        await stub.GetStoreInfo(pb.GetStoreInfoRequest())  # has no rules
        assert not imported and not checked
        for _ in range(2):
            try:
                await stub.GetModel(pb.GetModelRequest(key="no key"))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    print(json.dumps([imported, checked]))
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
    imported, checked = json.loads(ended.stdout)
    assert imported == [False]
    # The first of a type, which compiles its rules, elsewhere; the others on the loop, since they are quick.
    assert checked == [False, True, True]
