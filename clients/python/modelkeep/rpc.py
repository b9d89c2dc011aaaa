"""Calling a service of the suite: where it is, a channel to it, and what its answers mean.

The one home of this for the client, the worker, the command line, the supervisor, and for the services when
they call each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from modelkeep._channels import CallerChannel
from modelkeep._channels import Token as Token
from modelkeep.defaults import ServiceName
from modelkeep.exceptions import (
    BY_REASON,
    AccessException,
    CancelledException,
    CredentialsInvalidException,
    CredentialsMissingException,
    DeadlineExceededException,
    FieldInvalidException,
    FieldViolation,
    ModelkeepError,
    NotFoundException,
    ServerBusyException,
    UnavailableException,
    UpstreamUnavailableException,
)
from modelkeep.tls import CallerTls, trouble

if TYPE_CHECKING:
    from modelkeep.server.v1 import job_pb2

#: Options of every channel.
OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    # Answers are capped well below 4 MiB; a record with a long description and a page of them may pass it.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # A service that comes back is found again at once: after a failure gRPC would wait a second and more, and
    # until it tries to connect every call fails. So at least one attempt falls between a call's tries.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    # In spite of its name, the time that one attempt may take: several round trips over a network, and a lost
    # packet.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # A dead peer that never said goodbye is noticed; services allow a ping every 10 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A proxy in the environment is for the internet, where no service of the suite is.
    ("grpc.enable_http_proxy", 0),
)

_DETAILS_KEY: Final = "grpc-status-details-bin"
_DOMAIN: Final = ".modelkeep.dev"

#: Class by status code alone, for errors that gRPC or a proxy made, and for reasons of newer services.
_BY_CODE: Final[Mapping[grpc.StatusCode, type[ModelkeepError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: FieldInvalidException,
    grpc.StatusCode.NOT_FOUND: NotFoundException,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerBusyException,
    grpc.StatusCode.UNAVAILABLE: UnavailableException,
    grpc.StatusCode.CANCELLED: CancelledException,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededException,
    grpc.StatusCode.UNAUTHENTICATED: CredentialsInvalidException,
    grpc.StatusCode.PERMISSION_DENIED: AccessException,
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service is looked for.

    Attributes:
        service: Its short name.
        target: ``host:port``, or ``unix:/path/of/socket``; empty if it is nowhere: to call it is an error.
        origin: Who said so, for error messages: "the setting record_address".
        remedy: What to do when nothing answers there, as a sentence.
        token: Gives the token that calls show; None shows none.
        tls: How the service is called by TLS, if it is called over TCP; None is plaintext.
    """

    service: ServiceName
    target: str
    origin: str
    remedy: str = ""
    token: Token | None = field(default=None, repr=False, compare=False)
    tls: CallerTls | None = field(default=None, repr=False, compare=False)

    @property
    def is_local(self) -> bool:
        """Whether it is a UNIX socket, which is always plain."""
        return self.target.startswith("unix:")


def peer(service: ServiceName, target: str, token_file: Path | None, tls: CallerTls | None = None) -> Address:
    """Another service's address, for a service; blocks for a moment to read its own token and certificate.

    Raises:
        CredentialsMissingException: The token file, or those of TLS, cannot be read.
    """
    setting = f"{service}_address"
    token = None
    if token_file is not None:
        token = TokenFile(token_file, lasting=True, remedy="correct the setting peer_token_file")
        token()
    if tls is not None:
        tls.secrets()
    remedy = f"Start that service, or correct the setting {setting}."
    return Address(service, target, f"the setting {setting}", remedy, token, tls)


def variable(service: ServiceName) -> str:
    """The environment variable that names a service's address."""
    return f"MODELKEEP_CLIENT_{service.upper()}_ADDRESS"


class TokenFile:
    """The token in a file, read again when the file has changed: a suite makes new ones at each start, and
    Kubernetes one an hour.

    Args:
        path: The file; the token is all of it but white space around it.
        lasting: Whether the token that was there stays in use while the file is no good.
        remedy: What to do when it is no good.
    """

    def __init__(
        self,
        path: Path,
        *,
        lasting: bool = False,
        remedy: str = "name another with --token-file or MODELKEEP_TOKEN_FILE, or start the suite",
    ) -> None:
        self.path = path
        self._lasting = lasting
        self._remedy = remedy
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        """The token.

        Raises:
            CredentialsMissingException: The file cannot be read, or holds none.
        """
        try:
            found = os.stat(self.path)
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                self._token = self._read()
                self._seen = seen
        except (OSError, ValueError) as error:
            if self._lasting and self._token:
                return self._token
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise CredentialsMissingException(
                f"The token file {self.path} cannot be used ({why}): {self._remedy}.",
                metadata={"path": str(self.path)},
            ) from None
        return self._token

    def _read(self) -> str:
        try:
            words = self.path.read_text("ascii").split()
        except UnicodeDecodeError:
            raise ValueError("it is not ASCII") from None
        if len(words) != 1:
            raise ValueError("it does not hold one token")
        return words[0]


def open_channel(address: Address, *options: tuple[str, Any]) -> grpc.Channel:
    """A channel to a service, for plain code; connects when it is first used. `options` go last.

    Raises:
        UpstreamUnavailableException: The service is nowhere.
        CredentialsMissingException: The files of TLS cannot be read.
    """
    return cast(grpc.Channel, _opened(address, options, grpc.insecure_channel, grpc.secure_channel))


