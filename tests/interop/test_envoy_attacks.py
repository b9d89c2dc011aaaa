"""Ways past a gateway's list of denied methods, and headers by which a caller would be somebody else."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelkeep.gateway import Gateway
from modelkeep.record.v1 import backups_pb2 as pb
from support.gateways import running
from support.suite import OwnersSuite, service_suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

_SERVICE, _METHOD = "modelkeep.record.v1.RecordService", "BackUpStore"
_NAME = "stolen"

#: Spellings that one side might take for the method, and the other not.
GRPC_PATHS = [
    f"/{_SERVICE}/{_METHOD}",
    f"/record/{_SERVICE}/{_METHOD}",
    f"/{_SERVICE}/{_METHOD.lower()}",
    f"/{_SERVICE.upper()}/{_METHOD}",
    f"/{_SERVICE}/{_METHOD}/",
    f"/{_SERVICE}//{_METHOD}",
    f"//{_SERVICE}/{_METHOD}",
    f"///record/{_SERVICE}/{_METHOD}",
    f"/./{_SERVICE}/{_METHOD}",
    f"/x/../{_SERVICE}/{_METHOD}",
    f"/x/%2e%2e/{_SERVICE}/{_METHOD}",
    f"/x/..%2f{_SERVICE}/{_METHOD}",
    f"/{_SERVICE}/x/../{_METHOD}",
    f"/{_SERVICE}/ListModels/../{_METHOD}",
    f"/{_SERVICE}/ListModels/..%2f{_METHOD}",
    f"/{_SERVICE}/%42ackUpStore",
    f"/%6dodelkeep.record.v1.RecordService/{_METHOD}",
    f"/{_SERVICE}%2f{_METHOD}",
    f"/{_SERVICE}%2F{_METHOD}",
    f"/{_SERVICE}\\{_METHOD}",
    f"/{_SERVICE}/{_METHOD}?x=1",
    f"/{_SERVICE}/{_METHOD}%3fx",
    f"/{_SERVICE}/{_METHOD};x",
    f"/{_SERVICE}/{_METHOD}%00",
    f"/{_SERVICE}/{_METHOD}%20",
    f"/{_SERVICE}/{_METHOD}.",
    f"/record/grpc.health.v1.Health/../{_SERVICE}/{_METHOD}",
    f"/record/grpc.health.v1.Health/../../{_SERVICE}/{_METHOD}",
    f"/record/modelkeep.server.v1.ServerService/..%2f{_SERVICE}/{_METHOD}",
]
JSON_PATHS = [
    "/v1/store:backUp",
    "/v1//store:backUp",
    "//v1/store:backUp",
    "/v1/./store:backUp",
    "/v1/x/../store:backUp",
    "/v1/store:backUp/",
    "/v1/store:backup",
    "/V1/store:backUp",
    "/v1/store%3AbackUp",
    "/v1/store:back%55p",
    "/v1/store:backUp?x=1",
    "/v1/%73tore:backUp",
]
#: What a message is sent as: by gRPC-Web and, with or without HTTP/2, by gRPC.
KINDS = [
    ("application/grpc-web+proto",),
    ("application/grpc-web",),
    ("application/grpc", "te: trailers"),
    ("application/grpc", "te: trailers", "--http2-prior-knowledge"),
]
#: By which proxies and frameworks let a path or a method be another than it is.
OVERRIDES = [
    f"x-original-url: /{_SERVICE}/{_METHOD}",
    f"x-rewrite-url: /{_SERVICE}/{_METHOD}",
    f"x-envoy-original-path: /{_SERVICE}/{_METHOD}",
    f"x-envoy-decorator-operation: /{_SERVICE}/{_METHOD}",
    "x-http-method-override: POST",
    "x-forwarded-prefix: /record",
]


@pytest.fixture(scope="module")
def suite() -> Iterator[OwnersSuite]:
    with (
        tempfile.TemporaryDirectory(prefix="mk-") as folder,
        service_suite(Path(folder) / "modelkeep-data", services=("record",)) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def strict(suite: OwnersSuite) -> Iterator[str]:
    """A gateway that lets nobody make backups."""
    gateway = Gateway({"record": [suite.over_tcp["record"]]}, denied=[f"{_SERVICE}/{_METHOD}"])
    with running(gateway, suite.data_dir) as address:
        yield address


@pytest.fixture(scope="module")
def lax(suite: OwnersSuite) -> Iterator[str]:
    """A gateway that leaves it to the service."""
    folder = suite.data_dir / "lax"
    folder.mkdir()
    with running(Gateway({"record": [suite.over_tcp["record"]]}), folder) as address:
        yield address


def token_of(suite: OwnersSuite) -> str:
    return (suite.data_dir / "run" / "tokens" / "owner").read_text().strip()


def backups(suite: OwnersSuite) -> list[Path]:
    return list(suite.data_dir.rglob(f"*{_NAME}*"))


def sent(address: str, path: str, *headers: str, body: bytes = b"") -> tuple[int, str]:
    """Status and all of the answer to a request whose path goes out as it stands here.

    What begins with two dashes is an option of curl's and no header.
    """
    named = (text for header in headers for text in ([header] if header.startswith("--") else ["-H", header]))
    done = subprocess.run(
        [
            *("curl", "-sS", "-i", "--path-as-is", "--max-time", "30", *named),
            *("--data-binary", "@-", f"http://{address}{path}"),
        ],
        input=body,
        capture_output=True,
        check=False,
    )
    text = done.stdout.decode(errors="replace")
    return (int(text.split()[1]) if text else 0), text


def test_a_denied_method_is_denied_however_its_path_is_spelt(
    strict: str, lax: str, suite: OwnersSuite
) -> None:
    owner = f"authorization: Bearer {token_of(suite)}"
    message = pb.BackUpStoreRequest(name=_NAME).SerializeToString()
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    for kind, *others in KINDS:
        asked = (owner, f"content-type: {kind}", *others)
        for path in GRPC_PATHS:
            sent(strict, path, *asked, body=framed)
            assert not backups(suite), (path, asked[1:])
        # What was sent is a call that is made where nobody denies it.
        _, answer = sent(lax, GRPC_PATHS[0], *asked, body=framed)
        assert backups(suite), answer
        for made in backups(suite):
            made.unlink()
    for path in JSON_PATHS:
        status, answer = sent(strict, path, owner, body=json.dumps({"name": _NAME}).encode())
        assert (status in (400, 403, 404), backups(suite)) == (True, []), (path, answer)
    for header in OVERRIDES:
        for path in ("/v1/models", f"/{_SERVICE}/ListModels", "/"):
            sent(strict, path, owner, header, "content-type: application/grpc-web", body=framed)
            sent(strict, path, owner, header, body=json.dumps({"name": _NAME}).encode())
        assert not backups(suite), header
    # The same where nothing is denied: what is asked there is the method, and the caller may.
    sent(lax, GRPC_PATHS[0], owner, "content-type: application/grpc-web+proto", body=framed)
    assert backups(suite)


def test_no_other_spelling_is_a_method_to_the_service_itself(suite: OwnersSuite) -> None:
    shown = [("authorization", f"Bearer {token_of(suite)}")]
    with grpc.insecure_channel(suite.over_tcp["record"]) as channel:
        right: Any = channel.unary_unary(f"/{_SERVICE}/ListModels")
        assert right(b"", metadata=shown, timeout=30) is not None
        for path in GRPC_PATHS[1:]:
            call: Any = channel.unary_unary(
                path.replace(_METHOD, "ListModels").replace(_METHOD.lower(), "listmodels")
            )
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", metadata=shown, timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, path


def test_headers_make_nobody_somebody_else(lax: str, suite: OwnersSuite) -> None:
    owner = token_of(suite)
    before, body = backups(suite), json.dumps({"name": f"{_NAME}-by-header"}).encode()
    for header in (
        "x-forwarded-client-cert: By=spiffe://a;Hash=00;URI=spiffe://modelkeep/client",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-user: owner",
        "x-remote-user: owner",
        "x-envoy-internal: true",
        "x-envoy-external-address: 127.0.0.1",
        "forwarded: for=unix:",
        f"proxy-authorization: Bearer {owner}",
        f"cookie: authorization=Bearer {owner}",
        f"grpc-metadata-authorization: Bearer {owner}",
        f"grpc-authorization: Bearer {owner}",
        f"authorization-bin: {base64.b64encode(owner.encode()).decode()}",
    ):
        status, answer = sent(lax, "/v1/store:backUp", header, body=body)
        assert (status, "ROLE_REQUIRED" in answer) == (403, True), (header, answer)
    right, wrong = f"Bearer {owner}", "Bearer nonsense-nonsense"
    for shown in (
        (right, wrong),
        (wrong, right),
        (right, right),
        (f"{right}, {right}",),
        (f"{right},{wrong}",),
    ):
        status, answer = sent(lax, "/v1/store:backUp", *(f"authorization: {one}" for one in shown), body=body)
        assert (status, "CREDENTIALS_INVALID" in answer) == (401, True), (shown, answer)
        assert owner not in answer
    assert backups(suite) == before


def test_a_token_that_is_too_long_or_no_text_is_refused_before_a_service_looks(
    lax: str, suite: OwnersSuite
) -> None:
    for size, refusals in ((15_000, (401, 429)), (40_000, (429,)), (120_000, (431,))):
        status, answer = sent(lax, "/v1/models:list", f"authorization: Bearer {'x' * size}", body=b"{}")
        assert (status in refusals, "x" * 100 in answer) == (True, False), (size, answer)
    for odd in ("\x01", "\x7f", "\x1b[31m"):
        assert (
            sent(lax, "/v1/models:list", f"authorization: Bearer token-of-16{odd}", body=b"{}")[0] == 400
        ), odd
    assert sent(lax, "/v1/models:list", body=b"{}")[0] == 200
