"""What services read in certificates, besides what TLS sees to."""

from __future__ import annotations

from typing import Any, NamedTuple

from modelkeep.renewed import UnusableError


class Lifetime(NamedTuple):
    """From when to when a certificate is good, as ``time.time()`` counts."""

    begin: float
    end: float


def lifetime_of(certificates: bytes, what: str) -> Lifetime:
    """How long a certificate lasts, with those that come after it. The first call takes a tenth of a second.

    Args:
        certificates: As PEM, the holder's own first.
        what: What it is called in texts: ``tls_cert_file /a/b.pem``.

    Raises:
        UnusableError: It cannot be read.
    """
    chain = _read(certificates, what)
    return Lifetime(
        max(one.not_valid_before_utc.timestamp() for one in chain),
        min(one.not_valid_after_utc.timestamp() for one in chain),
    )


def check_key(certificates: bytes, what: str) -> None:
    """Make sure that gRPC's callers take the key of a server's certificate.

    Args:
        certificates: As of :func:`lifetime_of`.
        what: As of :func:`lifetime_of`.

    Raises:
        UnusableError: They do not, or it cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        key = _read(certificates, what)[0].public_key()
    except (ValueError, UnsupportedAlgorithm):  # of a kind that is not known here either
        key = None
    curve = key.curve if isinstance(key, ec.EllipticCurvePublicKey) else None
    if not isinstance(key, rsa.RSAPublicKey) and not isinstance(curve, ec.SECP256R1 | ec.SECP384R1):
        raise UnusableError(
            f"gRPC's callers cannot use {what}: have one made for a key of RSA, or of the curve P-256 or "
            "P-384"
        )


def _read(certificates: bytes, what: str) -> list[Any]:
    from cryptography import x509

    try:
        return list(x509.load_pem_x509_certificates(certificates))
    except (ValueError, x509.InvalidVersion):
        raise UnusableError(f"{what} is no certificate that can be read") from None