def open_async_channel(address: Address, *options: tuple[str, Any]) -> aio.Channel:
    """A channel to a service, for asyncio; connects when it is first used. `options` go last.

    Raises:
        UpstreamUnavailableException: The service is nowhere.
        CredentialsMissingException: The files of TLS cannot be read.
    """
    return cast(aio.Channel, _opened(address, options, aio.insecure_channel, aio.secure_channel))


def _opened(address: Address, options: tuple[tuple[str, Any], ...], plain: Any, secure: Any) -> Any:
    _refuse_nowhere(address)

    def open_it(credentials: grpc.ChannelCredentials | None) -> Any:
        if credentials is None:
            return plain(address.target, options=(*OPTIONS, *options))
        return secure(address.target, credentials, options=(*OPTIONS, *options))

    tls = None if address.is_local else address.tls
    if address.token is None and tls is None:
        return open_it(None)
    return CallerChannel(open_it, address.token, tls)


def _refuse_nowhere(address: Address) -> None:
    if not address.target:
        raise UpstreamUnavailableException(
            f"There is no {address.service} service to call: {address.origin}. {address.remedy}",
            metadata={"peer": address.service, "service": address.service, "address": ""},
        )


def with_retries() -> tuple[str, Any]:
    """A channel option: unary methods that may be repeated are, while the service is unavailable.

    For channels whose user does not repeat calls himself.
    """
    return ("grpc.service_config", _service_config())


@cache
def _service_config() -> str:
    names = [
        {"service": method.containing_service.full_name, "method": method.name}
        for method in methods().values()
        if is_repeatable(method) and not method.server_streaming and not method.client_streaming
    ]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})


@cache
def methods() -> dict[str, MethodDescriptor]:
    """Full name of a request message to its method; every method has a request message of its own."""
    from modelkeep.download.v1 import download_service_pb2
    from modelkeep.install.v1 import install_service_pb2
    from modelkeep.loader.v1 import loader_service_pb2
    from modelkeep.record.v1 import record_service_pb2
    from modelkeep.server.v1 import server_service_pb2

    files: tuple[Any, ...] = (
        record_service_pb2,
        download_service_pb2,
        install_service_pb2,
        loader_service_pb2,
        server_service_pb2,
    )
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    return {method.input_type.full_name: method for service in services for method in service.methods}


def is_repeatable(method: MethodDescriptor) -> bool:
    """Whether the method says (``idempotency_level``) that a repetition does no harm."""
    level = method.GetOptions().idempotency_level
    return level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


def decode(error: grpc.RpcError, address: Address) -> ModelkeepError:
    """The exception of a failed call, made by either kind of channel.

    With a ``google.rpc.Status`` of the suite it is the class of its reason, as the service raised it.
    Without one the status code decides; a service that cannot be reached is an
    UpstreamUnavailableException that names service and address and says what to do.
    """
    # Errors of both kinds answer to code(), details() and trailing_metadata().
    failed = cast(aio.AioRpcError, error)
    code, text = failed.code(), failed.details() or ""
    status = _status(failed)
    info = _error_info(status)
    if status is None or info is None:
        return _decode_bare(code, text, address)
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    for detail in status.details:
        bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad_request):
            violations += [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Unpack(retry_info):
            retry_after = retry_info.retry_delay.ToNanoseconds() / 1e9
    cls = BY_REASON.get(info.reason) or _BY_CODE.get(code, ModelkeepError)
    metadata = dict(info.metadata)
    if cls.reason != info.reason:
        metadata.setdefault("reason", info.reason)
    return cls(status.message or text, metadata=metadata, violations=violations, retry_after=retry_after)


def exception_of(error: job_pb2.JobError) -> ModelkeepError:
    """The exception that a job's error stands for; not raised, since the job failed and not the call."""
    cls = BY_REASON.get(error.reason, ModelkeepError)
    return cls(error.message, metadata=error.metadata)


def unreachable(address: Address, detail: str) -> UpstreamUnavailableException:
    """The exception for a service that does not answer."""
    service = address.service
    remedy = address.remedy or (
        f"Start the suite with `modelkeep up`, or say where it is with {variable(service)}=HOST:PORT."
    )
    return UpstreamUnavailableException(
        f"The {service} service does not answer at {address.target} "
        f"(address from {address.origin}; {detail}). {remedy}",
        metadata={"peer": service, "service": service, "address": address.target},
    )


def _short(text: str) -> str:
    """What gRPC says about a failed connection, without the addresses it repeats."""
    return text.rpartition(": ")[2].rstrip(".").lower() if "last error" in text else text


def _status(error: aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _error_info(status: status_pb2.Status | None) -> error_details_pb2.ErrorInfo | None:
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain.endswith(_DOMAIN):
            return info
    return None


def _decode_bare(code: grpc.StatusCode, text: str, address: Address) -> ModelkeepError:
    where = {"service": address.service, "address": address.target}
    if code is grpc.StatusCode.UNAVAILABLE:
        if found := trouble(text, None if address.is_local or address.tls is None else address.tls.files):
            why, remedy = found
            return unreachable(replace(address, remedy=remedy), why)
        return unreachable(address, _short(text))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededException(
            f"The {address.service} service at {address.target} did not answer in time; the work may have "
            "been done. Ask again, or give a longer timeout.",
            metadata=where,
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ModelkeepError(
            f"What answers at {address.target} is no {address.service} service of this version ({text}). "
            f"Check the address (from {address.origin}), or update one side.",
            metadata=where,
        )
    cls = _BY_CODE.get(code, ModelkeepError)
    return cls(
        f"The {address.service} service at {address.target} answered {code.name}: {text}", metadata=where
    )
