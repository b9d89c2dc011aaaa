"""The files of TLS: whose a certificate is, keys that fit, and files that are replaced."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from modelkeep.exceptions import CredentialsInvalidException
from modelkeep.renewed import Renewed, UnusableError
from modelkeep.tls import CallerFiles, read_caller, read_pair
from modelkeep_common.auth.certificates import CertificateAuthenticator, read_callers
from modelkeep_common.serving.server import _looking
from support.certificates import AUTHORITY, LOCALHOST, put

PEER = "ipv4:127.0.0.1:1"


def written(path: Path, callers: Any) -> Path:
    path.write_text(json.dumps({"callers": callers}))
    return path


def who(path: Path, *, uri: str = "", dns: str = "") -> str | None:
    callers = read_callers(path)
    told = {"peer_uri": [uri.encode()] if uri else [], "peer_dns": [dns.encode()] if dns else []}
    found = CertificateAuthenticator(lambda: callers).authenticate(PEER, (), lambda: told)
    return None if found is None else f"{found.name}: {' '.join(sorted(found.roles))}"


CALLERS = [
    {"uri": "spiffe://example/install", "name": "install", "roles": ["install"]},
    {"uri": "spiffe://example/ns/*/sa/worker", "roles": ["worker"]},
    {"dns": "*.CI.example", "name": "ci", "roles": ["operator", "viewer"]},
    {"dns": "gateway.example", "name": "gateway", "roles": []},
    {"uri": "spiffe://example/*", "name": "others", "roles": ["viewer"]},
]


@pytest.mark.parametrize(
    ("shown", "whose"),
    [
        ({"uri": "spiffe://example/install"}, "install: install"),
        ({"uri": "spiffe://example/ns/a/sa/worker"}, "spiffe://example/ns/a/sa/worker: worker"),
        ({"dns": "nightly.ci.EXAMPLE"}, "ci: operator viewer"),
        ({"dns": "gateway.example"}, None),
        ({"uri": "spiffe://example/else"}, "others: viewer"),
        # Entries before others decide, whichever of the certificate's names fits them.
        ({"uri": "spiffe://example/install", "dns": "gateway.example"}, "install: install"),
    ],
)
def test_a_certificate_is_whose_the_first_entry_says_that_fits(
    tmp_path: Path, shown: dict[str, str], whose: str | None
) -> None:
    assert who(written(tmp_path / "callers.json", CALLERS), **shown) == whose


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"uri": "spiffe://example/ns/a/b/sa/worker"},
        {"uri": "spiffe://example/"},
        {"uri": "SPIFFE://EXAMPLE/install"},
        {"uri": "spiffe://example/install/"},
        {"uri": "xspiffe://example/install"},
        {"uri": "spiffe://example.org/install"},
        {"uri": "nightly.ci.example"},
        {"dns": "ci.example"},
        {"dns": "a.b.ci.example"},
        {"dns": "spiffe://example/install"},
        {"dns": "gateway-example"},
    ],
)
def test_a_certificate_that_fits_no_entry_is_nobodys(tmp_path: Path, shown: dict[str, str]) -> None:
    with pytest.raises(CredentialsInvalidException, match="tls_callers_file"):
        who(written(tmp_path / "callers.json", CALLERS), **shown)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (7, "must be an object"),
        ({"uri": "a", "roles": ["viewer"], "colour": "blue"}, "unknown key 'colour'"),
        ({"roles": ["viewer"]}, 'either "uri" or "dns"'),
        ({"uri": "a", "dns": "b", "roles": ["viewer"]}, 'either "uri" or "dns"'),
        ({"uri": "", "roles": ["viewer"]}, 'either "uri" or "dns"'),
        ({"uri": ["a"], "roles": ["viewer"]}, 'either "uri" or "dns"'),
        ({"uri": "a", "name": "", "roles": ["viewer"]}, "the name of entry 0"),
        ({"uri": "a", "roles": ["god"]}, "the roles of a"),
        ({"uri": "a", "name": "b"}, "the roles of b"),
    ],
)
def test_a_file_of_callers_that_is_no_good_is_refused(tmp_path: Path, entry: Any, why: str) -> None:
    with pytest.raises(UnusableError, match=why):
        read_callers(written(tmp_path / "callers.json", [entry]))


def test_a_key_must_be_its_users_alone_belong_to_the_certificate_and_have_no_passphrase(
    tmp_path: Path,
) -> None:
    cert, key = put(tmp_path, "a", LOCALHOST)
    assert read_pair(cert, key).key == LOCALHOST.key
    other, other_key = put(tmp_path, "b", AUTHORITY.issue("b"))
    with pytest.raises(UnusableError, match=f"tls_cert_file {other} and tls_key_file {key} are no"):
        read_pair(other, key, "tls_")
    with pytest.raises(UnusableError, match="no certificate and its private key"):
        read_pair(key, key)
    with pytest.raises(UnusableError, match="cannot read cert_file"):
        read_pair(tmp_path / "none", key)
    with pytest.raises(UnusableError, match="cannot read key_file"):
        read_pair(cert, tmp_path / "none")
    key.chmod(0o644)
    with pytest.raises(UnusableError, match=f"chmod 600 {key}"):
        read_pair(cert, key)
    locked = load_pem_private_key(LOCALHOST.key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    other_key.write_bytes(locked)
    with pytest.raises(UnusableError, match="passphrase"):
        read_pair(other, other_key)


def test_certificate_and_key_may_stand_in_one_file(tmp_path: Path) -> None:
    cert, _ = put(tmp_path, "a", LOCALHOST)
    cert.write_bytes(LOCALHOST.certificate + LOCALHOST.key)
    found = read_caller(CallerFiles(ca_file=put(tmp_path, "ca", AUTHORITY.issued)[0], cert_file=cert))
    assert found.pair is not None
    cert.write_bytes(b"nothing")
    with pytest.raises(UnusableError, match="holds no certificates"):
        read_caller(CallerFiles(ca_file=cert))


class Number:
    """A number in a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.complaints = path, list[str]()
        path.write_text("1")
        self.renewed = Renewed((path,), self.read, self.complaints.append)

    def read(self) -> int:
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            raise UnusableError("no number") from None

    def write(self, text: str) -> None:
        scratch = self.path.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(self.path)


