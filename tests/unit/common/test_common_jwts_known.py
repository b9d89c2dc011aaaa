"""JWTs that are known from a call before: until when, under which keys, and those that are withdrawn."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from modelkeep.exceptions import CredentialsInvalidException
from modelkeep.renewed import UnusableError
from modelkeep_common.auth import jwts
from modelkeep_common.auth.jwts import JwtTokens, read_denied, read_keys
from support.jwts import AUDIENCE, ISSUER, Issuer

ISSUES = Issuer()


class Service:
    """What a service knows, with a clock of its own, and what it had to check."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "jwks.json"
        self.publish("es")
        self.denied = frozenset[tuple[str, str]]()
        self.checks = 0
        decode = jwt.decode

        def counted(*arguments: Any, **options: Any) -> Any:
            self.checks += 1
            return decode(*arguments, **options)

        monkeypatch.setattr(jwt, "decode", counted)
        self.tokens = JwtTokens(
            lambda: self.keys,
            issuer=ISSUER,
            audience=AUDIENCE,
            skew_s=30,
            roles_claim="roles",
            denied=lambda: self.denied,
        )

    def publish(self, *kids: str) -> None:
        self.keys = read_keys(ISSUES.publish(self.path, *kids), ("ES256",))

    def takes(self, token: str) -> bool:
        try:
            return self.tokens.principal_of(token) is not None
        except CredentialsInvalidException:
            return False


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(tmp_path, monkeypatch)


def test_a_good_token_is_checked_once_and_one_that_is_not_each_time(service: Service) -> None:
    good, other = ISSUES.token(), ISSUES.token("viewer")
    forged = good[:-8] + "AAAAAAAA"
    assert [service.takes(good) for _ in range(5)] == [True] * 5
    assert service.checks == 1
    assert [service.takes(forged) for _ in range(5)] == [False] * 5
    assert service.checks == 6
    assert len(service.tokens._known) == 1
    principal = service.tokens.principal_of(other)
    assert principal is not None
    assert principal.roles == {"viewer"}


def test_a_token_is_known_for_no_longer_than_it_lasts(service: Service) -> None:
    token = ISSUES.token(exp=int(time.time()) - 29)
    assert service.takes(token)
    until = time.monotonic() + 20
    while service.takes(token):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert service.checks == 2
    assert not service.tokens._known


def test_a_token_is_checked_again_under_new_keys(service: Service) -> None:
    token = ISSUES.token()
    assert service.takes(token)
    ISSUES.add("next")
    service.publish("es", "next")
    assert service.takes(token)
    assert service.takes(ISSUES.token(kid="next"))
    service.publish("next")
    assert not service.takes(token)
    assert not service.takes(token)
    assert service.takes(ISSUES.token(kid="next"))


def test_tokens_are_withdrawn_one_by_one_or_all_of_somebody(service: Service) -> None:
    first, second = ISSUES.token(jti="1"), ISSUES.token(jti="2")
    others = ISSUES.token("viewer", jti="3")
    assert all(map(service.takes, (first, second, others)))
    service.denied = frozenset({("jti", "1")})
    assert [service.takes(token) for token in (first, second, others)] == [False, True, True]
    service.denied = frozenset({("sub", "operator@example")})
    assert [service.takes(token) for token in (first, second, others)] == [False, False, True]
    with pytest.raises(CredentialsInvalidException, match="withdrawn"):
        service.tokens.principal_of(first)
    service.denied = frozenset()
    assert all(map(service.takes, (first, second, others)))
    assert service.checks == 3


def test_what_is_remembered_is_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwts, "_MAX_KEPT", 4)
    for number in range(11):
        assert service.takes(ISSUES.token(jti=str(number)))
        assert len(service.tokens._known) <= 4


def test_a_list_of_withdrawn_tokens_is_read(tmp_path: Path) -> None:
    path = tmp_path / "denied.json"
    path.write_text(json.dumps({"denied": [{"jti": "a"}, {"sub": "b"}]}))
    assert read_denied(path) == {("jti", "a"), ("sub", "b")}
    path.write_text('{"denied": []}')
    assert not read_denied(path)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([7], "must be an object"),
        ([{}], 'either "jti" or "sub"'),
        ([{"jti": ""}], 'either "jti" or "sub"'),
        ([{"jti": 7}], 'either "jti" or "sub"'),
        ([{"jti": "a", "sub": "b"}], 'either "jti" or "sub"'),
        ([{"kid": "a"}], "unknown key 'kid'"),
        ({}, "it must be"),
    ],
)
def test_a_list_of_withdrawn_tokens_that_is_no_good_is_refused(
    tmp_path: Path, entries: Any, why: str
) -> None:
    path = tmp_path / "denied.json"
    path.write_text(json.dumps({"denied": entries}))
    with pytest.raises(UnusableError, match=why):
        read_denied(path)
