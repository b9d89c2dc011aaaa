"""JSON Web Tokens: whose they are, and each way in which one can be wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import CredentialsInvalidException
from modelkeep.renewed import UnusableError
from modelkeep_common.auth.jwts import JwtTokens, read_keys
from support.jwts import AUDIENCE, ISSUER, Issuer

ISSUES = Issuer()
ALL = ("ES256", "RS256", "EdDSA")


def tokens_of(path: Path, *, algorithms: tuple[str, ...] = ALL, claim: str = "roles") -> JwtTokens:
    keys = read_keys(path, algorithms)
    return JwtTokens(lambda: keys, issuer=ISSUER, audience=AUDIENCE, skew_s=30.0, roles_claim=claim)


@pytest.fixture
def tokens(tmp_path: Path) -> JwtTokens:
    return tokens_of(ISSUES.publish(tmp_path / "jwks.json"))


def part(said: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")


def unsigned() -> str:
    return f"{part({'alg': 'none', 'kid': 'es'})}.{ISSUES.token().split('.')[1]}."


def signed_with_the_public_key() -> str:
    """What a verifier would take that lets a token choose its algorithm."""
    public = json.dumps(ISSUES.public("rs")[0]).encode()
    head = f"{part({'alg': 'HS256', 'kid': 'rs'})}.{ISSUES.token().split('.')[1]}"
    digest = hmac.new(public, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def altered() -> str:
    head, _, signature = ISSUES.token().split(".")
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": time.time() + 60, "roles": ["admin"]}
    return f"{head}.{part(claims)}.{signature}"


@pytest.mark.parametrize("kid", ["es", "rs", "ed"])
def test_a_token_says_who_calls_and_with_which_roles(tokens: JwtTokens, kid: str) -> None:
    principal = tokens.principal_of(ISSUES.token("operator", kid=kid))
    assert principal is not None
    assert (principal.name, set(principal.roles)) == ("operator@example", {"operator"})


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: ISSUES.token(exp=int(time.time()) - 31), "has expired"),
        (lambda: ISSUES.token(nbf=int(time.time()) + 60), "not good yet"),
        (lambda: ISSUES.token(iat=int(time.time()) + 60), "not good yet"),
        (lambda: ISSUES.token(aud="others"), f"wants one for {AUDIENCE}"),
        (lambda: ISSUES.token(iss="https://others.example"), f"wants one of {ISSUER}"),
        (lambda: ISSUES.token(exp=None), "no claim exp"),
        (lambda: ISSUES.token(aud=None), "no claim aud"),
        (lambda: ISSUES.token(iss=None), "no claim iss"),
        (lambda: ISSUES.token(sub=None), "no claim sub"),
        (lambda: ISSUES.token(sub=""), "its subject"),
        (lambda: ISSUES.token(sub="a\nb"), "its subject"),
        (lambda: ISSUES.token(sub="install"), "a role that it does not have"),
        (lambda: ISSUES.token(sub="owner", roles=["admin", "owner"]), "a role that it does not have"),
        (lambda: ISSUES.token(roles=["god"]), "names none of the roles"),
        (lambda: ISSUES.token(roles=["owner"]), "names none of the roles"),
        (lambda: ISSUES.token(roles={"viewer": True}), "names none of the roles"),
        (lambda: ISSUES.token(roles=None), "names none of the roles"),
        (lambda: ISSUES.token(exp=1e308 * 10), "cannot be read"),
        (lambda: ISSUES.token(header={"kid": "unknown"}), "have the operator of this service renew"),
        (lambda: ISSUES.token(header={"kid": ""}, kid="es"), None),
        (lambda: ISSUES.token(header={"crit": ["x"], "x": 1}), "cannot be read"),
        (lambda: ISSUES.token(kid="es", header={"kid": "rs"}), "have the operator of this service renew"),
        (lambda: ISSUES.token()[:-8] + "AAAAAAAA", "signature is wrong"),
        (altered, "signature is wrong"),
        (unsigned, "its algorithm"),
        (signed_with_the_public_key, "its algorithm"),
        (lambda: "aaa.bbb.ccc", "cannot be read"),
        (lambda: f"{part('[' * 3000)}.a.b", "cannot be read"),
    ],
)
def test_a_token_that_is_no_good_is_refused_with_the_reason_and_without_its_text(
    tokens: JwtTokens, make: Callable[[], str], why: str | None
) -> None:
    token = make()
    if why is None:  # the one key of its algorithm need not be named
        assert tokens.principal_of(token) is not None
        return
    with pytest.raises(CredentialsInvalidException, match=why) as caught:
        tokens.principal_of(token)
    assert "issued it" in caught.value.remedy
    said = f"{caught.value.message} {caught.value.metadata}"
    assert not any(piece in said for piece in token.split(".") if len(piece) > 3)


@pytest.mark.parametrize("text", ["at-least-16-characters", "", "a.b", "a.b.c.d", "ä.b.c"])
def test_what_has_not_the_form_of_a_jwt_is_left_to_others(tokens: JwtTokens, text: str) -> None:
    assert tokens.principal_of(text) is None


def test_clocks_may_differ_by_what_the_settings_say(tokens: JwtTokens) -> None:
    now = int(time.time())
    assert tokens.principal_of(ISSUES.token(exp=now - 15)) is not None
    assert tokens.principal_of(ISSUES.token(exp=10**400)) is not None  # later than any float tells
    assert tokens.principal_of(ISSUES.token(nbf=now + 15, iat=now + 15)) is not None


def test_a_token_may_be_for_several_audiences(tokens: JwtTokens) -> None:
    assert tokens.principal_of(ISSUES.token(aud=["others", AUDIENCE])) is not None


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("scope", {"scope": "openid viewer operator"}),
        ("realm_access.roles", {"realm_access": {"roles": ["viewer", "operator", "offline", 7]}}),
        ("https://modelkeep.example/roles", {"https://modelkeep.example/roles": ["viewer", "operator"]}),
    ],
)
def test_roles_are_taken_from_the_claim_that_the_settings_name(
    tmp_path: Path, claim: str, said: dict[str, Any]
) -> None:
    tokens = tokens_of(ISSUES.publish(tmp_path / "jwks.json"), claim=claim)
    principal = tokens.principal_of(ISSUES.token(**said))
    assert principal is not None
    assert principal.roles == {"viewer", "operator"}


def test_a_key_is_used_for_allowed_algorithms_only(tmp_path: Path) -> None:
    tokens = tokens_of(ISSUES.publish(tmp_path / "jwks.json"), algorithms=("RS256",))
    assert tokens.principal_of(ISSUES.token(kid="rs")) is not None
    with pytest.raises(CredentialsInvalidException, match="RS256"):
        tokens.principal_of(ISSUES.token(kid="es"))


SHORT = {"kty": "RSA", "n": base64.urlsafe_b64encode(b"\xff" * 64).decode().rstrip("="), "e": "AQAB"}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}], "a shared secret"),
        ([{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}], "no public key that can be read"),
        ([SHORT], "too short"),
        ([{**SHORT, "d": "AA"}], "a private key"),
        ([{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}], "no key for"),
        ([{**ISSUES.public("rs")[0], "use": "enc"}], "no key for"),
        ([], "no key for"),
        ([7], "must be an object"),
        (ISSUES.public("es") * 2, "the kid of one before it"),
        ({}, "it must be"),
    ],
)
def test_a_file_of_keys_that_is_no_good_is_refused(tmp_path: Path, keys: Any, why: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": keys}))
    with pytest.raises(UnusableError, match=why):
        read_keys(path, ALL)


def test_a_file_of_keys_that_others_may_change_is_refused(tmp_path: Path) -> None:
    path = ISSUES.publish(tmp_path / "jwks.json")
    path.chmod(0o664)
    with pytest.raises(UnusableError, match="chmod go-w"):
        read_keys(path, ALL)
    path.chmod(0o644)
    assert read_keys(path, ALL)
