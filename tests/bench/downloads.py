"""Downloads through a real DownloadService, against aria2, curl, huggingface_hub and hashlib.

The server is nginx on loopback, whose files lie in the page cache; what is downloaded goes to a real disk.
Ours is measured from CreateDownload to COMPLETED, so always with SHA-256 and durable; what a peer leaves
undone is to its advantage. Rows by name, smaller files, and fewer rounds, while one tunes:

    python tests/bench/downloads.py --rows plain,verified --size 512M --rounds 3
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / part) for part in ("tests", "services", "clients/python")]

from fetching import Fetcher, Meter, fetcher  # noqa: E402  # after the path is set
from figures import Spread, ratios, report  # noqa: E402
from peers import Peers, Race, Ran  # noqa: E402

from modelkeep.download.v1 import limits_pb2  # noqa: E402
from support.nginx import CERTIFICATE, Nginx, nginx  # noqa: E402
from support.slowlink import slow_link  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
MEGABYTE = 1_000_000
#: Most connections that aria2 opens, and that a download of ours is to be compared with.
CONNECTIONS = 16
CAP = 20 * MEGABYTE
LIMIT = 40 * MEGABYTE
#: Seconds for which each of two limits is measured, in windows of five.
MEASURED_S = 7
#: Downloads that a service runs at once by default.
AT_ONCE = 5
SMALL, SMALL_FILES = 256 << 10, 512
#: A link to another continent whose far end gives so much a connection, and drops one now and then.
LINK_RATE, LINK_RTT_S, LINK_RESET_EVERY = 5 * MEGABYTE, 0.08, 48 * MIB


@dataclass(slots=True)
class Scene:
    """What the rows share."""

    server: Nginx
    peers: Peers
    ours: Fetcher
    folder: Path
    #: Size asked for on the command line; each row has its own otherwise.
    size: int | None
    #: Settings of the service asked for there.
    settings: Mapping[str, str]
    rounds: int = 5

    def warm_up(self) -> None:
        """A download whose time does not count: what the service loads at its first is loaded."""
        name, sha256 = self.file(MIB)
        for tls in (False, True):
            self.ours.party(self.server.url(name, tls=tls), MIB, sha256=sha256)()

    def file(self, size: int, number: int = 0) -> tuple[str, str]:
        """Name and SHA-256 of a file of random bytes that the server has, made when first asked for.

        Others of its size have other numbers: equal ones are fetched once.
        """
        path = self.server.root / f"{size}-{number}.bin"
        if not path.exists():
            with path.open("xb") as file:
                for at in range(0, size, 8 * MIB):
                    file.write(os.urandom(min(8 * MIB, size - at)))
        with path.open("rb", buffering=0) as data:  # which also brings it into the page cache
            return path.name, hashlib.file_digest(data, "sha256").hexdigest()

    def against(self, race: Race, name: str, what: str, bar: float) -> bool:
        """Print how many times as fast as a peer we were."""
        return self.line(race, name, what, ratios(race.seconds(name), race.seconds("ours")), ">=", bar)

    def line(self, race: Race, name: str, what: str, ratio: Spread, sign: str, bar: float) -> bool:
        """Print a ratio beside both parties' times."""
        mine, theirs = (Spread.of(race.seconds(who)).median for who in ("ours", name))
        value = f"{ratio.text('x')}: {mine:.2f} s, {theirs:.2f} s"
        return report(
            what, value, f"{sign} {bar}", ratio.median >= bar if sign == ">=" else ratio.median <= bar
        )


def plain(scene: Scene) -> bool:
    """One large file; the others neither hash it nor make it durable."""
    size = scene.size or 2 * GIB
    name, _ = scene.file(size)
    url, peers = scene.server.url(name), scene.peers
    race = Race(
        {
            "ours": scene.ours.party(url, size, ports=[scene.server.port]),
            "aria2": peers.aria2(url, size),
            "curl": peers.curl(url, size),
            "hub": peers.hub(url, size),
        }
    ).run(scene.rounds)
    told = f"{size / MIB:.0f} MiB to disk"
    holds = scene.against(race, "aria2", f"{told}: aria2c / ours", 1.5)
    holds &= scene.against(race, "hub", f"{told}: huggingface_hub / ours", 2.0)
    holds &= scene.against(race, "curl", f"{told}: curl / ours", 1.1)
    return holds & memory(race.runs["ours"])


def memory(runs: Sequence[Ran], downloads: int = 1) -> bool:
    """What each of so many downloads at once takes of memory."""
    grown = max(run.memory for run in runs) / MIB / downloads
    connections = max(run.connections for run in runs) / downloads
    bar = 32 + connections
    told = f"{grown:.1f} MiB each, with {connections:.0f} connections"
    return report(f"memory, downloads at once: {downloads}", told, f"<= {bar:.0f} MiB", grown <= bar)


