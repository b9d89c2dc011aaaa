"""HTTP with JSON through the Envoy of a suite: docs/http.md's lines by curl, and who is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.gateway import Gateway
from support.gateways import running
from support.installs import small_lora
from support.suite import OwnersSuite, service_suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(sh|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DENIED = "modelkeep.record.v1.RecordService/BackUpStore"


@pytest.fixture(scope="module")
def suite() -> Iterator[OwnersSuite]:
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    try:
        with service_suite(
            folder / "modelkeep-data", services=("record", "download", "install"), gateway_port=0
        ) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def strict(suite: OwnersSuite) -> Iterator[str]:
    """Another gateway before the same services: a denied method, and an origin that may call."""
    gateway = Gateway(
        {name: [address] for name, address in suite.over_tcp.items()},
        denied=[_DENIED],
        origins=["https://ui.example.com"],
    )
    folder = suite.data_dir / "other"
    folder.mkdir()
    with running(gateway, folder) as address:
        yield f"http://{address}"


def base(suite: OwnersSuite) -> str:
    assert suite.gateway is not None
    assert suite.gateway.refusal == ""
    return suite.gateway.address


def curl(*arguments: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of a request."""
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", "30", *arguments], capture_output=True, check=True
    )
    head, _, body = done.stdout.decode(errors="replace").replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.splitlines()
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines if ": " in line), body


def test_the_lines_of_the_documentation_work_as_they_stand_there(suite: OwnersSuite, tmp_path: Path) -> None:
    """As one script, since a variable of one block is used in the next; each command's answer is a line."""
    model = small_lora(tmp_path / "sketch.safetensors")
    blocks = [(match[1], match[2]) for match in _BLOCK.finditer((ROOT / "docs" / "http.md").read_text())]
    script = "".join(
        re.sub(r"^(curl .*)$", r"\1; echo", text, flags=re.MULTILINE) for kind, text in blocks if kind == "sh"
    )
    script = script.replace("http://127.0.0.1:8080", base(suite))
    script = script.replace("/path/to/sketch.safetensors", str(model))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MODELKEEP_DATA_DIR": str(suite.data_dir),
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    models, found, info, listed, made, *frames, error = (
        json.loads(line) for line in done.stdout.splitlines() if line
    )
    assert "resumeToken" in models
    assert "models" not in found
    assert info["service"] == "record"
    assert "models" not in listed
    assert made["install"]["source"]["localPath"] == str(model)
    states = [
        event["put"]["state"] for frame in frames for event in frame.get("events", ()) if "put" in event
    ]
    assert states[-1] == "INSTALL_STATE_COMPLETED"
    (shown,) = [json.loads(text) for kind, text in blocks if kind == "json"]
    assert (error["code"], error["message"]) == (shown["code"], shown["message"])
    assert error["details"][0] == shown["details"][0]


def reason_of(body: str) -> str:
    details: list[dict[str, Any]] = json.loads(body)["details"]
    return next(str(detail["reason"]) for detail in details if "reason" in detail)


def test_a_caller_has_the_rights_that_he_brings_and_no_others(suite: OwnersSuite) -> None:
    wanted = ("-d", '{"source": {"localPath": "/nothing/there"}}', f"{base(suite)}/v1/installs")
    status, _, body = curl(*wanted)
    assert (status, reason_of(body)) == (403, "ROLE_REQUIRED")
    token = (suite.data_dir / "run" / "tokens" / "owner").read_text().strip()
    status, _, body = curl("-H", f"authorization: Bearer {token}", *wanted)
    assert (status, reason_of(body)) == (400, "SOURCE_NOT_FOUND")
    status, _, body = curl("-H", "authorization: Bearer wrong", *wanted)
    assert (status, reason_of(body)) == (401, "CREDENTIALS_INVALID")


def test_a_watch_that_cannot_begin_is_an_answer_with_its_reason(suite: OwnersSuite) -> None:
    status, _, body = curl(f"{base(suite)}/v1/models:watch?resume_token=nonsense")
    assert (status, reason_of(body)) == (400, "RESUME_TOKEN_FOREIGN")


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1", "localhost:1", "[::1]"])
def test_other_hosts_are_refused(suite: OwnersSuite, host: str) -> None:
    status, _, body = curl("-H", f"host: {host}", f"{base(suite)}/v1/models")
    assert (status, "answers for 127.0.0.1:" in body) == (421, True)


def test_pages_of_other_origins_are_refused_though_they_need_no_token(suite: OwnersSuite) -> None:
    """A form of such a page is sent without asking first."""
    form = ("-H", "content-type: text/plain", "-d", "{}", f"{base(suite)}/v1/models:list")
    assert curl(*form)[0] == 200
    assert curl("-H", f"origin: {base(suite)}", *form)[0] == 200
    for origin in ("https://evil.example", "null", base(suite).replace("http:", "https:")):
        status, headers, body = curl("-H", f"origin: {origin}", *form)
        assert (status, "Pages of this origin" in body) == (403, True)
        assert "access-control-allow-origin" not in headers


