"""Rows of the loader's table: several workers, other precisions, a cold disk; for attach.py."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import invokeai_cache
from attachroles import Child
from figures import Spread, ratios, report

from modelkeep.loader.v1 import capacity_pb2, leases_pb2, loader_service_pb2_grpc, resident_pb2
from modelkeep.supervisor import Suite

#: Never slower than this, of from_pretrained's time, where no cast is needed.
SAME_DTYPE_BAR = 1.1
#: Times as fast, at 1,000 tensors and more.
MANY_TENSORS_BAR = 2.0
COLD_BAR = 5.0
#: Seconds from when a restarted loader serves until it has its leases again.
AGAIN_BAR_S = 2.0
WORKERS = 4
#: What N workers may take together, of one copy of the weights.
COPIES_BAR = 1.1


@dataclass(frozen=True, slots=True)
class Setting:
    """Where everything is.

    Attributes:
        suite: The services.
        folder: Has ``pipeline`` and ``xl``.
        key, large: Their records.
        rounds: Of each measurement.
    """

    suite: Suite
    folder: Path
    key: str
    large: str
    rounds: int

    def attach(self, name: str, submodel: str, precision: str) -> Child:
        """A worker that will hold a component."""
        key = self.key if name == "pipeline" else self.large
        return Child("attach", self.suite.sockets["loader"], key, submodel, precision)

    def from_pretrained(self, name: str, submodel: str, precision: str) -> Child:
        """A process that will load it as diffusers does."""
        return Child("from_pretrained", str(self.folder / name), submodel, precision)

    def weights(self, name: str, submodel: str) -> list[Path]:
        """The files of a component."""
        return sorted((self.folder / name / submodel).glob("*.safetensors"))


def measure(setting: Setting) -> list[bool]:
    """Print every row; whether each holds."""
    held = same_dtype(setting)
    held += cold(setting)
    held += several_workers(setting)
    held += beside_invokeai(setting)
    held += loader_killed(setting)
    return held


def run(*children: Child) -> list[dict[str, Any]]:
    """Let processes do what they are for, one after the other, once all have done their imports."""
    for child in children:
        child.answer()
    time.sleep(0.2)
    return [child.run() for child in children]


def pairs(
    rounds: int,
    ours: Callable[[], Child],
    theirs: Callable[[], Child],
    before: Callable[[], None] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What both measured, in turn, who goes first alternating; ``before`` is called before each."""
    found: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for turn in range(rounds):
        with ExitStack() as ending:
            children = [ours(), theirs()]
            for child in children:
                ending.callback(child.close)
                child.answer()
            time.sleep(0.2)
            for place in (0, 1) if turn % 2 == 0 else (1, 0):
                if before is not None:
                    before()
                found[place].append(children[place].run())
    return found


def same_dtype(setting: Setting) -> list[bool]:
    """Files that are asked for as they are, with a warm page cache: nothing is won by not casting."""
    held: list[bool] = []
    cases = (("pipeline", "vae", "float32", 244), ("xl", "unet", "bfloat16", 1680))
    for name, submodel, precision, tensors in cases:
        ours, theirs = pairs(
            min(setting.rounds, 5),
            partial(setting.attach, name, submodel, precision),
            partial(setting.from_pretrained, name, submodel, precision),
        )
        for what in ("ready", "touched"):
            ratio = ratios([r[what] for r in theirs], [r[what] for r in ours])
            bar = 1 / SAME_DTYPE_BAR if tensors < 1000 else MANY_TENSORS_BAR
            mine = Spread.of([r[what] * 1000 for r in ours]).text("ms", 1)
            held.append(
                report(
                    f"{submodel} of {tensors} tensors as its file has it ({precision}), {what} in one more "
                    "worker, times as fast as from_pretrained",
                    f"{ratio.text('x', 1)}; {mine}",
                    f">= {bar:.2f}x" if what == "ready" else "none",
                    ratio.median >= bar if what == "ready" else None,
                )
            )
    return held


def cold(setting: Setting) -> list[bool]:
    """The page cache is evicted before each run: what is leased stays in memory, files do not."""
    held: list[bool] = []
    weights = setting.weights("xl", "unet")

    def evict() -> None:
        for path in weights:
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    keeper = setting.attach("xl", "unet", "bfloat16")
    try:
        run(keeper)
        for named, peer in (
            ("safetensors' load_file", partial(Child, "load_file", str(weights[0]))),
            ("from_pretrained", partial(setting.from_pretrained, "xl", "unet", "bfloat16")),
        ):
            ours, theirs = pairs(
                min(setting.rounds, 3), partial(setting.attach, "xl", "unet", "bfloat16"), peer, before=evict
            )
            ratio = ratios([r["touched"] for r in theirs], [r["touched"] for r in ours])
            held.append(
                report(
                    f"leased, touched, against {named} with an evicted page cache, times as fast",
                    ratio.text("x", 1),
                    f">= {COLD_BAR:.0f}x",
                    ratio.median >= COLD_BAR,
                )
            )
    finally:
        keeper.close()
    return held


