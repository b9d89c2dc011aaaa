"""A gateway that serves TLS and calls a service by mTLS, with the certificates of `modelkeep certs dev`."""

from __future__ import annotations

import dataclasses
import json
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from modelkeep.devcerts import make_certificates
from modelkeep.gateway import DESCRIPTOR_SET, Gateway, ServerCertificate, UpstreamCertificate, secrets
from support.certificates import AUTHORITY, put
from support.gateways import free_port, image_environment, running
from support.tokens import token_of, write_tokens
from support.waiting import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_SHOWN = ("-H", f"authorization: Bearer {token_of('eve')}")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mk-") as made:
        make_certificates(Path(made) / "certs")
        yield Path(made)


@pytest.fixture(scope="module")
def record(folder: Path) -> Iterator[str]:
    """Address of a RecordService that wants certificates."""
    certs, port = folder / "certs", free_port()
    tokens = write_tokens(folder / "tokens.json", {"eve": ["viewer"]})
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "modelkeep_record", "--port", str(port)),
            *("--data-dir", str(folder / "data"), "--token-file", str(tokens)),
            *("--tls-cert-file", str(certs / "record.pem"), "--tls-key-file", str(certs / "record.key")),
            *("--tls-client-ca-file", str(certs / "ca.pem")),
            *("--tls-callers-file", str(certs / "callers.json")),
        ]
    )
    try:
        credentials = grpc.ssl_channel_credentials(
            *((certs / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
        )
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def gateway(record: str, certs: Path) -> Gateway:
    cert, key = certs / "gateway.pem", certs / "gateway.key"
    return Gateway(
        {"record": [record]},
        tls=ServerCertificate(cert, key),
        upstream_tls=UpstreamCertificate(certs / "ca.pem", ["spiffe://modelkeep/{service}"], cert, key),
        retries=0,
    )


@pytest.fixture(params=["in the configuration", "in files of secrets"])
def secrets_at(request: pytest.FixtureRequest, folder: Path) -> Path | None:
    """Where the certificates are named."""
    return None if request.param == "in the configuration" else folder / "secrets"


def placed(gateway: Gateway, secrets_at: Path | None) -> Gateway:
    if secrets_at is None:
        return gateway
    secrets_at.mkdir(exist_ok=True)
    for name, content in secrets(gateway).items():
        (secrets_at / name).write_text(json.dumps(content))
    return dataclasses.replace(gateway, secrets_at=secrets_at)


def ask(address: str, certs: Path, *arguments: str) -> tuple[int, str]:
    """Status and body of a list of models; 0 where the gateway's certificate is not trusted."""
    done = subprocess.run(
        [
            *("curl", "-sS", "--max-time", "30", "--cacert", str(certs / "ca.pem"), "-w", "\n%{http_code}"),
            *(*arguments, f"https://{address}/v1/models"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_callers_pass_through_by_tls_with_their_tokens_and_nobody_without(
    record: str, folder: Path, secrets_at: Path | None
) -> None:
    certs = folder / "certs"
    with running(placed(gateway(record, certs), secrets_at), folder) as address:
        status, body = ask(address, certs, *_SHOWN)
        assert (status, "resumeToken" in body) == (200, True)
        # The gateway's certificate lets callers through, and is nobody.
        status, body = ask(address, certs)
        assert (status, json.loads(body)["details"][0]["reason"]) == (401, "CREDENTIALS_MISSING")
        put(folder / "other", "ca", AUTHORITY.issued)
        assert ask(address, folder / "other")[0] == 0


def test_a_service_that_is_not_who_it_should_be_is_not_called(
    record: str, folder: Path, secrets_at: Path | None
) -> None:
    """What answers at the download service's address has the record service's certificate."""
    certs = folder / "certs"
    right = gateway(record, certs)
    assert right.upstream_tls is not None
    wrong = dataclasses.replace(right.upstream_tls, names=["spiffe://modelkeep/download"])
    nobody = dataclasses.replace(right.upstream_tls, cert_file=None, key_file=None)
    for upstream in (wrong, nobody):
        asked = placed(dataclasses.replace(right, upstream_tls=upstream), secrets_at)
        with running(asked, folder) as address:
            assert ask(address, certs, *_SHOWN)[0] == 503


def test_a_certificate_that_is_replaced_is_shown_without_a_restart(record: str, folder: Path) -> None:
    front = folder / "front"
    put(front, "ca", AUTHORITY.issued)
    cert, key = put(front, "server", AUTHORITY.issue("localhost", "127.0.0.1"))
    asked = dataclasses.replace(gateway(record, folder / "certs"), tls=ServerCertificate(cert, key))
    with running(placed(asked, folder / "secrets"), folder) as address:
        host, _, port = address.partition(":")
        assert ask(address, front, *_SHOWN)[0] == 200
        put(front, "server", AUTHORITY.issue("localhost", "127.0.0.1"))
        new = cert.read_text()
        wait_until(lambda: ssl.get_server_certificate((host, int(port))).split() == new.split(), timeout_s=60)
        assert ask(address, front, *_SHOWN)[0] == 200


def test_the_images_gateway_answers_for_the_names_and_ports_that_it_is_told(
    record: str, folder: Path, tmp_path: Path
) -> None:
    """As Kubernetes starts it; only the places of its files, and of the service, are others."""
    certs, port = folder / "certs", free_port()
    own = {"cert": "gateway.pem", "key": "gateway.key"}
    places = [(f"--{of}{kind}-file", certs / name) for of in ("", "upstream-") for kind, name in own.items()]
    places += [("--upstream-ca-file", certs / "ca.pem"), ("--descriptor-set", DESCRIPTOR_SET)]
    process = subprocess.Popen(
        [
            *("sh", str(DEPLOY / "docker/gateway.sh"), f"@{DEPLOY / 'envoy/mtls.args'}", "--no-pages"),
            *("--port", str(port), "--name", "models.example.com:443", "--host", "127.0.0.1"),
            *(text for flag, path in places for text in (flag, str(path))),
            *("--upstream-name", "record", "--record", record),
        ],
        env=image_environment(tmp_path),
    )
    try:
        address = f"localhost:{port}"
        wait_until(lambda: ask(address, certs)[0] != 0, timeout_s=60)
        for host in (address, "models.example.com", "Models.Example.com:443"):
            assert ask(address, certs, *_SHOWN, "-H", f"host: {host}")[0] == 200, host
        for host in (f"models.example.com:{port}", "localhost", "other.example.com"):
            assert ask(address, certs, *_SHOWN, "-H", f"host: {host}")[0] == 421, host
        for origin in (f"https://{address}", "https://models.example.com"):
            assert ask(address, certs, *_SHOWN, "-H", f"origin: {origin}")[0] == 200, origin
        assert ask(address, certs, *_SHOWN, "-H", f"origin: https://models.example.com:{port}")[0] == 403
    finally:
        process.terminate()
        process.wait()
