"""Installs during which services are killed (SIGKILL), each at a random moment; then the account.

An address, a repository of Hugging Face and a page of Civitai take turns. After each install there is one
record, one copy of every byte, and nothing else.

    make soak ARGS="installs"                       (300 kills)
    make soak ARGS="installs --kills 40 --seed 7"
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from modelkeep.download.v1 import resolve_pb2
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.install.v1 import install_service_pb2_grpc as rpc
from modelkeep.record.v1 import record_service_pb2_grpc as record_rpc
from modelkeep.supervisor import Suite
from support.civitai import Civitai, File, Model, Version
from support.httpserver import HttpServer, Resource, Slow
from support.hub import Hub, files_of
from support.installs import InstallClient, small_lora
from support.suite import service_suite
from support.tinymodels import save_pipeline

SERVICES = ("record", "download", "install")
#: What looking a source up may take of a file: its beginning, a few times.
_LOOKED_UP_BYTES = 64 << 10
_CARD = b"---\nlicense: mit\n---\n# Tiny\n\nIt paints.\n"
#: Who is killed, and after how many seconds: of the install's beginning, or of the kill before.
Kill = tuple[str, float]


@dataclass(frozen=True)
class Served:
    """A model at a source.

    Attributes:
        kind: What people call such a source.
        source: What is asked for.
        files: What shall arrive: path in the model's folder, or the file's name, to its bytes.
        slow_down: Makes the next fetch of it take about so many seconds.
        sent: How many bytes of its files the source has sent.
    """

    kind: str
    source: install_pb2.InstallSource
    files: Mapping[str, bytes]
    slow_down: Callable[[float], None]
    sent: Callable[[], int]

    @property
    def size(self) -> int:
        """Of all files in bytes."""
        return sum(map(len, self.files.values()))


class Patient:
    """A stub whose calls wait for a service that is being restarted."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        return lambda request: method(request, wait_for_ready=True, timeout=60)


@contextlib.contextmanager
def sources(folder: Path) -> Iterator[tuple[list[Served], dict[str, str]]]:
    """Three models at their sources, and what a suite has to be told of where those are."""
    lora = small_lora(folder / "style.safetensors").read_bytes()
    tree = files_of(save_pipeline(folder / "pipeline", widths=(32, 32, 64, 64)))
    pipeline = {path: Path(where).read_bytes() for path, where in tree.items()}
    with HttpServer() as web, Hub() as hub, Civitai() as site:
        hub.repository("acme/tiny-sd", {**tree, "README.md": _CARD})
        paint = site.add(Model("Paint", [Version("v1", [File("paint.safetensors", lora)])], type="LORA"))
        page = f"https://civitai.com/models/{paint.id}"
        stored = site.storage.resources[f"/blobs/{paint.versions[0].files[0].id}"]
        resource = Resource(lora)
        url = web.put("/style.safetensors", resource)
        weights = sum(len(data) for path, data in pipeline.items() if path.endswith(".safetensors"))

        def slow_web(seconds: float) -> None:
            resource.rate = int(len(lora) / seconds)

        def slow_hub(seconds: float) -> None:
            hub.fail_storage(r"safetensors", *[Slow(int(weights / seconds / 2))] * 3)

        def slow_site(seconds: float) -> None:
            stored.rate = int(len(lora) / seconds)

        served = [
            Served(
                "address",
                install_pb2.InstallSource(url=url),
                {"style.safetensors": lora},
                slow_web,
                lambda: web.bytes_served("/style.safetensors"),
            ),
            Served(
                "repository",
                install_pb2.InstallSource(remote=resolve_pb2.RemoteSource(source="acme/tiny-sd")),
                pipeline,
                slow_hub,
                lambda: sum(request.bytes_sent for request in hub.storage.requests),
            ),
            Served(
                "page",
                install_pb2.InstallSource(remote=resolve_pb2.RemoteSource(source=page)),
                {"paint.safetensors": lora},
                slow_site,
                lambda: sum(request.bytes_sent for request in site.storage.requests),
            ),
        ]
        yield (
            served,
            {
                "MODELKEEP_DOWNLOAD_HUB_ENDPOINT": hub.url,
                "MODELKEEP_DOWNLOAD_CIVITAI_ENDPOINT": site.endpoint,
                "MODELKEEP_DOWNLOAD_RETRY_BASE_S": "0.05",
            },
        )