def several_workers(setting: Setting) -> list[bool]:
    """N workers hold one component: what they take together, and what they make of it."""
    with ExitStack() as ending:
        workers = [setting.attach("pipeline", "vae", "float32") for _ in range(WORKERS)]
        alone = setting.from_pretrained("pipeline", "vae", "float32")
        for child in (*workers, alone):
            ending.callback(child.close)
        first, *_ = (results := run(*workers))
        outputs = [worker.ask() for worker in workers]
        run(alone)
        wanted = alone.ask()["output"]
        shared = [memory_of_mapping(worker.pid) for worker in workers]
    together = sum(shared)
    size = first["size"]
    private = max(result["private"] for result in results)
    return [
        report(
            f"{WORKERS} workers with one component, by their proportional share of it, of one copy",
            f"{together / size:.2f}; at most {private / 1e6:.1f} MB private each",
            f"<= {COPIES_BAR:g}",
            together <= COPIES_BAR * size,
        ),
        report(
            "output of each, against from_pretrained's",
            "bitwise equal" if {o["output"] for o in outputs} == {wanted} else "different",
            "bitwise",
            {o["output"] for o in outputs} == {wanted},
        ),
    ]


def memory_of_mapping(pid: int) -> int:
    """The proportional share of lent memory that a process has mapped, in bytes; the kernel's figure."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text("utf-8", "replace").splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split(" ")[0]:
            inside = "memfd:modelkeep" in line
        elif inside and name == "Pss":
            total += int(rest.split()[0]) * 1024
    return total


def beside_invokeai(setting: Setting) -> list[bool]:
    """A second process that wants the same model, and the memory of N of them, with InvokeAI's own cache."""
    python = invokeai_cache.python()
    if python is None:
        print("  InvokeAI cannot be had here: nothing is compared with it")
        return []
    script = str(Path(invokeai_cache.__file__))
    vae = str(setting.folder / "pipeline" / "vae")

    theirs = partial(Child, "cached", vae, script=script, python=str(python))
    mine = partial(setting.attach, "pipeline", "vae", "bfloat16")
    ours, others = pairs(min(setting.rounds, 3), mine, theirs)
    ratio = ratios([r["ready"] for r in others], [r["ready"] for r in ours])
    held = [
        report(
            "VAE locked in a second process, times as fast as InvokeAI's cache",
            ratio.text("x", 1),
            "none",
            None,
        )
    ]
    with ExitStack() as ending:
        lending, them = [mine() for _ in range(WORKERS)], [theirs() for _ in range(WORKERS)]
        for child in (*lending, *them):
            ending.callback(child.close)
        lent = sum(result["private"] for result in run(*lending))
        lent += sum(memory_of_mapping(child.pid) for child in lending)
        copied = sum(result["private"] for result in run(*them))
    held.append(
        report(
            f"memory of the weights in {WORKERS} processes",
            f"{lent / 1e6:.0f} MB; with InvokeAI's cache {copied / 1e6:.0f} MB",
            "none",
            None,
        )
    )
    return held


def loader_killed(setting: Setting) -> list[bool]:
    """The loader is killed and started again: every worker goes on, and keeps its lease."""
    suite, times, same = setting.suite, min(setting.rounds, 5), 0
    serving: list[float] = []
    again: list[float] = []
    with ExitStack() as ending:
        workers = [setting.attach("pipeline", "vae", "float32") for _ in range(WORKERS)]
        for worker in workers:
            ending.callback(worker.close)
        leases = {result["lease"] for result in run(*workers)}
        pids = {worker.pid for worker in workers}
        before = [worker.ask()["output"] for worker in workers]
        channel = ending.enter_context(grpc.insecure_channel(suite.sockets["loader"]))
        stub = loader_service_pb2_grpc.LoaderServiceStub(channel)
        for _ in range(times):
            suite.kill("loader")
            same += before == [worker.ask()["output"] for worker in workers]
            took = held_again(suite, stub, leases, pids)
            serving.append(took[0])
            again.append(took[1])
    return [
        report(
            f"{WORKERS} workers that go on when the loader is killed, with the same outputs",
            f"{same} of {times} times",
            "each time",
            same == times,
        ),
        report(
            "loader started after a kill: serves; has all leases again, as ACTIVE",
            f"{Spread.of(serving).text('s')}; {Spread.of(again).text('s')} later",
            f"<= {AGAIN_BAR_S:g} s later",
            max(again) <= AGAIN_BAR_S,
        ),
    ]


def held_again(
    suite: Suite, stub: loader_service_pb2_grpc.LoaderServiceStub, leases: set[str], pids: set[int]
) -> tuple[float, float]:
    """Start the loader; seconds until it serves, and from then until these leases are these processes'."""
    began = time.perf_counter()
    starting = threading.Thread(target=suite.restart, args=("loader",))
    starting.start()
    stub.GetCapacity(capacity_pb2.GetCapacityRequest(), wait_for_ready=True, timeout=60)
    serves = time.perf_counter()
    while True:
        found = stub.ListLeases(leases_pb2.ListLeasesRequest()).leases
        active = [lease for lease in found if lease.state == resident_pb2.LEASE_STATE_ACTIVE]
        now = time.perf_counter()
        if {lease.id for lease in active} == leases and {lease.holder.pid for lease in active} == pids:
            break
        if now - serves > 30:
            raise RuntimeError(f"the leases of a killed loader are not held again: {found}")
        time.sleep(0.005)
    starting.join()
    return serves - began, now - serves
