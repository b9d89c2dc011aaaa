"""Sending any message to any method of a running service, and judging what comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelkeep.download.v1 import download_service_pb2
from modelkeep.errors.v1.error_reason_pb2 import ErrorReason
from modelkeep.install.v1 import install_service_pb2
from modelkeep.loader.v1 import loader_service_pb2
from modelkeep.record.v1 import record_service_pb2
from modelkeep.server.v1 import server_service_pb2
from modelkeep_common.serving.server import MAX_MESSAGE_BYTES
from support.fuzz.messages import Pool

_FILES: Mapping[str, Any] = {
    "record": record_service_pb2,
    "download": download_service_pb2,
    "install": install_service_pb2,
    "loader": loader_service_pb2,
}
SLOW_S, BLOCKED_S = 5.0, 0.2
#: A caller that gives up: for streams, and calls that are asked to wait.
_PATIENCE_S = 0.4
_REASONS = frozenset(name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys())  # noqa: SIM118  # a wrapper of an enum, no dict
#: What no input may lead to. The last two mean that nothing was tried at all.
_DEFECTS = frozenset({"INTERNAL", "UNKNOWN", "UNIMPLEMENTED"})
_NOT_TRIED = frozenset({"CREDENTIALS_MISSING", "CREDENTIALS_INVALID", "ROLE_REQUIRED"})


@dataclass
class Outcome:
    """What a call led to."""

    code: str
    reason: str
    seconds: float
    #: Longest answer of the health service meanwhile, in seconds.
    blocked: float
    text: str = ""
    answers: list[Message] = field(default_factory=list)


class Probe:
    """Asks a service for its health without a pause: what delays the answer blocks the event loop."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)
        self._lock = threading.Lock()
        self._begun = 0.0
        self._seen: list[tuple[float, float]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._end.set()
        self._thread.join()

    def at_rest(self, seconds: float) -> float:
        """The longest answer while we ask nothing else: what the machine is to blame for."""
        begun = time.monotonic()
        time.sleep(seconds)
        return self.longest(begun)

    def longest(self, since: float) -> float:
        """The longest answer that was not there yet at a moment, of time.monotonic()."""
        with self._lock:
            waits = [end - begun for begun, end in self._seen if end >= since]
            self._seen = self._seen[-200:]
            return max([*waits, time.monotonic() - self._begun])

    def _ask(self) -> None:
        while not self._end.wait(0.01):
            with self._lock:
                self._begun = time.monotonic()
            try:
                self._stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            except grpc.RpcError:
                time.sleep(0.05)  # it is told by what becomes of the calls
            with self._lock:
                self._seen.append((self._begun, time.monotonic()))


class Target:
    """One service, and the calls to it."""

    def __init__(self, name: str, channel: grpc.Channel, probe_channel: grpc.Channel) -> None:
        self.name = name
        self._channel = channel
        self.probe = Probe(probe_channel)

    def methods(self) -> Iterator[MethodDescriptor]:
        """Every method of the service's API."""
        for file in (_FILES[self.name], server_service_pb2):
            for service in file.DESCRIPTOR.services_by_name.values():
                yield from service.methods

    def send(self, method: MethodDescriptor, raw: bytes) -> Outcome:
        """Send a request in its wire form, which need not be one."""
        assert method.containing_service is not None
        path = f"/{method.containing_service.full_name}/{method.name}"
        waits = method.server_streaming or method.name.startswith("Wait") or _may_wait(method)
        make: Any = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = make(path)
        begun = time.monotonic()
        answers: list[bytes] = []
        error: Any = None
        try:
            answer = call(raw, timeout=_PATIENCE_S if waits else 4 * SLOW_S)
            answers = _first(answer, 20) if method.server_streaming else [answer]
        except grpc.RpcError as raised:
            error = raised
        seconds = time.monotonic() - begun
        outcome = Outcome("OK", "", seconds, self.probe.longest(begun))
        outcome.answers = [GetMessageClass(method.output_type).FromString(answer) for answer in answers]
        if error is not None:
            outcome.code, outcome.text = error.code().name, str(error.details())
            outcome.reason = _reason_of(error)
            if outcome.code == "DEADLINE_EXCEEDED" and not outcome.reason and waits:
                outcome.code = "OK"  # it was we who had no time
            if outcome.code == "RESOURCE_EXHAUSTED" and not outcome.reason and len(raw) > MAX_MESSAGE_BYTES:
                outcome.code = "OK"  # gRPC itself refuses what is longer than any message may be
        return outcome


def problem_of(outcome: Outcome) -> str:
    """What is wrong with an outcome; "" if nothing is."""
    if outcome.code in _DEFECTS or outcome.reason in _DEFECTS:
        return f"{outcome.code}: {outcome.text}"
    if outcome.reason in _NOT_TRIED:
        return f"was not let in: {outcome.text}"
    if outcome.code != "OK" and outcome.reason not in _REASONS:
        return f"{outcome.code} without a reason: {outcome.text}"
    if outcome.seconds > SLOW_S:
        return f"took {outcome.seconds:.1f} s"
    if outcome.blocked > BLOCKED_S:
        return f"blocked the event loop for {outcome.blocked:.2f} s"
    return ""


def is_about_time(outcome: Outcome) -> bool:
    """Whether the machine, and not the service, may be to blame."""
    return problem_of(outcome).startswith(("took", "blocked"))


def shown(method: MethodDescriptor, raw: bytes) -> str:
    """A request as text, for a person."""
    try:
        message = GetMessageClass(method.input_type).FromString(raw)
        text = text_format.MessageToString(message, as_one_line=True)
    except Exception:
        text = raw.hex()
    return f"{method.full_name} {text[:1500]}"


def learn(pool: Pool, outcome: Outcome) -> None:
    """Remember what was answered."""
    for answer in outcome.answers:
        pool.learn(answer)


def _may_wait(method: MethodDescriptor) -> bool:
    """Whether the request can ask the server to wait."""
    return any(
        f.message_type is not None and f.message_type.full_name == "google.protobuf.Duration"
        for f in method.input_type.fields
    )


def _first(stream: Any, most: int) -> list[bytes]:
    answers: list[bytes] = []
    try:
        for answer in stream:
            answers.append(answer)
            if len(answers) == most:
                break
    finally:
        stream.cancel()
    return answers


def _reason_of(error: Any) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
