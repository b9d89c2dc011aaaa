"""From RAM to VRAM by the copier, against what torch does; and how soon memory is there, away and back.

``python tests/bench/cuda_copies.py sim:1x512MiB`` tries the code where there is no GPU; those figures
say nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from figures import Spread, ratios, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modelkeep.devices.driver import DeviceFacts, DeviceGoneError
from modelkeep_loader.accelerators import Accelerators
from support.devices import weights
from support.devicesteps import DeviceWorker

ROUNDS = 5


async def measure(accelerators: Accelerators, facts: DeviceFacts, size: int) -> None:
    """Print the figures of one device."""
    source = weights(size)
    target = await accelerators.create(facts.name, size)

    async def fill(keep: str) -> float:
        began = time.perf_counter()
        await accelerators.fill(facts.name, target, source, size, lambda done: None, keep=keep)
        return time.perf_counter() - began

    await fill("")  # starts the copier, and makes its ring
    first = await fill("component")
    kept = [await fill("component") for _ in range(ROUNDS)]
    once = [await fill("") for _ in range(ROUNDS)]
    print(
        f"  {size / 1e9:.1f} GB to {facts.product}; the first copy, registered for it: {rate(size, [first])}"
    )
    print(f"  registered: {rate(size, kept)}; through the ring: {rate(size, once)}")
    if facts.name.startswith("cuda"):
        pinned, pageable = torch_copies(source, size)
        print(f"  torch, pinned: {rate(size, pinned)}; torch, pageable: {rate(size, pageable)}")
        share, times = ratios(pinned, kept), ratios(pageable, kept)
        report("registered, share of pinned", share.text("x"), "0.95x", share.median >= 0.95)
        report("registered, times as fast as pageable", times.text("x", 1), "5x", times.median >= 5)
    await let_go_and_back(accelerators, facts, size, target)
    os.close(target)
    os.close(source)


async def let_go_and_back(accelerators: Accelerators, facts: DeviceFacts, size: int, target: int) -> None:
    """Demote and promote under a mapping, and the end of the last holder."""
    kind, rounded = facts.name.partition(":")[0], facts.rounded(size)
    with DeviceWorker(kind) as worker:
        worker.do("map", target, uuid=facts.uuid, size_bytes=rounded)
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            worker.do("unmap")
            worker.do("map_again", target)
            seconds.append(time.perf_counter() - began)
        both = Spread.of([one * 1000 for one in seconds])
        report("unmapped and mapped again at the same address", both.text("ms"), "5 ms", both.median <= 5)
        held = await accelerators.create(facts.name, size)
        worker.do("unmap")
        worker.do("map_again", held)
        os.close(held)
        before = (await accelerators.memory(facts.name)).free_bytes
        began = time.perf_counter()
        worker.process.kill()
        while (await accelerators.memory(facts.name)).free_bytes < before + rounded // 2:
            if time.perf_counter() - began > 10:
                break
        back = time.perf_counter() - began
    report("the last holder killed: memory back after", f"{back * 1000:.0f} ms", "1000 ms", back <= 1)


def torch_copies(source: int, size: int) -> tuple[list[float], list[float]]:
    """Seconds of torch's copies from pinned and from pageable memory, by turns."""
    import torch

    there = torch.empty(size, dtype=torch.uint8, device="cuda")
    pageable = torch.frombuffer(bytearray(os.pread(source, 1 << 20, 0)), dtype=torch.uint8)
    pageable = pageable.repeat(-(-size // (1 << 20)))[:size].contiguous()
    pinned = pageable.pin_memory()

    def timed(copy: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        copy()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    pairs = [
        (timed(lambda: there.copy_(pinned, non_blocking=True)), timed(lambda: there.copy_(pageable)))
        for _ in range(ROUNDS)
    ]
    return [first for first, _ in pairs], [second for _, second in pairs]


def rate(size: int, seconds: list[float]) -> str:
    """GB/s of copies."""
    return Spread.of([size / one / 1e9 for one in seconds]).text("GB/s", 1)


async def _run(spec: str) -> None:
    accelerators = Accelerators(spec)
    try:
        await accelerators.open()
    except DeviceGoneError as error:
        print(f"  skipped: no CUDA ({error})")
        return
    try:
        for facts in accelerators.devices:
            free = (await accelerators.memory(facts.name)).free_bytes
            await measure(
                accelerators, facts, min(4 << 30, free // 4 // facts.granularity * facts.granularity)
            )
    finally:
        await accelerators.close()


def main() -> bool:
    """Run and print."""
    asyncio.run(_run("cuda"))
    return True


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1] if len(sys.argv) > 1 else "cuda"))
