"""Whatever is sent to the services: a reason or an answer, soon, and everybody else is served meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from modelkeep.download.v1 import download_pb2, download_service_pb2
from modelkeep.install.v1 import install_pb2, install_service_pb2
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2
from modelkeep.supervisor import SERVICES
from support.fuzz.calls import Outcome, Target, is_about_time, learn, problem_of, shown
from support.fuzz.messages import Pool, messages
from support.services import Services

_TRIES = 5
#: Requests to a method in one round.
_EXAMPLES = 6


@dataclass
class Fuzzed:
    """A running suite, and what it has said."""

    targets: dict[str, Target]
    pool: Pool
    logs: Path
    outcomes: Counter[str]


def seeds(allowed: Path, downloads: Path) -> Iterator[tuple[str, str, Message]]:
    """Calls that go well, so that there is something to ask for: service, method, request."""
    for type_, format_ in (("VAE", "CHECKPOINT"), ("MAIN", "DIFFUSERS"), ("LORA", "LYCORIS")):
        model = model_pb2.Model(
            name=type_,
            type=f"MODEL_TYPE_{type_}",
            format=f"MODEL_FORMAT_{format_}",
            base="sd-1",
            path=f"{allowed}/{type_}",
        )
        files = [model_pb2.ModelFile(path="w")]
        yield "record", "CreateModel", record_service_pb2.CreateModelRequest(model=model, files=files)
    remote = download_pb2.DownloadSource(url="http://127.0.0.1:1/w.safetensors")
    yield (
        "download",
        "CreateDownload",
        download_service_pb2.CreateDownloadRequest(source=remote, destination=f"{downloads}/a/", start=False),
    )
    local = install_pb2.InstallSource(local_path=f"{allowed}/model.safetensors")
    yield "install", "ImportModel", install_service_pb2.ImportModelRequest(source=local)


def begin(target: Target, name: str, request: Message, pool: Pool) -> None:
    """Make a call that must go well, and learn from it."""
    (method,) = [method for method in target.methods() if method.name == name]
    outcome = target.send(method, request.SerializeToString())
    assert outcome.code == "OK", outcome.text
    pool.learn(request)
    learn(pool, outcome)


@pytest.fixture(scope="module")
def fuzzed(services: Services) -> Iterator[Fuzzed]:
    suite, allowed = services.suite, services.allowed
    (allowed / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with contextlib.ExitStack() as stack:
        targets: dict[str, Target] = {}
        for service in SERVICES:
            channels = [
                stack.enter_context(grpc.insecure_channel(suite.addresses[service])) for _ in range(2)
            ]
            targets[service] = Target(service, *channels)
            stack.callback(targets[service].probe.stop)
        pool = Pool()
        for path in (allowed, allowed / "model.safetensors", suite.data_dir / "downloads" / "new"):
            pool._add("path", str(path))
        for name, method, request in seeds(allowed, suite.data_dir / "downloads"):
            begin(targets[name], method, request, pool)
        yield Fuzzed(targets, pool, suite.data_dir / "logs", Counter())


def requests(method: MethodDescriptor, pool: Pool) -> st.SearchStrategy[bytes]:
    """The wire form of messages, one in ten with a byte of it changed or its end cut off."""

    def altered(parts: tuple[bytes, int, int, int]) -> bytes:
        raw, kind, at, byte = parts
        if kind or not raw:
            return raw
        at %= len(raw)
        return raw[:at] + bytes([byte]) + raw[at + 1 :] if byte else raw[:at]

    wire = messages(method.input_type, pool).map(lambda message: message.SerializeToString())
    return st.tuples(wire, st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 255)).map(altered)


def problems(
    fuzzed: Fuzzed, target: Target, method: MethodDescriptor, raw: bytes, timed: bool
) -> Iterator[str]:
    """Send a request; what was wrong with what came back."""
    # What took too long on a machine with much else to do does not do so each time.
    for _ in range(_TRIES if timed else 1):
        outcome = target.send(method, raw)
        fuzzed.outcomes[f"{target.name} {outcome.reason or outcome.code}"] += 1
        learn(fuzzed.pool, outcome)
        if timed and is_about_time(outcome):
            outcome.blocked -= target.probe.at_rest(1.0)
        if not is_about_time(outcome):
            break
    if not timed:
        outcome.seconds = outcome.blocked = 0.0
    if problem := problem_of(outcome):
        yield f"{problem}\n    {shown(method, raw)}"


def fuzz(fuzzed: Fuzzed, name: str, begin: int, *, timed: bool = True) -> list[str]:
    """Send some requests to each method of a service; the problems, if ``timed`` those of time too."""
    target = fuzzed.targets[name]
    found: list[str] = []
    for method in target.methods():
        found += fuzz_method(fuzzed, target, method, _EXAMPLES, begin, timed)
    return found


def fuzz_method(
    fuzzed: Fuzzed, target: Target, method: MethodDescriptor, examples: int, begin: int, timed: bool
) -> list[str]:
    """Send so many requests to one method; the problems found."""
    found: list[str] = []

    @seed(begin)
    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(method, fuzzed.pool))
    def send(raw: bytes) -> None:
        found.extend(problems(fuzzed, target, method, raw, timed))

    send()
    return found


def check_after(fuzzed: Fuzzed, name: str) -> None:
    """The service is there, its log tells of no defect, and requests were not merely refused."""
    target = fuzzed.targets[name]
    (info,) = [method for method in target.methods() if method.name == "GetServerInfo"]
    assert target.send(info, b"").code == "OK"
    lines = [json.loads(line) for line in (fuzzed.logs / f"{name}.jsonl").read_text().splitlines()]
    errors = [line for line in lines if line["severity"] == "ERROR"]
    assert not errors, json.dumps(errors[:3], indent=1)
    reasons = {key for key in fuzzed.outcomes if key.startswith(f"{name} ")}
    assert {f"{name} OK", f"{name} FIELD_INVALID"} <= reasons
    assert len(reasons) > 3, "the requests do not get far"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SERVICES)
def test_no_message_is_a_defect_of_a_service(fuzzed: Fuzzed, name: str) -> None:
    # So many and the same on every machine; what takes long on this one is for the long test to find.
    found = fuzz(fuzzed, name, begin=1, timed=False)
    assert not found, "\n".join(itertools.islice(found, 10))
    check_after(fuzzed, name)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SERVICES)
def test_no_message_of_thousands_is_a_defect_of_a_service(fuzzed: Fuzzed, name: str) -> None:
    begin = int(os.environ.get("MODELKEEP_KILL_SEED") or time.time_ns() % 2**32)
    share = min(1.0, max(0.0, float(os.environ.get("MODELKEEP_KILL_SHARE") or 1)))
    # Round after round, so that every method has its part of the time, and all have one however slow it goes.
    found, until = fuzz(fuzzed, name, begin), time.monotonic() + 150 * share
    for number in range(1, round(50 * share)):
        if time.monotonic() < until:
            found += fuzz(fuzzed, name, begin + number)
    assert not found, f"seed {begin}\n" + "\n".join(itertools.islice(found, 10))
    check_after(fuzzed, name)


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (Outcome("OK", "", 0.1, 0.1), ""),
        (Outcome("NOT_FOUND", "UNKNOWN_MODEL", 0.1, 0.1), ""),
        (Outcome("INTERNAL", "INTERNAL", 0.1, 0.1, "oh"), "INTERNAL: oh"),
        (Outcome("RESOURCE_EXHAUSTED", "", 0.1, 0.1, "oh"), "RESOURCE_EXHAUSTED without a reason: oh"),
        (Outcome("UNKNOWN", "", 0.1, 0.1, "oh"), "UNKNOWN: oh"),
        (Outcome("UNAVAILABLE", "", 0.1, 0.1, "gone"), "UNAVAILABLE without a reason: gone"),
        (Outcome("NOT_FOUND", "NO_SUCH_REASON", 0.1, 0.1, "?"), "NOT_FOUND without a reason: ?"),
        (Outcome("PERMISSION_DENIED", "ROLE_REQUIRED", 0.1, 0.1, "no"), "was not let in: no"),
        (Outcome("OK", "", 5.1, 0.1), "took 5.1 s"),
        (Outcome("OK", "", 0.5, 0.3), "blocked the event loop for 0.30 s"),
    ],
    ids=lambda value: value or "fine" if isinstance(value, str) else "",
)
def test_a_defect_is_seen_as_one(outcome: Outcome, problem: str) -> None:
    assert problem_of(outcome) == problem