def verified(scene: Scene) -> bool:
    """One large file whose hash is known beforehand; processor time likewise."""
    size = scene.size or 2 * GIB
    name, sha256 = scene.file(size)
    url, peers = scene.server.url(name), scene.peers
    race = Race(
        {
            "ours": scene.ours.party(url, size, sha256=sha256),
            "aria2": peers.aria2(url, size, sha256=sha256),
            "hashlib": peers.hashlib(scene.server.root / name),
            "curl": peers.curl_then_sha256sum(url, size),
        }
    ).run(scene.rounds)
    told = f"{size / MIB:.0f} MiB verified"
    holds = scene.against(race, "aria2", f"{told}: aria2c --checksum / ours", 4.0)
    alone = ratios(race.seconds("ours"), race.seconds("hashlib"))
    holds &= scene.line(race, "hashlib", f"{told}: ours / hashlib alone", alone, "<=", 1.2)
    scene.against(race, "curl", f"{told}: curl, sha256sum / ours", 1.0)
    ours, theirs = ([run.cpu_s / size * GIB for run in race.runs[who]] for who in ("ours", "curl"))
    cpu = ratios(ours, theirs)
    value = f"{cpu.text('x')}: {Spread.of(ours).median:.2f} s, {Spread.of(theirs).median:.2f} s"
    return holds & report("CPU per verified GiB: ours / curl, sha256sum", value, "<= 1.0", cpu.median <= 1.0)


def tls(scene: Scene) -> bool:
    """The same over TLS."""
    size = scene.size or 2 * GIB
    name, _ = scene.file(size)
    url = scene.server.url(name, tls=True)
    parties = {"ours": scene.ours.party(url, size), "aria2": scene.peers.aria2(url, size)}
    race = Race(parties).run(scene.rounds)
    return scene.against(race, "aria2", f"{size / MIB:.0f} MiB over TLS: aria2c / ours", 1.2)


def capped(scene: Scene) -> bool:
    """A server that gives each connection 20 MB/s."""
    size = scene.size or 2 * GIB
    name, _ = scene.file(size)
    with slow_link(scene.server.port, rate=CAP) as port:
        url = f"http://127.0.0.1:{port}/{name}"
        ours = scene.ours.party(url, size, ports=[port])
        race = Race({"ours": ours, "aria2": scene.peers.aria2(url, size)}).run(scene.rounds)
    told = f"{size / MIB:.0f} MiB, 20 MB/s each"
    holds = scene.against(race, "aria2", f"{told}: aria2c / ours", 0.99)
    used = max(run.connections for run in race.runs["ours"])
    share = Spread.of([size / seconds / CAP / CONNECTIONS for seconds in race.seconds("ours")])
    value = f"{share.text('x')}, with {used} connections"
    return holds & report(f"{told}: of {CONNECTIONS} times that", value, ">= 0.97", share.median >= 0.97)


def shaped(scene: Scene) -> bool:
    """A long link with a rate for each connection, whose connections are reset now and then."""
    size = scene.size or 512 * MIB
    name, _ = scene.file(size)
    far = slow_link(scene.server.port, rate=LINK_RATE, rtt_s=LINK_RTT_S, reset_every=LINK_RESET_EVERY)
    with far as port:
        url = f"http://127.0.0.1:{port}/{name}"
        ours = scene.ours.party(url, size, ports=[port])
        race = Race({"ours": ours, "aria2": scene.peers.aria2(url, size)}).run(scene.rounds)
    used = max(run.connections for run in race.runs["ours"])
    told = f"{size / MIB:.0f} MiB, 80 ms, 5 MB/s each, resets"
    print(f"    connections of ours at once, at most: {used}")
    return scene.against(race, "aria2", f"{told}: aria2c / ours", 1.5)


def many(scene: Scene) -> bool:
    """Many small files: as one download of them all; and each as a download of its own."""
    urls = []
    for number in range(SMALL_FILES):
        name = f"small-{number}.bin"
        (scene.server.root / name).write_bytes(os.urandom(SMALL))
        urls.append(scene.server.url(name))
    settings = {"max_parallel_downloads": str(CONNECTIONS), **scene.settings}
    with _service(scene.folder / "many", **settings) as at_once:
        parties = {
            "ours": scene.ours.folder(urls, SMALL),
            "curl": scene.peers.curl_many(urls, SMALL),
            "jobs": at_once.parties(urls, SMALL),
        }
        race = Race(parties).run(scene.rounds)
    told = f"{SMALL_FILES} files of 256 KiB"
    holds = scene.against(race, "curl", f"{told}: curl -Z / ours", 1.0)
    alone = ratios(race.seconds("curl"), race.seconds("jobs"))
    value = f"{alone.text('x')}: {Spread.of(race.seconds('jobs')).median:.2f} s"
    report(f"{told}: curl -Z / ours, as {SMALL_FILES} downloads", value, "-", None)
    return holds


