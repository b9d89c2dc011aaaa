"""Records in a YAML file: how long a start, a change, a list and a search take with so many of them.

    python tests/bench/yamlstore.py [--records 1000,10000]

Beside a change on SQLite with as many records in the same run; processor times too, since machines are
shared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / part) for part in ("tests", "services", "clients/python")]

from figures import Spread, ratios, report, rss_bytes  # noqa: E402  # after the path is set

from modelkeep.model.v1 import model_pb2, taxonomy_pb2  # noqa: E402
from modelkeep_record.domain import rules  # noqa: E402
from modelkeep_record.domain.query import Order, Query  # noqa: E402
from modelkeep_record.stores.sqlite import SqliteRecordStore  # noqa: E402
from modelkeep_record.stores.store import Once, RecordStore  # noqa: E402
from modelkeep_record.stores.yaml import YamlRecordStore  # noqa: E402

NOBODY = Once("", b"", "", "")
ROUNDS = 20
FILES = [
    model_pb2.ModelFile(
        path="x.safetensors",
        size_bytes=123_456,
        sha256="a" * 64,
        blake3="b" * 64,
        digest_state="DIGEST_STATE_VERIFIED",
    )
]


def lora(number: int) -> model_pb2.Model:
    """A LoRA as an install from Civitai would have it, about 0.8 KB of YAML."""
    return model_pb2.Model(
        key=f"{number:032x}",
        name=f"model {number}",
        type=taxonomy_pb2.MODEL_TYPE_LORA,
        format=taxonomy_pb2.MODEL_FORMAT_LYCORIS,
        base="sd-1",
        path=f"/models/{number}.safetensors",
        tags=["style", f"t{number % 50}"],
        description="A LoRA of some style\nwith two lines.",
        original_hash=f"{number:032x}",
        current_hash=f"{number:032x}",
        source=f"https://civitai.com/models/{number}",
        size_bytes=123_456,
        lora=model_pb2.LoraConfig(rank=8),
    )


async def fill(store: RecordStore, count: int) -> None:
    """Store so many records in one transaction."""

    async def unit(records: rules.Records) -> bytes:
        for number in range(count):
            await rules.create(records, lora(number), FILES, time.time())
        return b""

    await store.write(unit, NOBODY)


async def change(store: RecordStore, number: int) -> None:
    """Describe a record anew."""

    async def unit(records: rules.Records) -> bytes:
        text = f"described at {time.time()}"
        await rules.update(
            records, model_pb2.Model(key=f"{number:032x}", description=text), None, None, time.time()
        )
        return b""

    await store.write(unit, NOBODY)


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Milliseconds, and those of the processor, that some work takes."""
    start, processor = time.perf_counter(), time.process_time()
    await work()
    return (time.perf_counter() - start) * 1e3, (time.process_time() - processor) * 1e3


def told(times: list[tuple[float, float]]) -> str:
    """Both, as their spread."""
    whole, processor = (Spread.of(list(values)) for values in zip(*times, strict=True))
    return f"{whole.text('ms', 1)}, processor {processor.text('ms', 1)}"


async def measure(folder: Path, count: int) -> None:
    """All figures with so many records."""
    file = folder / "models.yaml"
    made = await YamlRecordStore.open(file)
    await fill(made, count)
    await made.close()
    peer = await SqliteRecordStore.open(folder / "models.db")
    await fill(peer, count)
    opened: list[YamlRecordStore] = []

    async def start() -> None:
        opened.append(await YamlRecordStore.open(file))

    report(
        f"{count:,} records ({file.stat().st_size >> 10:,} KiB): start",
        told([await timed(start)]),
        "none",
        None,
    )
    store = opened[0]
    ours, theirs = [], []
    for number in range(ROUNDS):
        ours.append(await timed(lambda number=number: change(store, number)))  # type: ignore[misc]  # a default
        theirs.append(await timed(lambda number=number: change(peer, number)))  # type: ignore[misc]  # a default
    report("  a change", told(ours), "none", None)
    slower = ratios([whole for whole, _ in ours], [whole for whole, _ in theirs])
    report("  … against SQLite", slower.text("×", 1), "none", None)
    together = [await timed(lambda: asyncio.gather(*(change(store, number) for number in range(100))))]
    report("  100 changes at once", told(together), "none", None)
    for name, query in (("list of 1,000", Query()), ("search", Query(words=(f"model {count - 1}",)))):
        times = []
        for number in range(5):
            await change(store, number)
            times.append(
                await timed(lambda query=query: store.page(query, Order.NAME, False, [], 1000, 1 << 22))  # type: ignore[misc]
            )
        report(f"  the first {name} after a change", told(times), "none", None)
    report("  memory of this process", f"{rss_bytes(os.getpid()) >> 20} MiB", "none", None)
    await store.close()
    await peer.close()


def main() -> None:
    """Measure with the numbers of records that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", default="1000,10000")
    chosen = parser.parse_args(sys.argv[1:] if Path(sys.argv[0]).name == Path(__file__).name else [])
    for count in map(int, chosen.records.split(",")):
        with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
            asyncio.run(measure(Path(folder), count))


if __name__ == "__main__":
    main()
