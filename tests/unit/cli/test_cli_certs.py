"""``modelkeep certs dev``: what lies in the folder, for whom, and that nothing is replaced."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from modelkeep.cli.main import app
from modelkeep.devcerts import make_certificates
from modelkeep.tls import read_pair
from modelkeep_common.auth.certificates import read_callers


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


NAMES = ("record", "download", "install", "loader", "gateway", "client")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("c") / "certs"
    make_certificates(made, ["models.example.org", "192.0.2.7"], 30)
    return made


def names_of(path: Path) -> set[str]:
    names = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return {str(name.value) for name in names.value}


def test_keys_are_their_users_alone_and_fit_the_certificates(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("ca", *NAMES):
        key = folder / f"{name}.key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert read_pair(folder / f"{name}.pem", key)


def test_a_folder_that_is_there_becomes_its_users_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    make_certificates(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_server_is_called_by_its_name_by_this_hosts_and_by_those_that_are_given(
    folder: Path, name: str
) -> None:
    expected = {name, "localhost", "127.0.0.1", "::1", "models.example.org", "192.0.2.7"}
    assert names_of(folder / f"{name}.pem") == {*expected, f"spiffe://modelkeep/{name}"}


def test_the_client_is_the_owner_and_cannot_be_called(folder: Path) -> None:
    assert names_of(folder / "client.pem") == {"spiffe://modelkeep/client"}
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.create_default_context(cafile=folder / "ca.pem"),
    )
    server.load_cert_chain(folder / "client.pem", folder / "client.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client)
    server.load_cert_chain(folder / "record.pem", folder / "record.key")
    shake_hands(server, client)
    whose = {caller.name: caller.roles for caller in read_callers(folder / "callers.json")}
    assert whose["owner"] == {"admin", "owner"}
    assert whose["gateway"] == frozenset()
    assert whose["install"] == {"install"}


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    called = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (calling, called):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_the_command_says_how_to_use_them_and_replaces_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "my certs"
    first = cli("certs", "dev", str(folder), "--days", "2", "-o", "json")
    assert first.exit_code == 0
    assert set(json.loads(first.stdout)["files"]) == {path.name for path in folder.iterdir()}
    before = {path: path.read_bytes() for path in folder.iterdir()}
    again = cli("certs", "dev", str(folder))
    assert again.exit_code == 2
    assert "not empty" in again.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    other = cli("certs", "dev", str(tmp_path / "b"))
    assert "--tls-callers-file" in other.stdout
    assert f"-cacert {tmp_path}/b/ca.pem" in other.stdout
    wrong = cli("certs", "dev", str(tmp_path / "c"), "--host", "ä.example")
    assert wrong.exit_code == 2
    assert not (tmp_path / "c").exists()