def test_pages_of_other_origins_embed_nothing_either_and_may_have_links(suite: OwnersSuite) -> None:
    """A picture or a script is got without an origin."""
    for site, mode, status in (
        ("cross-site", "no-cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "no-cors", 200),
        ("none", "navigate", 200),
    ):
        shown = ("-H", f"sec-fetch-site: {site}", "-H", f"sec-fetch-mode: {mode}")
        assert curl(*shown, f"{base(suite)}/v1/models")[0] == status, (site, mode)


def test_what_only_looks_like_a_preflight_goes_the_way_of_every_call(strict: str) -> None:
    asks = ("-X", "OPTIONS", "-H", "access-control-request-method: POST")
    for origin in ((), ("-H", f"origin: {strict}")):
        assert curl(*asks, *origin, f"{strict}/modelkeep.record.v1.RecordService/ListModels")[0] == 404
        assert curl(*asks, *origin, f"{strict}/{_DENIED}")[0] == 403


def test_an_origin_that_may_call_is_told_so_and_sees_how_a_call_ended(strict: str) -> None:
    origin = ("-H", "origin: https://ui.example.com")
    path = f"{strict}/modelkeep.record.v1.RecordService/ListModels"
    asks = ("-X", "OPTIONS", "-H", "access-control-request-method: POST")
    status, headers, _ = curl(*asks, *origin, path)
    assert status == 200
    assert headers["access-control-allow-origin"] == "https://ui.example.com"
    assert {"authorization", "content-type", "x-grpc-web", "grpc-timeout"} <= {
        *headers["access-control-allow-headers"].split(", ")
    }
    # One empty message.
    status, headers, body = curl(
        *origin,
        "-H",
        "content-type: application/grpc-web-text",
        "-H",
        "x-grpc-web: 1",
        "-d",
        "AAAAAAA=",
        path,
    )
    assert (status, headers["content-type"][:20]) == (200, "application/grpc-web")
    exposed = {*headers["access-control-expose-headers"].split(", ")}
    assert exposed >= {"grpc-status", "grpc-message", "grpc-status-details-bin"}
    assert body
    status, headers, body = curl(*origin, f"{strict}/v1/models")
    assert (status, headers["access-control-allow-origin"]) == (200, "https://ui.example.com")
    assert curl(*asks, *origin, f"{strict}/v1/models")[1]["access-control-allow-methods"]
    assert curl(*asks, "-H", "origin: https://evil.example", path)[0] == 403


def test_a_denied_method_is_refused_over_http_and_over_grpc_web(strict: str, suite: OwnersSuite) -> None:
    token = (suite.data_dir / "run" / "tokens" / "owner").read_text().strip()
    allowed = ("-H", f"authorization: Bearer {token}")
    status, _, body = curl(*allowed, "-d", '{"name": "x"}', f"{strict}/v1/store:backUp")
    assert (status, f"{_DENIED} may not be called" in body) == (403, True)
    web = ("-H", "content-type: application/grpc-web+proto", "--data-binary", "")
    status, headers, _ = curl(*allowed, *web, f"{strict}/{_DENIED}")
    assert headers["grpc-status"] == "7"
    assert not list(suite.data_dir.glob("record/*x*"))
    status, _, body = curl(*allowed, "-d", '{"name": "x"}', f"{base(suite)}/v1/store:backUp")
    assert status == 200, body


def test_what_every_service_answers_is_asked_by_the_services_name(suite: OwnersSuite) -> None:
    for name in ("record", "download", "install"):
        status, _, body = curl(f"{base(suite)}/v1/servers/{name}")
        assert (status, json.loads(body)["service"]) == (200, name)
        web = ("-H", "content-type: application/grpc-web-text", "-H", "x-grpc-web: 1", "-d", "AAAAAAA=")
        status, headers, _ = curl(*web, f"{base(suite)}/{name}/grpc.health.v1.Health/Check")
        assert status == 200
        assert headers["content-type"].startswith("application/grpc-web")
    status, _, body = curl(f"{base(suite)}/v1/capacity")
    assert (status, "no loader service" in body) == (503, True)


@pytest.mark.parametrize("path", ["/v1/models?nonsense=1", "/v1/models?page_size=many", "/v1/nothing", "/x"])
def test_what_cannot_be_understood_is_refused_without_asking_a_service(suite: OwnersSuite, path: str) -> None:
    assert curl(f"{base(suite)}{path}")[0] in (400, 404)


def test_what_is_no_grpc_reaches_no_service(suite: OwnersSuite) -> None:
    path = f"{base(suite)}/modelkeep.record.v1.RecordService/ListModels"
    assert curl("-d", "{}", path)[0] == 404
