"""JSON Web Tokens for tests: an issuer with its keys."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER, AUDIENCE = "https://issuer.example", "modelkeep"


class Issuer:
    """Issues tokens with keys that it calls by what they are for."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {
            "es": ("ES256", ec.generate_private_key(ec.SECP256R1())),
            "rs": ("RS256", rsa.generate_private_key(65537, 2048)),
            "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
        }

    def add(self, kid: str) -> None:
        """Have another key for ES256."""
        self.keys[kid] = ("ES256", ec.generate_private_key(ec.SECP256R1()))

    def public(self, *kids: str) -> list[dict[str, Any]]:
        """The public keys, of all or of these."""
        found = []
        for kid in kids or self.keys:
            algorithm, key = self.keys[kid]
            made: Any = get_default_algorithms()[algorithm]
            text = made.to_jwk(key.public_key())
            found.append({**json.loads(text), "kid": kid, "use": "sig", "alg": algorithm})
        return found

    def publish(self, path: Path, *kids: str) -> Path:
        """The JWKS file, in place of what is there."""
        path.parent.mkdir(exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps({"keys": self.public(*kids)}))
        scratch.replace(path)
        return path

    def token(self, role: str = "operator", *, kid: str = "es", header: Any = None, **claims: Any) -> str:
        """A token of somebody who has one role; a claim that is None is left out."""
        algorithm, key = self.keys[kid]
        now = int(time.time())
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": f"{role}@example",
            "exp": now + 300,
            "iat": now,
            "roles": [role],
            **claims,
        }
        plain = {name: value for name, value in said.items() if value is not None}
        return str(jwt.encode(plain, key, algorithm=algorithm, headers={"kid": kid, **(header or {})}))

    def settings(self, folder: Path) -> dict[str, Any]:
        """Settings of a service that takes its tokens."""
        return {
            "jwt_jwks_file": self.publish(folder / "jwks.json"),
            "jwt_issuer": ISSUER,
            "jwt_audience": AUDIENCE,
            "jwt_algorithms": ("ES256", "RS256", "EdDSA"),
        }


def shown(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that shows it."""
    return (("authorization", f"Bearer {token}"),)
