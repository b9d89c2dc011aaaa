"""What runs the Compose file without Docker, as far as it takes no images."""

from __future__ import annotations

from pathlib import Path

import pytest

import compose_images
from support.certificates import AUTHORITY, LOCALHOST
from support.httpserver import HttpServer, Resource


def test_the_gateway_is_asked_past_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certs, pair = tmp_path / "volumes" / "certs", tmp_path / "pair.pem"
    certs.mkdir(parents=True)
    (certs / "ca.pem").write_bytes(AUTHORITY.issued.certificate)
    (certs / "owner.token").write_text("of-the-owner\n")
    pair.write_bytes(LOCALHOST.certificate + LOCALHOST.key)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with HttpServer(tls=pair) as web:
        url = web.put("/page", Resource(b"well"))
        monkeypatch.setattr(compose_images, "GATEWAY", url.removesuffix("/page"))
        assert compose_images.Suite({}, tmp_path).get("/page") == "well"
        assert web.requests[0].headers["authorization"] == "Bearer of-the-owner"
