"""What is to be over in a moment: reading what a model is, and what an event loop would wait for.

Times that a busy machine may miss are no matter for a test. Those of the same work are compared with what
cannot be done without; the others are processor time of one thread, the best of several rounds.

    make bench ARGS=prompt
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / part) for part in ("tests", "services", "clients/python")]

from figures import Spread, report  # noqa: E402  # after the path is set

from modelkeep.exceptions import InvalidModelException  # noqa: E402
from modelkeep.headers import MAX_HEADER_BYTES  # noqa: E402
from modelkeep_common.auth.jwts import JwtTokens, read_keys  # noqa: E402
from modelkeep_common.calls import validation  # noqa: E402
from modelkeep_download.engine.limits import Bandwidth  # noqa: E402
from modelkeep_download.engine.stops import StopSignal  # noqa: E402
from modelkeep_install import files  # noqa: E402
from modelkeep_install.hashing import sampled_hash  # noqa: E402
from modelkeep_install.probe import probe, read_header  # noqa: E402
from support.headers import write_header  # noqa: E402
from support.jwts import AUDIENCE, ISSUER, Issuer  # noqa: E402
from support.modelshapes import checkpoint_tensors, huge_tensors, table, write_safetensors  # noqa: E402

ROUNDS = 15
MIB = 1 << 20


def milliseconds(work: Callable[[], object], rounds: int = ROUNDS) -> Spread:
    """Processor time of this thread."""
    times = []
    for _ in range(rounds):
        begin = time.thread_time()
        work()
        times.append((time.thread_time() - begin) * 1e3)
    return Spread.of(times)


def quick(name: str, work: Callable[[], object], bar_ms: float, rounds: int = ROUNDS) -> bool:
    """Print the time of some work, the best of which is to be below a bar."""
    spread = milliseconds(work, rounds)
    return report(name, spread.text("ms"), f"best <= {bar_ms:.0f} ms", spread.low <= bar_ms)


def probes(folder: Path) -> bool:
    """Headers of models: of one that is sound, one that lies, long ones, and the longest."""
    sound = write_safetensors(folder / "huge.safetensors", huge_tensors())
    holds = quick("probe of a model of 24 GB", lambda: probe(sound), 5)
    lies = write_safetensors(folder / "lies.safetensors", huge_tensors())
    os.truncate(lies, lies.stat().st_size + 1)

    def refused() -> None:
        try:
            probe(lies)
        except InvalidModelException:
            return
        raise AssertionError("it is one byte too long")

    holds &= quick("refusal of one whose header lies", refused, 5)
    for kind, tensors in (("SDXL", checkpoint_tensors("sdxl")), ("an SDXL LoRA", table("lora.sdxl.kohya"))):
        path = write_safetensors(folder / "xl.safetensors", tensors)
        with path.open("rb") as file:
            text = file.read(read_header(path).header_bytes)[8:]
        ours, alone = milliseconds(partial(probe, path)), milliseconds(partial(json.loads, text))
        ratio = ours.low / alone.low
        value = f"{ratio:.1f} x: {ours.low:.2f} ms, {alone.low:.2f} ms"
        holds &= report(f"probe of {kind} / json.loads of its header", value, "<= 6", ratio <= 6)
    note = b'{"__metadata__":{"a":"' + b"x" * (MAX_HEADER_BYTES - 100) + b'"}}'
    longest = write_header(folder / "longest.safetensors", note)
    return holds & quick("the longest header, in the process that asks", lambda: read_header(longest), 250, 3)


def placing(folder: Path) -> bool:
    """What an install does with a large file that is not to depend on its size."""
    large = write_safetensors(folder / "large.safetensors", {"a": [5_000_000_000]})
    holds = quick("sampled hash of 10 GB", lambda: sampled_hash(large), 50)
    staged, target = folder / "staged" / "m.bin", folder / "placed" / "m.bin"

    def place() -> None:
        staged.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        with staged.open("wb") as file:
            file.truncate(5_000_000_000)
        files.place(staged, target)

    return holds & quick("placing 5 GB", place, 50)


def sharing() -> bool:
    """Eight threads that share 4 MiB/s for three seconds."""
    rate, seconds, stop = 4 * MIB, 3.0, StopSignal()
    limit, totals = Bandwidth(rate), Counter[int]()
    end = time.monotonic() + seconds

    def pass_through(number: int) -> None:
        while time.monotonic() < end:
            count = limit.chunk()
            limit.take(count, stop)
            if time.monotonic() <= end:
                totals[number] += count

    threads = [threading.Thread(target=pass_through, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    share, least = sum(totals.values()) / rate / seconds, min(totals.values()) / max(totals.values())
    holds = report("8 threads that share a rate, of it", f"{share:.3f} x", "± 5 %", abs(share - 1) <= 0.05)
    return holds & report(
        "… the least of what they get, of the most", f"{least:.2f} x", ">= 0.75", least >= 0.75
    )


async def first_check() -> bool:
    """The longest time for which an event loop stands still while rules are compiled for the first time."""
    from modelkeep.record.v1 import record_service_pb2 as pb

    rules = validation.Rules(pb.GetModelRequest.DESCRIPTOR)  # type: ignore[arg-type]  # the stub knows two kinds
    longest, last = 0.0, time.perf_counter()
    begin = last
    preparing = asyncio.create_task(rules.prepare())
    while not preparing.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    took = time.perf_counter() - begin
    rules.check(pb.GetModelRequest(key="0" * 32))
    value = f"{longest / took:.2f} x: {longest * 1e3:.0f} ms, {took * 1e3:.0f} ms"
    return report("the loop's longest pause / the first check", value, "<= 0.5", longest <= took / 2)


def tokens(folder: Path) -> bool:
    """What a caller's JWT costs at each call, against the first, when its signature is checked."""
    issuer, algorithms, calls = Issuer(), ("ES256", "RS256", "EdDSA"), 100
    keys = read_keys(issuer.publish(folder / "jwks" / "jwks.json"), algorithms)

    def fresh() -> JwtTokens:
        return JwtTokens(lambda: keys, issuer=ISSUER, audience=AUDIENCE, skew_s=30, roles_claim="roles")

    holds, knowing = True, fresh()
    for kid, name in (("es", "ES256"), ("rs", "RS256"), ("ed", "EdDSA")):
        token = issuer.token(kid=kid)
        first = milliseconds(lambda: [fresh().principal_of(token) for _ in range(calls)])  # noqa: B023  called here
        known = milliseconds(lambda: [knowing.principal_of(token) for _ in range(calls)])  # noqa: B023
        share = known.low / first.low
        value = f"{share:.3f} x: {known.low * 1e3 / calls:.1f} us, {first.low * 1e3 / calls:.0f} us"
        holds &= report(f"a JWT of {name} that is known / its check", value, "<= 0.1", share <= 0.1)
    return holds


def main() -> bool:
    """Run and print; whether every bar holds."""
    holds = asyncio.run(first_check())
    with tempfile.TemporaryDirectory(prefix="mk-bench-") as name:
        for row in (probes, placing, tokens):
            holds &= row(Path(name))
    return holds & sharing()


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
