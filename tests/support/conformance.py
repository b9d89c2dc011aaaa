"""The conformance cases of clients/conformance: what they need, and how the Python client answers them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import grpc
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from modelkeep.defaults import ServiceName
from modelkeep.devcerts import make_certificates
from modelkeep.exceptions import ModelkeepError
from modelkeep.rpc import Address, Token, decode, methods, open_channel
from modelkeep.suitefile import token_path
from support.installs import small_lora
from support.suite import OwnersSuite, service_suite

CASES: Final = Path(__file__).resolve().parents[2] / "clients" / "conformance"
#: The order in which the files are run.
FILES: Final = ("server", "record", "install", "download", "loader")
#: What stands in an expected answer for any value but the default.
SET: Final = "${*}"
_VARIABLE: Final = re.compile(r"\$\{([A-Z_]+)\}")
_DEADLINE_S: Final = 60.0
_SAID_OF_CALLERS: Final = ("MODELKEEP_TOKEN_FILE", "MODELKEEP_CONFORMANCE_IMPORTS")


@dataclass(frozen=True)
class Case:
    """One case, as it stands in its file."""

    file: str
    name: str
    said: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def cases() -> list[Case]:
    """All cases, in the order in which they are run."""
    return [
        Case(file, said["name"], said)
        for file in FILES
        for said in json.loads((CASES / f"{file}.json").read_text("utf-8"))
    ]


@dataclass(frozen=True)
class Ground:
    """A suite that the cases are run against.

    Attributes:
        suite: It, running.
        environment: What a runner is told by: where the services are (over TCP), the owner's token, the
            folder of files to import, the files of TLS where it is spoken.
    """

    suite: OwnersSuite
    environment: Mapping[str, str]

    @property
    def gateway(self) -> str:
        """The origin of the suite's gateway."""
        assert self.suite.gateway is not None
        assert self.suite.gateway.refusal == ""
        return self.suite.gateway.address


@contextlib.contextmanager
def ground(folder: Path, *, gateway_port: int | None = None, by_tls: bool = False) -> Iterator[Ground]:
    """A fresh suite below a folder, with a gateway if a port is given, and the files that the cases import.

    Each runner needs one of its own: the cases change it. By TLS it wants certificates of callers; the one
    that the environment names is a gateway's, who is nobody, so that tokens alone tell who calls.
    """
    small_lora(folder / "imports" / "ink.safetensors")
    (folder / "imports" / "broken.safetensors").write_text("This is no model.")
    certs = folder / "certs" if by_tls else None
    files = {}
    if certs is not None:
        make_certificates(certs)
        names = {"CA": "ca.pem", "CERT": "gateway.pem", "KEY": "gateway.key"}
        files = {f"MODELKEEP_{name}_FILE": str(certs / file) for name, file in names.items()}
    with service_suite(folder / "data", gateway_port=gateway_port, certs=certs) as suite:
        addresses = {f"MODELKEEP_CLIENT_{name.upper()}_ADDRESS": at for name, at in suite.over_tcp.items()}
        owners = {"MODELKEEP_TOKEN_FILE": str(token_path(suite.data_dir))}
        imports = {"MODELKEEP_CONFORMANCE_IMPORTS": str(folder / "imports")}
        yield Ground(suite, {**addresses, **owners, **imports, **files})


def through_gateway(there: Ground) -> dict[str, str]:
    """What a runner is told by that calls the suite's gateway, which is plain, by gRPC."""
    said = {name: there.environment[name] for name in _SAID_OF_CALLERS}
    return {**said, "MODELKEEP_CONFORMANCE_GATEWAY": there.gateway.removeprefix("http://")}


