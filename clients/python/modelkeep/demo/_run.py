"""The demo, step by step: what it says is measured, and each line marked ok is a comparison that was made."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from modelkeep.client import Client
from modelkeep.demo._memory import has_open, read_mapping
from modelkeep.demo._processes import Child, DemoFailed, check_requirements, temporary_files_in
from modelkeep.exceptions import DestinationExistsException, ModelkeepError
from modelkeep.loader.v1 import resident_pb2
from modelkeep.supervisor import Suite, SuiteError

Say: TypeAlias = Callable[[str], None]

#: Name of the picture where the caller gives none.
PICTURE = Path("modelkeep-demo.png")
#: Settings of the demo's suite: the process that casts weights starts with the loader, not when needed.
#: The loader is killed and none follows it: nothing shall wait for one when the demo has ended.
_SETTINGS = {"MODELKEEP_LOADER_WARM_HELPER": "true", "MODELKEEP_LOADER_KEEPER": "none"}
#: A killed worker's lease must end long before the grace of one that only went silent (5 s) is over.
_LEASE_LIMIT_S = 2.0
#: What a worker may have of its own of the weights, as a part of them.
_PRIVATE_LIMIT = 0.02


class Report:
    """Says what is shown, and remembers what does not hold."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.checks = 0
        self.failures = 0

    def tell(self, text: str) -> None:
        """Something that was measured."""
        self._say(f"      {text}")

    def check(self, holds: bool, text: str) -> None:
        """A statement, and whether it is true."""
        self.checks += 1
        self.failures += not holds
        self._say(f"  {'ok ' if holds else 'NO '} {text}")

    def step(self, text: str) -> None:
        """A headline."""
        self._say(text)


@dataclass(frozen=True, slots=True)
class Held:
    """A worker that holds the VAE.

    Attributes:
        process: The worker.
        facts: What it answered when it held the VAE, see :mod:`modelkeep.demo._decode`.
    """

    process: Child
    facts: dict[str, Any]

    @property
    def memory(self) -> tuple[int, int]:
        """Device and inode of the memory that it maps."""
        device, inode = self.facts["memory"]
        return device, inode

    def decode(self, raw: Path, png: Path | None = None) -> tuple[bytes, dict[str, Any]]:
        """Let it decode; the bytes of the result, and what it answered."""
        raw.unlink(missing_ok=True)
        answer = self.process.ask(raw=str(raw), png=str(png) if png else None)
        return raw.read_bytes(), answer


def run_demo(out: Path | None = None, keep: bool = False, say: Say = print) -> int:
    """Run the demo on a suite of its own.

    Args:
        out: Where the decoded picture goes; ``modelkeep-demo.png`` in the current folder if None.
        keep: Leave model, data and logs where they are, and say where.
        say: Prints lines.

    Returns:
        The exit code: 0, or 1 if a check does not hold or a step could not be taken; that is said, too.
    """
    began = time.perf_counter()
    report = Report(say)
    picture = (out or PICTURE).absolute()
    try:
        check_requirements()
        picture = picture / PICTURE if picture.is_dir() else picture
        _check_writable(picture.parent)
        _run(picture, keep, report)
    except (ModelkeepError, SuiteError) as error:
        kind = "" if isinstance(error, DemoFailed | SuiteError) else f"{type(error).__name__}: "
        report.step(f"Failed: {kind}{error.message}")
        return 1
    seconds = time.perf_counter() - began
    if report.failures:
        report.step(f"{report.failures} of {report.checks} checks do not hold ({seconds:.0f} s).")
        return 1
    report.step(f"All {report.checks} checks hold ({seconds:.0f} s).")
    return 0


def build_pipeline(folder: Path, say: Say = print) -> Path:
    """Only build the demo's model into a new folder, and say where it is.

    Raises:
        DestinationExistsException: The folder exists.
        DemoFailed: Building failed.
    """
    if folder.exists():
        raise DestinationExistsException(
            f"{folder} exists already; name a new folder.", metadata={"path": str(folder)}
        )
    check_requirements()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DemoFailed(f"{folder} cannot be made: {error.strerror}.") from None
    with tempfile.TemporaryDirectory(prefix="modelkeep-demo-") as scratch:
        child = Child("_build", str(folder.absolute()), folder=Path(scratch))
        try:
            child.answer()
            child.close()
        finally:
            child.close(at_once=True)
    say(f"{folder}: a Stable Diffusion pipeline with random fp32 weights, {_size_of(folder)}")
    return folder


