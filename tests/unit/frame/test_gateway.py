"""The gateway's configuration, and the gateway beside a suite."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor_pb2 import MethodOptions

from modelkeep.gateway import Gateway, GatewayError, NoGatewayError, ServerCertificate, bootstrap, start
from modelkeep.gateway.__main__ import main
from modelkeep.suitefile import read_suite_file, token_path
from support import apidescriptors
from support.suite import toy_environment, toy_suite

ROOT = Path(__file__).resolve().parents[3]
DEPLOYED = ROOT / "deploy" / "envoy"
SERVICES = {name: [f"{name}:1"] for name in ("record", "download", "install", "loader")}
linux = pytest.mark.skipif(sys.platform != "linux", reason="Envoy is there for Linux only")


def routes(gateway: Gateway) -> list[dict[str, Any]]:
    (listener,) = bootstrap(gateway)["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    found: list[dict[str, Any]] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return found


def route_of(gateway: Gateway, path: str) -> dict[str, Any]:
    """The route that a call by gRPC takes, without an origin, or other headers but its content type."""
    for route in routes(gateway):
        match = route["match"]
        if any(header["name"] != "content-type" for header in match.get("headers", ())):
            continue
        if (
            match.get("path") == path
            or ("prefix" in match and path.startswith(match["prefix"]))
            or ("safe_regex" in match and re.fullmatch(match["safe_regex"]["regex"], path))
        ):
            return route
    raise AssertionError(path)


def fetch(url: str, **headers: str) -> tuple[int, Any, str]:
    asked = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


@pytest.mark.parametrize("method", list(apidescriptors.methods()), ids=lambda method: str(method.full_name))
def test_a_call_is_sent_twice_only_if_it_may_be(method: Any) -> None:
    service = method.containing_service
    if service.full_name == "modelkeep.server.v1.ServerService":
        return  # goes by another header, and is sent once
    name = service.full_name.split(".")[1]
    taken = route_of(Gateway(SERVICES), f"/{service.full_name}/{method.name}")["route"]
    assert taken["cluster"] == f"modelkeep-{name}"
    assert taken["timeout"] == "0s"
    options = MethodOptions.FromString(method.GetOptions().SerializeToString())
    repeatable = options.idempotency_level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)
    assert ("retry_policy" in taken) == repeatable


def test_a_method_that_is_denied_takes_no_way_to_a_service() -> None:
    method = "modelkeep.server.v1.ServerService/GetServerInfo"
    gateway = Gateway(SERVICES, denied=[method])
    for path in (f"/{method}", *(f"/{name}/{method}" for name in SERVICES)):
        assert route_of(gateway, path)["direct_response"]["status"] == 403
    health = "/record/grpc.health.v1.Health/Check"
    assert route_of(gateway, health)["route"]["cluster"] == "modelkeep-record"


def test_a_method_that_is_not_there_cannot_be_denied() -> None:
    with pytest.raises(GatewayError, match=r"no method modelkeep\.record\.v1\.RecordService/Get: write"):
        bootstrap(Gateway(SERVICES, denied=["modelkeep.record.v1.RecordService/Get"]))


def test_nothing_in_it_adds_to_what_a_caller_brings() -> None:
    said = json.dumps(bootstrap(Gateway(SERVICES)))
    assert "request_headers_to_add" not in said
    assert '"pipe"' not in said
    assert '"admin"' not in said


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--cert-file", "a"], "--key-file go together"),
        (["--upstream-ca-file", "a"], "--upstream-name"),
        (["--upstream-cert-file", "a", "--upstream-key-file", "b"], "--upstream-ca-file"),
        (["--client-ca-file", "a"], "name --cert-file and --key-file"),
        (["--deny", "x"], "There is no method x"),
        (["--origin", "https://ui.example.com/"], "without a path"),
        (["--record", "record.example.org"], "write it as HOST:PORT"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_what_helps(
    arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "tls", "hosts", "origin"),
    [
        ("localhost", False, ["localhost:8080"], "http://localhost:8080"),
        ("Models.Example", False, ["models.example:8080"], "http://models.example:8080"),
        ("models.example:443", True, ["models.example", "models.example:443"], "https://models.example"),
        ("models.example:443", False, ["models.example:443"], "http://models.example:443"),
        ("models.example:80", False, ["models.example", "models.example:80"], "http://models.example"),
        ("::1", False, ["[::1]:8080"], "http://[::1]:8080"),
        ("[::1]:80", False, ["[::1]", "[::1]:80"], "http://[::1]"),
    ],
)
def test_a_name_is_answered_as_callers_write_it(name: str, tls: bool, hosts: list[str], origin: str) -> None:
    shown = ServerCertificate(Path("a"), Path("b")) if tls else None
    gateway = Gateway(SERVICES, names=[name], tls=shown)
    assert (list(gateway.hosts), gateway.own_origins) == (hosts, (origin,))


@pytest.mark.parametrize("name", ["plain", "mtls"])
def test_what_is_deployed_is_what_its_arguments_say(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([f"@{DEPLOYED / name}.args", "--write-secrets", str(tmp_path)]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load((DEPLOYED / f"{name}.yaml").read_text())
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    deployed = {path.name: path.read_text() for path in DEPLOYED.glob(f"{name}-secrets/*")}
    assert written == deployed


def test_a_suite_whose_gateway_finds_its_port_taken_says_so_and_runs(taken_port: int, data_dir: Path) -> None:
    with toy_suite(data_dir, gateway_port=taken_port) as suite:
        assert suite.gateway is not None
        assert suite.gateway.address == ""
        assert suite.gateway.refusal == f"port {taken_port} is taken; --dashboard-port names another one"
        assert all(process.returncode is None for process in suite.processes.values())


@linux
def test_somebody_else_at_the_port_is_not_taken_for_the_gateway(taken_port: int, tmp_path: Path) -> None:
    """He would be shown the owner's token, by the address that `modelkeep up` prints."""
    with pytest.raises(NoGatewayError, match=r"Envoy ended with code 1.*Address already in use"):
        start(Gateway({}, port=taken_port), tmp_path, tmp_path / "gateway.log")