class Runner:
    """Runs cases by the Python client's own means.

    Args:
        environment: As :class:`Ground` has it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._kept: dict[str, str] = {"IMPORTS": environment["MODELKEEP_CONFORMANCE_IMPORTS"]}
        self._channels: dict[tuple[str, str], tuple[grpc.Channel, Address]] = {}

    def close(self) -> None:
        """Close the channels."""
        for channel, _ in self._channels.values():
            channel.close()

    def run(self, case: Case) -> None:
        """Run one case.

        Raises:
            AssertionError: The answer is another one; it says where.
        """
        said = case.said
        answers, error = self._ask(case)
        if "error" in said:
            assert error is not None, f"there is no error, but {answers}"
            compare({"violations": [], **self._filled(said["error"])}, told(error), "error")
            return
        assert error is None, f"{type(error).__name__}: {error}"
        wanted = said["answers"] if "answers" in said else [said.get("answer", {})]
        compare(self._filled(wanted), answers, "answers")
        for name, path in said.get("keep", {}).items():
            self._kept[name] = at(answers[-1], path)

    def _ask(self, case: Case) -> tuple[list[Any], ModelkeepError | None]:
        """The answers to a case's call, or its error."""
        service, _, method = case.said["method"].rpartition("/")
        asked = case.said.get("at", service.split(".")[1])
        channel, address = self._channel(cast(ServiceName, asked), case.said.get("as", "owner"))
        descriptor = _METHODS[f"{service}.{method}"]
        request = GetMessageClass(descriptor.input_type)()
        json_format.Parse(json.dumps(self._filled(case.said.get("request", {}))), request)
        kind: Any = channel.unary_stream if descriptor.server_streaming else channel.unary_unary
        call = kind(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        try:
            answer = call(request, timeout=_DEADLINE_S)
            if descriptor.server_streaming:
                return self._first(answer, case), None
            return [json_format.MessageToDict(answer)], None
        except grpc.RpcError as error:
            return [], decode(error, address)

    def _first(self, stream: Any, case: Case) -> list[Any]:
        """As many messages of a stream as a case names, or one more if it should end after them."""
        wanted = len(case.said.get("answers", [0])) + case.said.get("ends", False)
        found: list[Any] = []
        for message in stream:
            found.append(json_format.MessageToDict(message))
            if len(found) == wanted:
                break
        stream.cancel()
        return found

    def _filled(self, value: Any) -> Any:
        """What a case says, with the values of its variables."""
        if isinstance(value, dict):
            return {name: self._filled(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._filled(inner) for inner in value]
        return _VARIABLE.sub(lambda m: self._kept[m[1]], value) if isinstance(value, str) else value

    def _channel(self, name: ServiceName, role: str) -> tuple[grpc.Channel, Address]:
        if (name, role) not in self._channels:
            address = Address(
                name,
                self._environment[f"MODELKEEP_CLIENT_{name.upper()}_ADDRESS"],
                "the conformance cases",
                token=self._token(role),
            )
            self._channels[name, role] = (open_channel(address), address)
        return self._channels[name, role]

    def _token(self, role: str) -> Token | None:
        if role == "owner":
            return lambda: Path(self._environment["MODELKEEP_TOKEN_FILE"]).read_text().strip()
        return {"anonymous": None, "stranger": lambda: "nobody-knows-this-token-of-a-stranger"}[role]


_METHODS: Final = {method.full_name: method for method in methods().values()}


def told(error: ModelkeepError) -> dict[str, Any]:
    """What the client tells of an error, in the words of the cases."""
    return {
        "code": error.code,
        "reason": error.reason,
        "metadata": error.metadata,
        "remedy": error.remedy,
        "violations": [violation.field for violation in error.violations],
    }


def at(answer: Any, path: str) -> str:
    """The text at a path such as "models.0.key"."""
    for step in path.split("."):
        answer = answer[int(step)] if isinstance(answer, list) else answer[step]
    assert isinstance(answer, str), f"{path} is no text"
    return answer


def compare(expected: Any, found: Any, where: str) -> None:
    """Whether an answer is as a case says, where the case says something.

    Raises:
        AssertionError: It is not, and where.
    """
    if expected == SET:
        assert found not in (None, "", 0, False, [], {}), f"{where} is not set"
    elif isinstance(expected, dict):
        assert isinstance(found, dict), f"{where} is {found!r}"
        for name, value in expected.items():
            compare(value, found.get(name), f"{where}.{name}")
    elif isinstance(expected, list):
        found = found or []
        assert len(found) == len(expected), f"{where} has {len(found)} entries, not {len(expected)}: {found}"
        for place, value in enumerate(expected):
            compare(value, found[place], f"{where}.{place}")
    else:
        assert found == expected, f"{where} is {found!r}, not {expected!r}"
