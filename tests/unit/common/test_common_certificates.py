"""How long certificates last, what the log says of it, and keys that gRPC's callers cannot use."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from modelkeep.devcerts import PrivateAuthority
from modelkeep.exceptions import CredentialsInvalidException
from modelkeep.renewed import UnusableError
from modelkeep_common.auth import certificates
from modelkeep_common.auth.certificates import LivingCertificates
from modelkeep_common.certificates import Lifetime, check_key, lifetime_of
from modelkeep_common.serving.expiry import Expiry
from support.certificates import AUTHORITY, LOCALHOST, self_signed

DAY = 86_400
#: Of a year, in 1970.
YEAR = Lifetime(0, 365 * DAY)
HOUR = Lifetime(0, 3600)


@pytest.mark.parametrize(
    ("lifetime", "times", "lines"),
    [
        (YEAR, (DAY, 350 * DAY), []),
        (YEAR, (351 * DAY + 1,), ["WARNING the certificate ends in 13 days"]),
        (YEAR, (360 * DAY, 360.5 * DAY), ["WARNING the certificate ends in 5 days"]),
        (YEAR, (362 * DAY, 363 * DAY), [f"WARNING the certificate ends in {days} days" for days in (3, 2)]),
        (YEAR, (364.5 * DAY, 365 * DAY, 365.1 * DAY), ["WARNING the certificate ends", "ERROR the"]),
        (YEAR, (366 * DAY, 367 * DAY), ["ERROR the certificate ended at 1971-01-01 00:00 UTC"] * 2),
        (YEAR, (-5, 5), ["WARNING the certificate is not good before 1970-01-01 00:00 UTC"]),
        # One that lasts an hour is renewed when a third is left: that is nothing to tell.
        (HOUR, (2400, 2800), []),
        (HOUR, (2900,), ["WARNING the certificate ends in 11 minutes"]),
    ],
)  # fmt: skip
def test_the_log_warns_before_the_end_and_again_each_day(
    lifetime: Lifetime, times: tuple[float, ...], lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    expiry = Expiry(Path("a.pem"), iter(times).__next__)
    for _ in times:
        expiry.look(lifetime)
    first, *told = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    assert first.startswith("INFO the certificate is good until 197")
    assert len(told) == len(lines)
    assert all(line.startswith(begin) for line, begin in zip(told, lines, strict=True)), told


def test_a_certificate_lasts_no_longer_than_those_it_depends_on() -> None:
    short = PrivateAuthority("short", days=1)
    chain = LOCALHOST.certificate + short.issued.certificate
    own, both = lifetime_of(LOCALHOST.certificate, "x"), lifetime_of(chain, "x")
    assert both.end == lifetime_of(short.issued.certificate, "x").end < own.end
    assert lifetime_of(LOCALHOST.key + LOCALHOST.certificate, "x") == own
    begin, end = lifetime_of(AUTHORITY.issue("a", days=2).certificate, "x")
    assert abs(end - begin - 2 * DAY) < 600


@pytest.mark.parametrize(
    ("make", "good"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), True),
        (lambda: ec.generate_private_key(ec.SECP256R1()), True),
        (lambda: ec.generate_private_key(ec.SECP384R1()), True),
        (lambda: ec.generate_private_key(ec.SECP521R1()), False),
        (lambda: ec.generate_private_key(ec.SECP256K1()), False),
        (ed25519.Ed25519PrivateKey.generate, False),
    ],
)
def test_keys_that_callers_cannot_use_are_refused(make: Callable[[], Any], good: bool) -> None:
    text = self_signed(make()).certificate
    if good:
        check_key(text, "x")
        return
    with pytest.raises(UnusableError, match="cannot use x: have one made for a key of RSA, or of the curve"):
        check_key(text, "x")


def altered(before: str, after: str) -> bytes:
    """The service's certificate with other bytes in a place, in hexadecimal."""
    text = ssl.PEM_cert_to_DER_cert(LOCALHOST.certificate.decode()).hex()
    assert before in text
    return ssl.DER_cert_to_PEM_cert(bytes.fromhex(text.replace(before, after, 1))).encode()


def test_a_key_of_a_curve_that_nobody_knows_is_refused() -> None:
    """prime192v2 in place of P-256."""
    with pytest.raises(UnusableError, match="gRPC's callers cannot use x"):
        check_key(altered("2a8648ce3d030107", "2a8648ce3d030102"), "x")


#: OpenSSL reads one of version 2, but nobody makes such.
VERSION_2 = ("a003020102", "a003020101")


@pytest.mark.parametrize("read", [lifetime_of, check_key])
def test_a_certificate_of_an_odd_version_is_refused(read: Callable[[bytes, str], object]) -> None:
    with pytest.raises(UnusableError, match="x is no certificate"):
        read(altered(*VERSION_2), "x")


def test_who_connects_with_a_certificate_that_cannot_be_read_is_told_so() -> None:
    shown = {"x509_pem_cert": [altered(*VERSION_2)]}
    with pytest.raises(CredentialsInvalidException, match="cannot be read"):
        LivingCertificates().authenticate("ipv4:127.0.0.1:5", (), lambda: shown)


def test_certificates_of_callers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_MAX_KNOWN", 2)
    living = LivingCertificates()
    for number in range(5):
        shown = {"x509_pem_cert": [AUTHORITY.issue(f"caller-{number}").certificate]}
        assert living.authenticate("ipv4:127.0.0.1:5", (), lambda: shown) is None  # noqa: B023  called here
        assert 0 < len(living._ends) <= 2


@pytest.mark.parametrize("text", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
@pytest.mark.parametrize("read", [lifetime_of, check_key])
def test_what_is_no_certificate_is_refused(text: bytes, read: Callable[[bytes, str], object]) -> None:
    with pytest.raises(UnusableError, match="x is no certificate"):
        read(text, "x")
