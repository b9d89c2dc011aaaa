"""Killing a RecordService in the midst of writes, and counting what is there afterwards."""

from __future__ import annotations

import asyncio
import random
import signal
from typing import Any

from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.records import RecordProcess, vae
from support.waiting import until


async def everything(stub: Any) -> dict[str, model_pb2.Model]:
    page = await stub.ListModels(pb.ListModelsRequest(page_size=1000, view=pb.MODEL_VIEW_FULL))
    assert not page.next_page_token
    return {model.key: model for model in page.models}


async def check_kills(process: RecordProcess, seed: int, rounds: int) -> None:
    """Kill it while eight callers write, again and again: what was answered is there, and nothing is half.

    Args:
        process: The service, not started yet; it does not run afterwards.
        seed: Chooses what is written, and when the kills come.
        rounds: How many kills there are.
    """
    chance = random.Random(seed)
    expected: dict[str, model_pb2.Model] = {}
    doubtful: dict[str, model_pb2.Model | None] = {}
    serial = 0

    async def writer(stub: Any) -> None:
        nonlocal serial
        while True:
            serial += 1
            mine = serial
            known = sorted(expected.keys() - doubtful.keys())
            key = chance.choice(known) if known and chance.random() < 0.5 else ""
            if not key:
                key = f"{mine:032x}"
                doubtful[key] = vae(f"v{mine}", key=key)
                answer = await stub.CreateModel(pb.CreateModelRequest(model=doubtful[key]))
                expected[key] = answer.model
            elif chance.random() < 0.7:
                doubtful[key] = vae(f"renamed{mine}", key=key)
                change = model_pb2.Model(key=key, name=f"renamed{mine}")
                answer = await stub.UpdateModel(pb.UpdateModelRequest(model=change))
                expected[key] = answer.model
            else:
                doubtful[key] = None
                await stub.DeleteModel(pb.DeleteModelRequest(key=key))
                del expected[key]
            del doubtful[key]

    for _ in range(rounds):
        stub = await process.start()
        writers = [asyncio.ensure_future(writer(stub)) for _ in range(8)]
        begun = serial
        await until(lambda: serial > begun + 20)  # noqa: B023  it is waited for right here
        await asyncio.sleep(chance.random() / 4)
        assert await process.stop(signal.SIGKILL) == -signal.SIGKILL
        await asyncio.gather(*writers, return_exceptions=True)
        stub = await process.start()
        found = await everything(stub)
        for key in expected.keys() - doubtful.keys():
            assert found[key] == expected[key], f"seed {seed}"
        for key, attempted in doubtful.items():
            # A call without an answer was carried out, or was not: never half.
            if key not in found:
                assert attempted is None or key not in expected
            elif attempted is None or found[key].name != attempted.name:
                assert found[key] == expected[key]
        assert found.keys() <= expected.keys() | doubtful.keys()
        expected, doubtful = found, {}
        await process.stop(signal.SIGKILL)