@pytest.fixture
def number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Number:
    monkeypatch.setattr("modelkeep.renewed.LOOK_S", 0)
    return Number(tmp_path / "n")


def test_what_is_no_good_is_told_once_and_the_value_before_it_stays(number: Number) -> None:
    number.renewed.look()
    assert number.renewed.value == 1
    number.write("x")
    number.renewed.look()
    number.renewed.look()
    assert (number.renewed.value, number.complaints) == (1, ["no number"])
    number.path.unlink()
    number.renewed.look()
    assert (number.renewed.value, number.complaints) == (1, ["no number"] * 2)
    number.write("2")
    number.renewed.look()
    assert (number.renewed.value, len(number.complaints)) == (2, 2)


def test_a_mode_that_is_put_right_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelkeep.renewed.LOOK_S", 0)
    cert, key = put(tmp_path, "a", LOCALHOST)
    complaints = list[str]()
    renewed = Renewed((cert, key), lambda: read_pair(cert, key), complaints.append)
    new = AUTHORITY.issue("new")
    put(tmp_path, "a", new)
    key.chmod(0o640)
    renewed.look()
    assert (renewed.value.key, f"chmod 600 {key}" in complaints[0]) == (LOCALHOST.key, True)
    key.chmod(0o600)
    renewed.look()
    assert (renewed.value.key, len(complaints)) == (new.key, 1)


def test_a_file_behind_a_link_that_is_turned_is_seen(number: Number, tmp_path: Path) -> None:
    new = tmp_path / "other"
    new.write_text("3")
    link = tmp_path / "link"
    link.symlink_to(new)
    link.replace(number.path)
    number.renewed.look()
    assert number.renewed.value == 3


def test_what_is_read_while_it_is_replaced_is_read_again(number: Number) -> None:
    whole = number.read

    def slowly() -> int:
        found = whole()
        if found == 2:
            number.write("3")
        return found

    number.renewed._make = slowly
    number.write("2")
    number.renewed.look()
    assert number.renewed.value == 3


async def test_a_look_that_fails_keeps_nobody_from_looking(
    number: Number, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Renewed[int]):
        def look(self) -> None:
            raise MemoryError

    broken = Broken((number.path,), number.read, number.complaints.append)
    monkeypatch.setattr("modelkeep_common.serving.server.LOOK_S", 0.01)
    looking = _looking([broken, number.renewed])
    try:
        for text in ("2", "3"):
            number.write(text)
            async with asyncio.timeout(20):
                while number.renewed.value != int(text):  # noqa: ASYNC110  it tells nobody
                    await asyncio.sleep(0.01)
    finally:
        looking.cancel()


def test_nobody_waits_for_another_who_looks(number: Number) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> int:
        begun.set()
        assert go_on.wait(20)
        return 2

    number.renewed._make = slowly
    number.write("2")
    looking = threading.Thread(target=number.renewed.look)
    looking.start()
    assert begun.wait(20)
    number.renewed.look()
    assert number.renewed.value == 1
    go_on.set()
    looking.join()
    assert number.renewed.value == 2