def _run(picture: Path, keep: bool, report: Report) -> None:
    with _folder(keep, report) as folder, contextlib.ExitStack() as running:

        def start(module: str, *arguments: str) -> Child:
            child = Child(module, *arguments, folder=folder)
            running.callback(child.close, at_once=True)
            return child

        model, reference = folder / "tiny-sd", folder / "reference.bin"
        began = time.perf_counter()
        # Importing torch takes seconds: all do it at once, while the services start.
        builder = start("_build", str(model), "--reference", str(reference))
        workers = [start("_decode", f"demo worker {n}") for n in (1, 2)]
        report.step("1. A model, four services, an install (importing torch takes a while)")
        suite = running.enter_context(Suite(folder / "data", env={**_SETTINGS, **temporary_files_in(folder)}))
        started = time.perf_counter() - began
        report.tell(f"record, download, install, loader: four processes, healthy after {started:.1f} s")
        builder.answer()
        report.tell(
            f"diffusers built a Stable Diffusion pipeline, random fp32 weights, {_size_of(model)}, "
            f"ready after {time.perf_counter() - began:.1f} s"
        )
        client = running.enter_context(_client(suite))
        key = _install(client, model, report)
        # What comes before the first cast is told apart: the loader's helper imports its libraries once.
        client.model_loader.load(key, ["text_encoder"])
        for worker in workers:
            worker.answer()
        expected = builder.answer()
        held = _hold(client, workers, key, suite, expected, report)
        _decode(held, reference.read_bytes(), folder, picture, report)
        _show_memory(held, suite.pids["loader"], report)
        _kill_worker(client, held[0], report)
        _kill_loader(suite, held[1], reference.read_bytes(), report)


def _client(suite: Suite) -> Client:
    """A client of this very suite, whatever the environment says."""
    at = suite.sockets
    return Client(record=at["record"], download=at["download"], install=at["install"], loader=at["loader"])


def _install(client: Client, model: Path, report: Report) -> str:
    began = time.perf_counter()
    job = client.model_install.import_model(model)
    client.model_install.wait_for_installs(timeout=120)
    seconds = time.perf_counter() - began
    config = job.config_out
    if config is None:
        raise DemoFailed(f"The install is {job.status.value}: {job.error}")
    found = tuple(str(fact) for fact in (config.base_model, config.model_type, config.model_format))
    report.check(
        found == ("sd-1", "main", "diffusers"),
        f"installed in place in {_ms(seconds)}, key {config.key}, found to be {' '.join(found)}",
    )
    return config.key


def _hold(
    client: Client, workers: list[Child], key: str, suite: Suite, expected: dict[str, Any], report: Report
) -> list[Held]:
    """Let the workers hold the VAE, one after the other, so that the second finds it in memory."""
    report.step("2. Two worker processes hold its VAE as bfloat16")
    held: list[Held] = []
    for number, process in enumerate(workers, 1):
        facts = process.ask(loader=suite.sockets["loader"], key=key)
        held.append(Held(process, facts))
        report.tell(
            f"worker {number}, pid {process.pid}: get_model {_ms(facts['load_seconds'])}"
            f"{' with the cast' if number == 1 else ''}, a live module {_ms(facts['attach_seconds'])} later"
        )
    report.tell(f"from_pretrained with the cast in a third process: {_ms(expected['seconds'])}")
    report.check(
        all(one.facts["weights"] == expected["weights"] for one in held),
        "the weights of both are bitwise those of from_pretrained(torch_dtype=bfloat16)",
    )
    leases = {lease.id: lease.holder for lease in client.model_loader.leases(key)}
    report.check(
        {one.facts["lease"]: one.process.pid for one in held}
        == {lease: holder.pid for lease, holder in leases.items()},
        f"the loader lists {len(leases)} leases: "
        + ", ".join(f"{holder.label!r} (pid {holder.pid})" for holder in leases.values()),
    )
    return held


