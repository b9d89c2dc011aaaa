"""What running services say about the API and about themselves: reflection with comments, GetServerInfo."""

from __future__ import annotations

import re

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection_pb2

from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc
from modelkeep.supervisor import SERVICES, Suite
from support import apidescriptors, comments

pytestmark = pytest.mark.timeout(90)

#: Named in errors only, so that no service refers to them.
OF_ERRORS = (
    "modelkeep.errors.v1.ErrorReason",
    "modelkeep.errors.v1.ERROR_REASON_DISK_FULL",
    *(
        f"google.rpc.{name}"
        for name in ("Status", "ErrorInfo", "BadRequest", "ResourceInfo", "RetryInfo", "QuotaFailure")
    ),
    "google.rpc.PreconditionFailure",
)
SERVER_INFO = "modelkeep/server/v1/server_service.proto"


def reflected(suite: Suite, service: str, version: str, *requests: dict[str, str]) -> list[FileDescriptorSet]:
    """The files that answer each request."""
    with grpc.insecure_channel(suite.addresses[service]) as channel:
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        messages = iter([reflection_pb2.ServerReflectionRequest(**request) for request in requests])
        found = []
        for answer in ask(messages, timeout=20):
            assert answer.HasField("file_descriptor_response"), answer.original_request
            parts = answer.file_descriptor_response.file_descriptor_proto
            found.append(FileDescriptorSet(file=map(FileDescriptorProto.FromString, parts)))
        return found


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("service", SERVICES)
def test_every_element_that_reflection_describes_has_its_comment(
    suite: Suite, service: str, version: str
) -> None:
    own = f"modelkeep.{service}.v1.{service.title()}Service"
    ask = [
        {"file_containing_symbol": name} for name in (own, "modelkeep.server.v1.ServerService", *OF_ERRORS)
    ]
    ask += [{"file_by_filename": file.name} for file in apidescriptors.files()]
    described = {
        file.name: file for answer in reflected(suite, service, version, *ask) for file in answer.file
    }
    assert {"google/rpc/error_details.proto", "google/rpc/status.proto"} < described.keys()
    ours = [file for file in described.values() if file.package.startswith("modelkeep.")]
    assert len(ours) == len(apidescriptors.files())
    for file in ours:
        assert [name for name, comment in comments.of(file) if not comment.strip()] == []


def test_symbols_of_every_kind_are_found(suite: Suite) -> None:
    names = [
        "modelkeep.record.v1.RecordService.GetModel",
        "modelkeep.record.v1.GetModelRequest.key",
        "modelkeep.record.v1.ModelEvent.change",
        "modelkeep.record.v1.MODEL_VIEW_BASIC",
        "google.rpc.BadRequest.FieldViolation",
        "buf.validate.field",
    ]
    answers = reflected(suite, "record", "v1", *({"file_containing_symbol": name} for name in names))
    first = [answer.file[0].name for answer in answers]
    assert first[:4] == ["modelkeep/record/v1/record_service.proto"] * 4
    assert first[4:] == ["google/rpc/error_details.proto", "buf/validate/validate.proto"]


def documented(field: str) -> dict[str, set[str]]:
    """The words in backticks of each service's entry in the comment of a field of GetServerInfoResponse."""
    (file,) = [f for f in apidescriptors.descriptor_set().file if f.name == SERVER_INFO]
    text = dict(comments.of(file))[f"GetServerInfoResponse.{field}"]
    entries = re.findall(r"^ - (\w+): (.*?)(?=^ - |\Z)", text, re.MULTILINE | re.DOTALL)
    return {service: set(re.findall(r"`([a-z0-9_-]+)`", words)) for service, words in entries}


@pytest.mark.parametrize("service", SERVICES)
def test_the_comment_of_get_server_info_names_what_the_service_answers(suite: Suite, service: str) -> None:
    """A new feature or limit: add it to its service's line in server_service.proto, then `make proto`."""
    with grpc.insecure_channel(suite.addresses[service]) as channel:
        stub = server_service_pb2_grpc.ServerServiceStub(channel)
        answer = stub.GetServerInfo(server_service_pb2.GetServerInfoRequest(), timeout=10)
    limits, features = documented("limits"), documented("features")
    said, told = set(answer.limits), limits[service] | limits["all"]
    assert (said - told, told - said) == (set(), set()), f"{SERVER_INFO}: comment of limits"
    # A host may lack what a feature needs, so not all of them have to be there.
    unknown = set(answer.features) - features[service] - features.get("all", set())
    assert not unknown, f"{SERVER_INFO}: comment of features"
    for name in answer.limits:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
