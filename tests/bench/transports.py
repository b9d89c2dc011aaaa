"""Ways to fetch 16 MiB pieces over HTTP and write them to a file: the engine's own against three libraries.

Run by hand; the answer stands in docs/adr/0015. nginx serves a file from the page cache over loopback, plain
or TLS. Each run is a process of its own, so that its CPU seconds are the client's alone; the contenders take
turns.

    .venv/bin/uv run --no-project --with pycurl --with httpcore python tests/bench/transports.py [http|https]

Where the machine has something else to do, the CPU seconds and the ratios count, not the rates.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.nginx import CERTIFICATE, nginx

PIECE, BUFFER = 16 << 20, 1 << 20
#: Fetches the bytes from `first` to `last` and gives them to the writer, with their offset.
Get = Callable[[int, int], None]
Write = Callable[[memoryview | bytes, int], None]


def own(url: str, write: Write) -> Get:
    """The engine's transport, as the service uses it."""
    from modelkeep_download.engine.guard import AddressGuard
    from modelkeep_download.engine.stops import StopSignal
    from modelkeep_download.engine.transport import HttpTransport

    transport = HttpTransport(AddressGuard(allow_private=True), tls=trusting)
    stop, buffer = StopSignal(), memoryview(bytearray(BUFFER))

    def get(first: int, last: int) -> None:
        headers = {"Range": f"bytes={first}-{last}"}
        with contextlib.closing(
            transport.open(url, token=None, userinfo="", headers=headers, stop=stop)
        ) as response:
            body = response.body()
            while count := body.readinto(buffer):
                write(buffer[:count], first)
                first += count

    return get


def standard(url: str, write: Write) -> Get:
    """http.client of the standard library."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    connection = (
        http.client.HTTPConnection(authority, timeout=30)
        if scheme == "http"
        else http.client.HTTPSConnection(authority, timeout=30, context=trusting())
    )
    buffer = memoryview(bytearray(BUFFER))

    def get(first: int, last: int) -> None:
        connection.request("GET", f"/{path}", headers={"Range": f"bytes={first}-{last}"})
        response = connection.getresponse()
        while count := response.readinto(buffer):
            write(buffer[:count], first)
            first += count

    return get


def httpcore(url: str, write: Write) -> Get:
    """What httpx stands on, blocking."""
    import httpcore as library

    pool = library.ConnectionPool(ssl_context=trusting())

    def get(first: int, last: int) -> None:
        with pool.stream("GET", url, headers={"Range": f"bytes={first}-{last}"}) as response:
            for piece in response.iter_stream():
                write(piece, first)
                first += len(piece)

    return get


def pycurl(url: str, write: Write) -> Get:
    """libcurl, through its binding."""
    import pycurl as library  # type: ignore[import-untyped]

    curl, at = library.Curl(), [0]

    def take(piece: bytes) -> None:
        write(piece, at[0])
        at[0] += len(piece)

    curl.setopt(library.URL, url)
    curl.setopt(library.CAINFO, str(CERTIFICATE))
    curl.setopt(library.BUFFERSIZE, 512 * 1024)
    curl.setopt(library.WRITEFUNCTION, take)

    def get(first: int, last: int) -> None:
        at[0] = first
        curl.setopt(library.RANGE, f"{first}-{last}")
        curl.perform()

    return get


CONTENDERS = {one.__name__: one for one in (own, standard, httpcore, pycurl)}


def trusting() -> ssl.SSLContext:
    """Trusts the server of this benchmark."""
    return ssl.create_default_context(cafile=str(CERTIFICATE))


def fetch(name: str, url: str, path: str, size: int, connections: int) -> dict[str, float]:
    """One run: every piece, over so many connections."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, size)
    pieces, failed = list(range(0, size, PIECE)), []

    def write(piece: memoryview | bytes, at: int) -> None:
        if os.pwrite(fd, piece, at) != len(piece):
            raise OSError("cut")

    # Here, so that no import is measured.
    gets = [CONTENDERS[name](url, write) for _ in range(connections)]

    def work(get: Get) -> None:
        try:
            while pieces:
                with contextlib.suppress(IndexError):
                    first = pieces.pop()
                    get(first, min(first + PIECE, size) - 1)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(get,)) for get in gets]
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    os.close(fd)
    if failed:
        raise failed[0]
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {"seconds": seconds, "cpu": cpu}


def table(url: str, folder: Path, args: argparse.Namespace, connections: int) -> None:
    """Run the contenders in turn, and print a line for each."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    digests = set()
    for turn in range(args.rounds):
        names = list(runs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            out = folder / "out"
            runs[name].append(child(name, url, str(out), args.size, connections))
            if turn == 0:
                digests.add(subprocess.check_output(["sha256sum", "--", str(out)]).split()[0])
            out.unlink()
    if len(digests) != 1:
        raise SystemExit("transports: the files differ")
    gib = args.size / (1 << 30)
    for name, found in runs.items():
        cpu = statistics.median(run["cpu"] for run in found) / gib
        rate = statistics.median(args.size / run["seconds"] / 1e9 for run in found)
        slower = statistics.median(
            run["cpu"] / mine["cpu"] for run, mine in zip(found, runs["own"], strict=True)
        )
        scheme = url.partition(":")[0]
        print(
            f"{scheme:<6} {connections} connections  {name:<9} {rate:5.2f} GB/s  {cpu:5.2f} CPU s/GiB"
            f"  {slower:5.2f} x own CPU",
            flush=True,
        )


def child(name: str, url: str, path: str, size: int, connections: int) -> dict[str, float]:
    """One run in a process of its own."""
    task = json.dumps([name, url, path, size, connections])
    output = subprocess.check_output([sys.executable, __file__, "--task", task])
    found: dict[str, float] = json.loads(output)
    return found


def main(argv: list[str] | None = None) -> bool:
    """Run and print; there is no bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("schemes", nargs="*", default=["http", "https"])
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of the file, a multiple of 16 MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.task:
        task: Any = args.task
        print(json.dumps(fetch(*task)))
        return True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "a.bin").open("wb") as file:
            for _ in range(0, args.size, PIECE):
                file.write(random.randbytes(PIECE))
        with nginx(folder, folder) as server:
            for scheme in args.schemes:
                for connections in args.connections:
                    table(server.url("a.bin", tls=scheme == "https"), folder, args, connections)
    return True


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
