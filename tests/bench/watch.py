"""How long one change takes to reach 1,000 watchers, and what idle watchers cost in memory."""

from __future__ import annotations

import asyncio
import os
import time
import uuid

from figures import Spread, report, rss_bytes

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1 import record_service_pb2_grpc as rpc
from modelkeep.rpc import Address, TokenFile, open_async_channel
from modelkeep.supervisor import Suite

WATCHERS = 1000
CHANNELS = 20
ROUNDS = 7
BAR_MS = 100.0


async def watch(
    stub: rpc.RecordServiceAsyncStub, live: asyncio.Semaphore, arrivals: asyncio.Queue[tuple[str, float]]
) -> None:
    """Read one watch until cancelled; note when each change arrives."""
    call = stub.WatchModels(pb.WatchModelsRequest(skip_snapshot=True), timeout=600)
    try:
        async for frame in call:
            if not frame.events:
                live.release()
            for event in frame.events:
                arrivals.put_nowait((event.put.name, time.perf_counter()))
    finally:
        call.cancel()


async def measure(address: Address, server_pid: int) -> tuple[list[float], float]:
    """Milliseconds from the answer of the write to the last of the watchers, and bytes per watcher."""
    channels = [open_async_channel(address, ("grpc.use_local_subchannel_pool", 1)) for _ in range(CHANNELS)]
    stubs: list[rpc.RecordServiceAsyncStub] = [rpc.RecordServiceStub(channel) for channel in channels]
    model = (
        await stubs[0].CreateModel(
            pb.CreateModelRequest(
                model=model_pb2.Model(
                    name="bench",
                    type=taxonomy_pb2.MODEL_TYPE_VAE,
                    format=taxonomy_pb2.MODEL_FORMAT_DIFFUSERS,
                    base="sdxl",
                    path=f"/bench/{uuid.uuid4().hex}",
                    vae=model_pb2.VaeConfig(),
                )
            )
        )
    ).model
    before = rss_bytes(server_pid)
    live, arrivals = asyncio.Semaphore(0), asyncio.Queue[tuple[str, float]]()
    readers = [asyncio.create_task(watch(stubs[n % CHANNELS], live, arrivals)) for n in range(WATCHERS)]
    for _ in range(WATCHERS):
        await live.acquire()
    await asyncio.sleep(1)
    per_watcher = (rss_bytes(server_pid) - before) / WATCHERS
    delays: list[float] = []
    for turn in range(ROUNDS):
        name = f"bench {turn}"
        begin = time.perf_counter()
        await stubs[0].UpdateModel(pb.UpdateModelRequest(model=model_pb2.Model(key=model.key, name=name)))
        last = begin
        for _ in range(WATCHERS):
            seen, moment = await asyncio.wait_for(arrivals.get(), 30)
            assert seen == name, f"expected {name}, a watcher got {seen}"
            last = max(last, moment)
        delays.append((last - begin) * 1000)
        await asyncio.sleep(0.5)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return delays, per_watcher


def main() -> bool:
    """Run and print; whether every bar holds."""
    with Suite(services=("record",)) as suite:
        pid = suite.pids["record"]
        owners = TokenFile(suite.data_dir / "run" / "tokens" / "owner")
        address = Address("record", suite.addresses["record"], "the suite", token=owners)
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(pid, {cores[0]})
            os.sched_setaffinity(0, {cores[1]})
        try:
            delays, per_watcher = asyncio.run(measure(address, pid))
        finally:
            os.sched_setaffinity(0, set(cores))
    spread = Spread.of(delays)
    return all(
        (
            report(
                f"a change to {WATCHERS} watchers, write included",
                spread.text("ms", 0),
                f"<= {BAR_MS:.0f} ms",
                spread.median <= BAR_MS,
            ),
            report(
                f"{WATCHERS} idle watchers, server's memory",
                f"{per_watcher * WATCHERS / 1e6:.0f} MB ({per_watcher / 1e3:.0f} kB each)",
                "<= 30 MB",
                per_watcher * WATCHERS <= 30e6,
            ),
        )
    )


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