@linux
@pytest.mark.timeout(120)
def test_a_suites_gateway_serves_the_built_dashboard_and_ends_with_the_suite(data_dir: Path) -> None:
    with toy_suite(data_dir, gateway_port=0) as suite:
        gateway = suite.gateway
        assert gateway is not None
        assert gateway.refusal == ""
        said = read_suite_file(data_dir)
        assert said is not None
        assert said.gateway == gateway.address
        status, headers, page = fetch(f"{gateway.address}/")
        assert (status, page) == (200, (ROOT / "clients" / "dashboard" / "dist" / "index.html").read_text())
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-cache"
        for name in ("app.js", "app.css"):
            status, headers, body = fetch(f"{gateway.address}/{name}")
            assert (status, body) == (200, (ROOT / "clients" / "dashboard" / "dist" / name).read_text())
        assert fetch(f"{gateway.address}/", host="rebound.example")[0] == 421
        status, _, body = fetch(f"{gateway.address}/v1/models")
        assert (status, "no record service behind" in body) == (503, True)
        assert stat.S_IMODE((data_dir / "run" / "gateway.json").stat().st_mode) == 0o600
        pid = gateway.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert gateway.wait() == ""


_UP = """
import os, sys
from pathlib import Path
from modelkeep.supervisor import up
sys.exit(up(Path(sys.argv[1]), ports={"alpha": 0, "beta": 0}, services=("alpha", "beta"), dashboard_port=0,
            env={"PYTHONPATH": os.environ["PYTHONPATH"]}, say=lambda text: print(text, flush=True)))
"""


@linux
@pytest.mark.timeout(120)
def test_a_suite_in_the_foreground_prints_the_dashboards_address_with_the_owners_token(
    data_dir: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _UP, str(data_dir)],
        env={**os.environ, **toy_environment()},
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        said = []
        for line in up.stdout:
            said.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        token = token_path(data_dir).read_text().strip()
        suite = read_suite_file(data_dir)
        assert suite is not None
        assert f"Dashboard: {suite.gateway}/#token={token}" in said
        up.send_signal(signal.SIGINT)
        up.stdout.read()
        assert up.wait() == 0
    with pytest.raises(urllib.error.URLError):
        fetch(f"{suite.gateway}/")


@linux
@pytest.mark.timeout(120)
def test_a_gateway_that_dies_is_told_of_and_takes_no_service_along(data_dir: Path) -> None:
    with toy_suite(data_dir, gateway_port=0) as suite:
        assert suite.gateway is not None
        assert suite.gateway.pid is not None
        os.kill(suite.gateway.pid, signal.SIGKILL)
        assert "The gateway ended with code -9" in suite.gateway.wait()
        assert all(process.returncode is None for process in suite.processes.values())