def _decode(held: list[Held], expected: bytes, folder: Path, picture: Path, report: Report) -> None:
    report.step("3. Both decode the same latents")
    for number, one in enumerate(held, 1):
        raw, answer = one.decode(folder / f"worker-{number}.bin", picture if number == 1 else None)
        shape = "x".join(map(str, answer["shape"]))
        report.check(
            raw == expected,
            f"worker {number}: {shape} in {answer['seconds']:.1f} s, bitwise equal to from_pretrained's",
        )
    report.tell(f"worker 1 wrote the picture {picture}")


def _show_memory(held: list[Held], loader: int, report: Report) -> None:
    report.step("4. What the kernel says (/proc/<pid>/smaps)")
    memories = {one.memory for one in held}
    device, inode = held[0].memory
    weights = held[0].facts["bytes"]
    mappings = [read_mapping(one.process.pid, device, inode) for one in held]
    report.check(
        len(memories) == 1 and has_open(loader, device, inode) and all(m.name for m in mappings),
        f"both map inode {inode}, {mappings[0].name}, which the loader (pid {loader}) has open",
    )
    for number, mapping in enumerate(mappings, 1):
        report.check(
            mapping.rss >= weights and abs(mapping.pss / mapping.rss - 0.5) <= 0.05,
            f"worker {number}: RSS {_mb(mapping.rss)}, PSS {_mb(mapping.pss)}, half of it",
        )
    report.check(
        sum(m.pss for m in mappings) <= (1 + _PRIVATE_LIMIT) * mappings[0].rss,
        f"the shares add up to {_mb(sum(m.pss for m in mappings))} for {_mb(weights)} of weights: one copy",
    )
    report.check(
        max(m.private for m in mappings) <= _PRIVATE_LIMIT * weights,
        f"private to a worker: {' and '.join(f'{m.private:,}' for m in mappings)} bytes of it",
    )


def _kill_worker(client: Client, one: Held, report: Report) -> None:
    report.step("5. Two kills")
    lease = one.facts["lease"]
    began = time.perf_counter()
    one.process.kill()
    while True:
        live = {found.id for found in client.model_loader.leases() if _is_held(found)}
        seconds = time.perf_counter() - began
        if lease not in live or seconds > 2 * _LEASE_LIMIT_S:
            break
        time.sleep(0.001)
    report.check(
        lease not in live and seconds <= _LEASE_LIMIT_S,
        f"worker 1 killed (SIGKILL): its lease was gone from ListLeases {_ms(seconds)} later",
    )
    report.check(len(live) == 1, f"leases that are left: {len(live)}, worker 2's")


def _is_held(lease: resident_pb2.Lease) -> bool:
    return lease.state != resident_pb2.LEASE_STATE_ENDED


def _kill_loader(suite: Suite, one: Held, expected: bytes, report: Report) -> None:
    code = suite.kill("loader")
    report.check(code < 0, f"loader killed (SIGKILL), pid {suite.pids['loader']}")
    raw, answer = one.decode(suite.data_dir / "again.bin")
    report.check(raw == expected, f"worker 2 decoded again in {answer['seconds']:.1f} s, bitwise the same")
    report.tell(f"worker 2 on its lease: {answer['loader']}")
    device, inode = one.memory
    mapping = read_mapping(one.process.pid, device, inode)
    report.check(
        mapping.rss >= one.facts["bytes"], f"out of the same memory: inode {inode}, RSS {_mb(mapping.rss)}"
    )


@contextlib.contextmanager
def _folder(keep: bool, report: Report) -> Iterator[Path]:
    """The folder that all of the demo's files are in, but the picture."""
    folder = Path(tempfile.mkdtemp(prefix="modelkeep-demo-"))
    try:
        yield folder
    finally:
        if keep:
            report.step(f"Kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _check_writable(folder: Path) -> None:
    """See whether a file can be made in a folder, before anything else takes its time."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DemoFailed(f"No file can be written into {folder}: {error.strerror}.") from None


def _size_of(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return f"{_mb(sum(path.stat().st_size for path in files))} in {len(files)} files"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
