"""Captures of the command line's tables, with fixed keys and a fixed clock.

``.venv/bin/python tests/support/cli_captures.py`` writes them into tests/data/cli; look at the difference
before you commit it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "data" / "cli"
WIDTHS = (50, 80, 200, None)
NOW = 1_780_000_000.0


def captures() -> Iterator[tuple[str, str]]:
    """(file name, text) of every table at every width; None is a pipe."""
    from modelkeep.cli import _table
    from modelkeep.cli._options import Format, Options
    from modelkeep.cli._terminal import Terminal

    for name, listing, rows in _tables():
        # A pipe shows whole times, and those are local: without them every machine writes the same.
        timeless = dataclasses.replace(
            listing,
            columns=[c for c in listing.columns if c.title not in ("CREATED", "STARTED", "SINCE", "USED")],
        )
        for width in WIDTHS:
            of = timeless if width is None else listing
            text = _table.lines(of, rows, Terminal(width=width), now=NOW, options=Options())
            yield f"{name}-{width or 'pipe'}.txt", "\n".join(text) + "\n"
        coloured = _table.lines(listing, rows, Terminal(width=80, colour=True), now=NOW, options=Options())
        yield f"{name}-80-colour.txt", "\n".join(coloured) + "\n"
        whole = _table.lines(timeless, rows, Terminal(width=80), now=NOW, options=Options(format=Format.WIDE))
        yield f"{name}-wide.txt", "\n".join(line for line in whole if "1970" not in line) + "\n"


def _tables() -> Iterator[tuple[str, Any, list[Any]]]:
    from modelkeep.cli import _cache, _downloads, _installs, _leases, _models, _scans
    from modelkeep.client._download_jobs import job_of
    from modelkeep.client._install_jobs import ModelInstallJob
    from modelkeep.client._scans import ModelScan

    yield "models", _models.listing(), _configs()
    yield "installs", _installs.listing(), [ModelInstallJob(message) for message in _install_messages()]
    yield "scans", _scans.listing(), [ModelScan(message) for message in _scan_messages()]
    yield "downloads", _downloads.listing(), [job_of(message) for message in _download_messages()]
    yield "residents", _cache.residents_listing(), _residents()
    yield "leases", _leases.leases_listing(), _lent()


def _configs() -> list[Any]:
    from datetime import UTC, datetime

    from modelkeep.configs import ModelConfigFactory

    def made(number: int, name: str, kind: str, base: str, size: int, age_s: float, **more: Any) -> Any:
        return ModelConfigFactory.make_config(
            {
                "key": f"{number:08x}" * 4,
                "name": name,
                "type": kind,
                "base": base,
                "format": "diffusers",
                "path": f"{number:08x}" * 4 + f"/{kind}.safetensors",
                "size_bytes": size,
                "create_time": datetime.fromtimestamp(NOW - age_s, UTC),
                **more,
            }
        )

    return [
        made(0xA11CE000, "tiny-sd", "main", "sd-1", 4_265_146_304, 30, tags=["demo"]),
        made(0xB0B00001, "ink and paper, a style for quick sketches v2", "lora", "sdxl", 228_455_604, 7200),
        made(0xC0FFEE02, "模型-漢字", "vae", "sd-1", 334_643_276, 200_000, tags=["ink", "paper"]),
        made(
            0xDEADBE03,
            "gpj.\u202eexe\x1b[31m",
            "lora",
            "sd-1",
            999,
            3_000_000,
            missing_time=datetime.fromtimestamp(NOW, UTC),
        ),
    ]


def _scan_messages() -> list[Any]:
    from modelkeep.install.v1 import scan_pb2

    running = scan_pb2.Scan(
        id=4,
        path="/mnt/a/rather/long/path/of/folders/with/models",
        state="SCAN_STATE_RUNNING",
        counts=scan_pb2.ScanCounts(file_count=2000, new_count=3, known_count=1204),
    )
    running.start_time.seconds = int(NOW) - 13
    done = scan_pb2.Scan(
        id=1,
        state="SCAN_STATE_COMPLETED",
        ended=True,
        counts=scan_pb2.ScanCounts(known_count=12, unknown_count=2, unreadable_count=1),
    )
    done.start_time.seconds = int(NOW) - 3600
    return [running, done]


def _install_messages() -> list[Any]:
    from modelkeep.configs.wire import to_model
    from modelkeep.install.v1 import install_pb2
    from modelkeep.server.v1 import job_pb2

    url = "https://models.example.com/a/rather/long/path/of/folders/diffusion_pytorch_model.safetensors"
    running = install_pb2.Install(
        id=12,
        source={"url": url},
        state="INSTALL_STATE_RUNNING",
        stage="INSTALL_STAGE_DOWNLOADING",
        progress=job_pb2.Progress(
            bytes_done=120_000_000, bytes_total=334_643_276, bytes_per_second=9_000_000
        ),
    )
    running.start_time.seconds = int(NOW) - 13
    done = install_pb2.Install(
        id=7, source={"local_path": "/data/models/tiny-sd"}, state="INSTALL_STATE_COMPLETED"
    )
    done.model.CopyFrom(to_model(_configs()[0]))
    done.start_time.seconds = int(NOW) - 3600
    failed = install_pb2.Install(
        id=6,
        source={"url": "https://models.example.com/none.safetensors"},
        state="INSTALL_STATE_ERROR",
        error=job_pb2.JobError(code="FAILED_PRECONDITION", reason="SOURCE_NOT_FOUND", message="Not there."),
    )
    failed.start_time.seconds = int(NOW) - 86_400 * 3
    return [running, done, failed]


def _download_messages() -> list[Any]:
    from modelkeep.download.v1 import download_pb2
    from modelkeep.server.v1 import job_pb2

    running = download_pb2.Download(
        id=3,
        source={"url": "https://models.example.com/a/long/path/diffusion_pytorch_model.safetensors"},
        state="DOWNLOAD_STATE_RUNNING",
        stage="DOWNLOAD_STAGE_TRANSFERRING",
        priority=10,
        progress=job_pb2.Progress(bytes_done=120_000_000, bytes_total=334_643_276),
    )
    running.start_time.seconds = int(NOW) - 90
    waiting = download_pb2.Download(
        id=4, source={"url": "https://models.example.com/b.bin"}, state="DOWNLOAD_STATE_ENQUEUED", priority=-5
    )
    return [running, waiting]


def _residents() -> list[Any]:
    from modelkeep.loader.v1 import resident_pb2

    found = resident_pb2.Resident(
        id="r1",
        components=[{"key": "a11ce000" * 4, "submodel": "SUB_MODEL_TYPE_VAE"}],
        display_name="tiny-sd/vae",
        class_name="AutoencoderKL",
        precision="PRECISION_BFLOAT16",
        state="RESIDENT_STATE_RESIDENT",
        tier="TIER_RAM",
        memory_format="MEMORY_FORMAT_CHANNELS_LAST",
        size_bytes=167_335_342,
        lease_count=2,
    )
    found.last_use_time.seconds = int(NOW) - 61
    nameless = resident_pb2.Resident(
        id="r2",
        components=[{"key": "b0b00001" * 4}],
        class_name="UNet2DConditionModel",
        precision="PRECISION_FLOAT16",
        state="RESIDENT_STATE_READING",
        tier="TIER_RAM",
        memory_format="MEMORY_FORMAT_CONTIGUOUS",
        size_bytes=1_719_083_542,
    )
    return [found, nameless]


def _lent() -> list[Any]:
    from modelkeep.loader.v1 import resident_pb2

    lease = resident_pb2.Lease(
        id="0f3a1b2c4d5e6f708192a3b4c5d6e7f8",
        state="LEASE_STATE_ACTIVE",
        components=[{"key": "a11ce000" * 4, "submodel": "SUB_MODEL_TYPE_VAE"}],
        display_names=["tiny-sd/vae"],
        holder={"pid": 4711, "principal": "owner", "label": "worker of the web interface"},
        size_bytes=167_335_342,
        labels={"job": "42"},
        last_change="LEASE_CHANGE_CONNECTED",
    )
    lease.create_time.seconds = int(NOW) - 600
    return [lease]


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for file, text in captures():
        (FOLDER / file).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{FOLDER}: written\n")
