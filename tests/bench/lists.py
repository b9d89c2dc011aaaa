"""ListModels of a thousand records, and searches among a hundred thousand, over a channel.

The records lie in a database that the store itself filled; the service is a process of its own. Each question
asks for one page and has an index; the times are those of the client, one call after the other.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import grpc
from figures import Spread, cpu_seconds, report

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1 import record_service_pb2_grpc as rpc
from modelkeep.rpc import Address, TokenFile, open_channel
from modelkeep.supervisor import Suite
from modelkeep_record.domain import rules
from modelkeep_record.stores.sqlite import SqliteRecordStore
from modelkeep_record.stores.store import Once

RECORDS = 100_000
CALLS = 40
ONCE = Once("", b"", "", "")
WORDS = ("portrait", "landscape", "anime", "photo", "detail", "light", "colour", "style", "sketch", "noir")
MAIN, VAE, LORA = taxonomy_pb2.MODEL_TYPE_MAIN, taxonomy_pb2.MODEL_TYPE_VAE, taxonomy_pb2.MODEL_TYPE_LORA
FAMILIES = ("sd-1", "sd-2", "sdxl", "flux", "sd-3")


def record(number: int) -> model_pb2.Model:
    """A record of usual size; what it is found by is shared by some, or its own."""
    late = number % 30 == 0
    dice = number * 2_654_435_761 % (1 << 32) >> 8  # so that a base has names from all over the order
    return model_pb2.Model(
        key=f"{number:08x}" * 4,
        name=f"{'zeta' if late else WORDS[number % 10]} {WORDS[number // 10 % 10]} {number}",
        description=f"A {WORDS[number % 7]} of usual length, number{number}, made to be found. " * 2,
        type=VAE if late else LORA if number % 3 else MAIN,
        format=taxonomy_pb2.MODEL_FORMAT_DIFFUSERS,
        base=FAMILIES[dice % 5],
        path=f"/models/{number % 100}/{number}",
        tags=[WORDS[number % 10], f"set-{number // 20}"],
        labels={"owner": f"user-{number % 5000}"},
        source=f"owner/repository-{number}",
        original_hash=f"blake3:{number:064x}",
        size_bytes=number << 10,
    )


async def fill(path: Path) -> None:
    """Put all records into a database."""
    store = await SqliteRecordStore.open(path)
    for begin in range(0, RECORDS, 1000):

        async def unit(records: rules.Records, begin: int = begin) -> bytes:
            for number in range(begin, begin + 1000):
                await rules.create(records, record(number), [], 1.7e9 + number)
            return b""

        await store.write(unit, ONCE)
    await store.close()


def questions() -> dict[str, pb.ModelFilter]:
    """What is asked."""
    some = record(4321)
    return {
        "name": pb.ModelFilter(name=some.name),
        "name, whatever its case": pb.ModelFilter(name_caseless=some.name.upper()),
        "path": pb.ModelFilter(paths=[some.path]),
        "hash": pb.ModelFilter(hash=some.original_hash),
        "source": pb.ModelFilter(source=some.source),
        "beginning of a key": pb.ModelFilter(key_prefix=some.key[:8]),
        "tag that 20 have": pb.ModelFilter(tags=[some.tags[1]]),
        "label that 20 have": pb.ModelFilter(labels=some.labels),
        "two tags, base and type": pb.ModelFilter(tags=some.tags, bases=[some.base], types=[some.type]),
        "base and type that 6,000 have": pb.ModelFilter(bases=["flux"], types=[MAIN]),
        "type that 3,333 have, with the last names": pb.ModelFilter(types=[VAE]),
        "word that one record has": pb.ModelFilter(text="number54321"),
        "word that 20,000 have": pb.ModelFilter(text="noir"),
        "part of a word, and a tag": pb.ModelFilter(text="ortrai", tags=[some.tags[1]]),
    }


class Asking:
    """Calls ListModels, and remembers how long it took."""

    def __init__(self, channel: grpc.Channel, pid: int) -> None:
        self._stub = rpc.RecordServiceStub(channel)
        self._pid = pid

    def times(self, request: pb.ListModelsRequest) -> tuple[Spread, float]:
        """Milliseconds of a call, and what the server's processor spent on it."""
        times = []
        before = cpu_seconds(self._pid)
        for _ in range(CALLS):
            begin = time.perf_counter()
            answer = self._stub.ListModels(request)
            times.append((time.perf_counter() - begin) * 1e3)
            assert answer.models, request
        return Spread.of(times), (cpu_seconds(self._pid) - before) / CALLS * 1e3


def main() -> bool:
    """Run and print; whether the bars hold."""
    holds = True
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        (data_dir / "record").mkdir(parents=True, mode=0o700)
        begin = time.perf_counter()
        asyncio.run(fill(data_dir / "record" / "record.db"))
        took = time.perf_counter() - begin
        report(f"{RECORDS:,} records made, 1,000 in a transaction", f"{took:.0f} s", "-", None)
        with Suite(data_dir, services=("record",)) as suite:
            token = TokenFile(suite.data_dir / "run" / "tokens" / "owner")
            address = Address("record", suite.addresses["record"], "the suite", token=token)
            with open_channel(address) as channel:
                asking = Asking(channel, suite.pids["record"])
                asking.times(pb.ListModelsRequest())
                for view in (pb.MODEL_VIEW_BASIC, pb.MODEL_VIEW_FULL):
                    request = pb.ListModelsRequest(page_size=1000, view=view)
                    spread, cpu = asking.times(request)
                    holds &= show(f"ListModels of 1,000, {pb.ModelView.Name(view)}", spread, cpu, 20)
                for name, filter in questions().items():
                    spread, cpu = asking.times(pb.ListModelsRequest(filter=filter))
                    holds &= show(f"search by {name}", spread, cpu, 10)
    return holds


def show(name: str, spread: Spread, cpu_ms: float, bar_ms: float) -> bool:
    """Print a row."""
    value = f"{spread.text('ms', 1)}, server's CPU {cpu_ms:.1f} ms"
    return report(name, value, f"<= {bar_ms} ms", spread.median <= bar_ms)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
