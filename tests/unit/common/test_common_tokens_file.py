"""The file that says whose a token is: what it may hold, and who may read it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelkeep.renewed import UnusableError
from modelkeep_common.auth.tokens import BearerAuthenticator, read_tokens

TOKEN = "0123456789abcdef"


def written(path: Path, content: Any, mode: int = 0o600) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def entry(**values: Any) -> dict[str, Any]:
    return {"tokens": [{"name": "ci", "roles": ["viewer"], "token": TOKEN, **values}]}


def who(path: Path, token: str) -> str:
    headers = [("authorization", f"Bearer {token}")]
    principal = BearerAuthenticator(read_tokens(path)).authenticate("ipv4:127.0.0.1:1", headers, dict)
    assert principal is not None
    return principal.name


def test_a_token_may_stand_as_itself_or_as_its_digest(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"another-token-of-some-length").hexdigest()
    both = entry()
    both["tokens"].append({"name": "nightly", "roles": ["operator", "viewer"], "sha256": digest})
    path = written(tmp_path / "t.json", both)
    assert who(path, TOKEN) == "ci"
    assert who(path, "another-token-of-some-length") == "nightly"
    shown = BearerAuthenticator(read_tokens(path)).authenticate("ipv4:127.0.0.1:1", [("x", "y")], dict)
    assert shown is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("nonsense", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({}, "it must be"),
        ({"tokens": {}}, "it must be"),
        ({"tokens": [1]}, "must be an object"),
        (entry(colour="blue"), "unknown key 'colour'"),
        (entry(name=""), "the name of entry 0"),
        (entry(name='a"b'), "the name of entry 0"),
        (entry(roles=[]), "the roles of ci"),
        (entry(roles=["god"]), "the roles of ci"),
        (entry(roles=[["viewer"]]), "the roles of ci"),
        (entry(token="short"), "16 or more"),
        (entry(token="with a space in it here"), "16 or more"),
        (entry(token=None), "either a token or its sha256"),
        (entry(sha256="0" * 64), "either a token or its sha256"),
        (entry(token=None, sha256="x"), "64 lower-case"),
        ({"tokens": entry()["tokens"] * 2}, "has the token of ci"),
    ],
)
def test_a_file_that_is_no_token_file_is_refused_with_the_reason(
    tmp_path: Path, content: Any, why: str
) -> None:
    with pytest.raises(UnusableError, match=why) as caught:
        read_tokens(written(tmp_path / "t.json", content))
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_file_that_others_can_read_or_write_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, mode: int
) -> None:
    path = written(tmp_path / "t.json", entry(), mode)
    with pytest.raises(UnusableError, match=f"chmod 600 {path}"):
        read_tokens(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.json", entry())
    os.chown(path, 65534, 65534)
    with pytest.raises(UnusableError, match="belongs to another user"):
        read_tokens(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableError, match=str(tmp_path / "none")):
        read_tokens(tmp_path / "none")