@contextlib.asynccontextmanager
async def client_of(suite: Suite) -> AsyncIterator[InstallClient]:
    """A client that waits for services that are being restarted."""
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500)]
    async with (
        grpc.aio.insecure_channel(suite.addresses["install"], options=options) as channel,
        grpc.aio.insecure_channel(suite.addresses["record"], options=options) as records,
    ):
        client = InstallClient(
            channel, record_rpc.RecordServiceStub(records), Path(os.path.realpath(suite.data_dir)) / "models"
        )
        client.stub = Patient(rpc.InstallServiceStub(channel))
        client.records = Patient(client.records)
        yield client


async def install_through_kills(
    suite: Suite, client: InstallClient, served: Served, kills: Sequence[Kill], download_s: float
) -> None:
    """Install a model, kill, and see that it is there once and nothing else is; then uninstall it."""
    served.slow_down(download_s)
    before = served.sent()
    answer = await client.stub.ImportModel(pb.ImportModelRequest(source=served.source))
    job = answer.install
    for victim, pause_s in kills:
        await asyncio.sleep(pause_s)
        await asyncio.to_thread(suite.kill, victim)
        await asyncio.to_thread(suite.restart, victim)
    done = await client.ended(job, timeout=60)
    assert done.state == install_pb2.INSTALL_STATE_COMPLETED, (served.kind, kills, done.error)
    assert done.model_key == job.model_key
    assert await client.models_count() == 1
    home = client.models / job.model_key
    listed = await client.digested(job.model_key)
    assert len(listed) == len(served.files), (served.kind, kills, [file.path for file in listed])
    there = {path: path.read_bytes() for path in client.models.rglob("*") if path.is_file() and _ours(path)}
    assert sorted(there.values()) == sorted(served.files.values()), (served.kind, kills, sorted(there))
    assert all(path.is_relative_to(home) for path in there), (served.kind, kills, sorted(there))
    assert client.litter() == [], (served.kind, kills)
    # The installer's own end costs no byte twice; a download goes on from what was durable.
    times = 2 if any(victim == "download" for victim, _ in kills) else 1
    sent = served.sent() - before
    assert sent <= times * served.size + _LOOKED_UP_BYTES, (served.kind, kills, sent, served.size)
    await client.stub.UninstallModel(
        pb.UninstallModelRequest(key=job.model_key, files=pb.UNINSTALL_FILES_OWNED)
    )
    await client.stub.PruneInstalls(pb.PruneInstallsRequest())


def _ours(path: Path) -> bool:
    """Whether a file is of a model, rather than of the service that keeps the folder."""
    return not path.name.startswith(".")


async def play(count: int, seed: int, tell: Callable[[str], None]) -> Counter[str]:
    """So many kills, each in an install of its own; how many there were of which kind."""
    moments, account = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="mk-") as folder, sources(Path(folder)) as (served, env):
        suite = service_suite(Path(folder) / "data", services=SERVICES, env=env)
        await asyncio.to_thread(suite.__enter__)
        try:
            async with client_of(suite) as client:
                for number in range(count):
                    what, victim = served[number % len(served)], moments.choice(SERVICES)
                    kill = (victim, moments.uniform(0, 1.5))
                    await install_through_kills(suite, client, what, [kill], download_s=0.8)
                    account[f"{what.kind}: {victim}"] += 1
                    if (number + 1) % 20 == 0:
                        tell(f"{number + 1} kills: each model once, no litter")
        finally:
            await asyncio.to_thread(suite.__exit__, None, None, None)
    return account


def main(argv: Sequence[str] | None = None) -> int:
    """Kill so often, and tell what came of it; ends at the first install that is not as it should be."""
    parser = argparse.ArgumentParser(prog="make soak ARGS=installs", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args(argv)
    print(f"{time.strftime('%Y-%m-%d')}  seed {args.seed}", flush=True)
    account = asyncio.run(play(args.kills, args.seed, lambda line: print(line, flush=True)))
    for what, count in sorted(account.items()):
        print(f"{count:5}  {what} killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
