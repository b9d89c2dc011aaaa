"""A scan over models that are known: how many files a second, and how long the first time took.

    python tests/bench/scanning.py [--models 2000]

The models are small LoRAs of true shapes, each of another content and with four files beside it, half
of them in folders of a hundred and half in a folder each, as models_dir has them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / part) for part in ("tests", "services", "clients/python")]

from figures import Spread, cpu_seconds, report  # noqa: E402  # after the path is set

from modelkeep.client import Client  # noqa: E402
from modelkeep.supervisor import Suite  # noqa: E402
from support.modelshapes import table, write_safetensors  # noqa: E402

ROUNDS = 5
SIDE_FILES = (".preview.png", ".civitai.info", ".json", ".txt")
#: Seconds for a thousand known models, and files a second of many.
BAR_S, BAR_RATE = 1.0, 2000.0


def fill(folder: Path, number: int) -> None:
    """Writes so many models."""
    few = dict(list(table("lora.sd-1.peft").items())[:8])
    for index in range(number):
        inside = f"flat-{index // 200}" if index % 2 else f"own-{index}"
        write_safetensors(folder / inside / f"{index}.safetensors", few, metadata={"number": str(index)})
        for suffix in SIDE_FILES:
            (folder / inside / f"{index}{suffix}").touch()


def timed_scan(client: Client, folder: Path, kind: str, number: int) -> float:
    """Seconds of a scan, from the call to its end; it must find so many of a kind."""
    begin = time.perf_counter()
    done = client.model_install.wait_for_scan(client.model_install.scan(folder))
    seconds = time.perf_counter() - begin
    assert done.state == "completed", done.exception
    assert done.counts[kind] == number, done.counts
    return seconds


def main(number: int = 2000) -> bool:
    """Run and print; whether the bar holds."""
    with tempfile.TemporaryDirectory(prefix="mk-bench-") as name:
        folder = Path(name) / "import"
        fill(folder, number)
        suite = Suite(
            Path(name) / "data",
            services=("record", "download", "install"),
            env={"MODELKEEP_INSTALL_CHECK_FILES_SECONDS": "0"},
        )
        with suite, Client(data_dir=suite.data_dir) as client:
            first = timed_scan(client, folder, "new", number)
            report(f"{number:,} new models", f"{first:.1f} s, {number / first:,.0f} a second", "-", None)
            pids = [suite.pids[name] for name in ("install", "record")]
            before = sum(map(cpu_seconds, pids))
            again = Spread.of([timed_scan(client, folder, "known", number) for _ in range(ROUNDS)])
            spent = (sum(map(cpu_seconds, pids)) - before) / ROUNDS
            files = number * (1 + len(SIDE_FILES))
            bar = max(BAR_S, files / BAR_RATE)
            what = f"{again.text('s')}, {files / again.median:,.0f} files a second"
            told = f"{number:,} known models in {files:,} files"
            holds = report(told, what, f"{bar:.1f} s", again.median <= bar)
            report("... processor time of both services", f"{spent:.2f} s", "-", None)
            print(f"load {os.getloadavg()[0]:.1f}")
    return holds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=2000)
    raise SystemExit(not main(parser.parse_args().models))