def crowd(scene: Scene) -> bool:
    """As many downloads at once as the service runs: what each of them takes of memory."""
    size = scene.size or 256 * MIB
    urls = [scene.server.url(scene.file(size, number)[0]) for number in range(AT_ONCE)]
    run = scene.ours.parties(urls, size, ports=[scene.server.port])
    runs = [run() for _ in range(2)]
    return memory(runs, AT_ONCE)


def limited(scene: Scene) -> bool:
    """Three downloads on a service that may take 40 MB/s, later 80: what passes in any five seconds."""
    rates = [LIMIT, 2 * LIMIT]
    # Half as much again as passes at both rates, so that none of the three has ended by then.
    size = sum(rates) * MEASURED_S // 2
    urls = [scene.server.url(scene.file(size, number)[0]) for number in range(3)]
    holds = True
    _limit(scene.ours, rates[0])
    with Meter(scene.ours.pid) as meter, scene.ours.under_way(urls):
        for rate in rates:
            _limit(scene.ours, rate)
            # From when bytes flow, or the change is known.
            since, shares = meter.now + 0.5, list[float]()
            while meter.now < since + MEASURED_S or (not shares and meter.now < since + 10 * MEASURED_S):
                time.sleep(0.1)
                shares = [passed / rate for passed in meter.windows(5, since, meter.now)]
            name = f"a limit of {rate / MEGABYTE:.0f} MB/s, over any 5 s"
            value = f"{Spread.of(shares).text('x', 3)} in {len(shares)} windows" if shares else "not measured"
            within = bool(shares) and all(abs(share - 1) <= 0.05 for share in shares)
            holds &= report(name, value, "± 5 %", within)
    _limit(scene.ours, 0)
    return holds


def _limit(ours: Fetcher, rate: int) -> None:
    ours.stub.SetLimits(limits_pb2.SetLimitsRequest(max_bytes_per_second=rate))


ROWS: dict[str, Callable[[Scene], bool]] = {
    row.__name__: row for row in (plain, verified, tls, capped, shaped, many, crowd, limited)
}
#: Rounds of rows whose links take their time; their spread is small, since the link decides.
_FEWER = {"capped": 3, "shaped": 3}


@contextmanager
def _service(folder: Path, **settings: str) -> Iterator[Fetcher]:
    folder.mkdir()
    with fetcher(folder, tls_ca_file=str(CERTIFICATE), **settings) as ours:
        yield ours


@contextmanager
def _scene(size: int | None, settings: Mapping[str, str]) -> Iterator[Scene]:
    """Servers and a service in a folder on a real disk, all gone afterwards."""
    place = Path(os.environ.get("MODELKEEP_BENCH_FOLDER", ROOT / ".cache"))
    place.mkdir(exist_ok=True)
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(place)], capture_output=True, text=True, check=True)
    if kind.stdout.strip() in ("tmpfs", "ramfs"):
        raise SystemExit(f"{place} is memory: MODELKEEP_BENCH_FOLDER takes a folder on a disk")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as name:
        folder = Path(name)
        for part in ("www", "nginx", "peers"):
            (folder / part).mkdir()
        with nginx(folder / "www", folder / "nginx") as server, _service(folder / "data", **settings) as ours:
            yield Scene(server, Peers(folder / "peers", CERTIFICATE), ours, folder, size, settings)


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": MIB, "G": GIB}
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)


def main(arguments: Sequence[str] = ()) -> bool:
    """Run the rows and print; whether all bars hold."""
    parser = argparse.ArgumentParser(prog="downloads.py")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {','.join(ROWS)}")
    parser.add_argument("--size", type=_bytes, help="of the large files, like 512M")
    parser.add_argument("--rounds", type=int, help="of each row; 5, and 3 for slow links, by default")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service"
    )
    chosen = parser.parse_args(arguments)
    settings = dict(setting.split("=", 1) for setting in chosen.set)
    names = chosen.rows.split(",")
    if unknown := sorted(set(names) - set(ROWS)):
        parser.error(f"no such row: {', '.join(unknown)}")
    if missing := [tool for tool in ("aria2c", "curl", "sha256sum") if shutil.which(tool) is None]:
        raise SystemExit(
            f"missing: {', '.join(missing)} (scripts/tools.sh aria2c curl, as root, installs them)"
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    print(
        f"commit {commit.stdout.strip()}, {os.cpu_count()} cores; who is compared with: aria2c -x16 -s16 -k1M"
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    holds = True
    with _scene(chosen.size, settings) as scene:
        scene.warm_up()
        for name in names:
            scene.rounds = chosen.rounds or _FEWER.get(name, 5)
            holds &= ROWS[name](scene)
    return holds


if __name__ == "__main__":
    raise SystemExit(0 if main(sys.argv[1:]) else 1)
