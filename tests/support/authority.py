"""A certificate authority made at test time, and what it vouches for. Needs the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


class Authority:
    """Signs certificates.

    Attributes:
        file: Its own certificate, to be trusted.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name = folder, name
        self.file = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.file, "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=critical,keyCertSign"),
        )

    def certificate(self, *hosts: str, days: int = 2) -> Path:
        """A file with a certificate for these names and its key; with negative days one that has expired."""
        made = self._folder / f"{self._name}-{hosts[0]}-{days}.pem"
        key, request, signed = (made.with_suffix(suffix) for suffix in (".key", ".csr", ".crt"))
        names = ",".join(f"IP:{host}" if host[0].isdigit() else f"DNS:{host}" for host in hosts)
        subject = ("-subj", f"/CN={hosts[0]}", "-addext", f"subjectAltName={names}")
        _openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, *subject)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", str(days), "-copy_extensions", "copy", "-out", signed),
        )
        made.write_bytes(signed.read_bytes() + key.read_bytes())
        return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*args: str | Path) -> None:
    if shutil.which("openssl") is None:
        raise FileNotFoundError("openssl is missing (Debian: apt-get install openssl)")
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)
