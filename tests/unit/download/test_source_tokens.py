"""Tokens that are kept for sources: which addresses a host means, the file of them, and who comes first."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

import pytest

from modelkeep.source_tokens import HostPattern, TokensFileError, forget_token, keep_token, read_tokens
from modelkeep_download.domain.credentials import CredentialKind
from modelkeep_download.engine.tokens import SourceTokens

HUB = "https://huggingface.co"


def of(*hosts: str) -> dict[HostPattern, str]:
    return {HostPattern.parse(host): f"token-of-{host}" for host in hosts}


@pytest.mark.parametrize(
    ("pattern", "fits", "not_"),
    [
        (
            "huggingface.co",
            ["https://huggingface.co/a", "https://HuggingFace.co:443/"],
            [
                "http://huggingface.co/a",
                "https://huggingface.co:8443/",
                "https://cdn.huggingface.co/",
                "https://huggingface.co.example.com/",
                "https://nothuggingface.co/",
                "https://huggingface.co./",
            ],
        ),
        (
            "*.example.com",
            ["https://a.example.com/", "https://a.b.example.com/"],
            ["https://example.com/", "https://aexample.com/", "http://a.example.com/"],
        ),
        ("models.example.com:8443", ["https://models.example.com:8443/"], ["https://models.example.com/"]),
        ("http://models.lan", ["http://models.lan/x"], ["https://models.lan/x", "http://models.lan:8080/"]),
        ("127.0.0.1:9000", ["http://127.0.0.1:9000/", "https://127.0.0.1:9000/"], ["http://127.0.0.1/"]),
        ("https://localhost", ["https://localhost/"], ["http://localhost/"]),
        ("localhost", ["https://localhost/", "http://localhost/"], ["http://localhost:8080/"]),
        ("[::1]:9000", ["http://[::1]:9000/", "http://[0:0:0:0:0:0:0:1]:9000/"], ["http://[::2]:9000/"]),
        ("10.0.0.1", ["https://10.0.0.1/"], ["http://10.0.0.1/"]),
        ("bücher.example", ["https://xn--bcher-kva.example/"], ["https://bucher.example/"]),
    ],
)
def test_a_host_means_one_party_and_no_other(pattern: str, fits: list[str], not_: list[str]) -> None:
    host = HostPattern.parse(pattern)
    assert [url for url in fits if not host.fits(url)] == []
    assert [url for url in not_ if host.fits(url)] == []
    assert HostPattern.parse(str(host)) == host


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "*.com", "*.10.0.0.1", "a/b", "user@host", "ftp://host", "host:0", "host:99999", "a b"),
        *("*.*.example.com", "https://", "host?x", "-\n", "[::1", "a*.example.com", "http://h/path"),
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host"):
        HostPattern.parse(text)


def test_addresses_are_kept_under_their_shortest_host() -> None:
    for url, host in (
        ("https://models.example.com/a/b?c=d", "models.example.com"),
        ("https://models.example.com:8443/a", "models.example.com:8443"),
        ("http://models.lan/a", "http://models.lan"),
        ("http://models.lan:8080/a", "http://models.lan:8080"),
        ("http://127.0.0.1:9000/a", "127.0.0.1:9000"),
        ("http://[::1]:9000/a", "[::1]:9000"),
    ):
        assert str(HostPattern.of_url(url)) == host
        assert HostPattern.of_url(url).fits(url)


def test_the_file_is_private_and_a_later_change_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "download" / "tokens.json"
    tokens = SourceTokens(file=path)
    assert tokens.found("https://a.example.com/") is None
    keep_token(path, HostPattern.parse("a.example.com"), "first")
    assert path.stat().st_mode & 0o777 == 0o600
    assert tokens.for_url("https://a.example.com/") == "first"
    keep_token(path, HostPattern.parse("a.example.com"), "other")
    assert tokens.for_url("https://a.example.com/") == "other"
    assert forget_token(path, HostPattern.parse("a.example.com"))
    assert not forget_token(path, HostPattern.parse("a.example.com"))
    assert tokens.for_url("https://a.example.com/") is None
    assert sorted(os.listdir(path.parent)) == ["tokens.json"]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660])
def test_a_file_that_others_can_read_counts_for_nothing_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    path = tmp_path / "tokens.json"
    keep_token(path, HostPattern.parse("a.example.com"), "s3cret-word")
    tokens = SourceTokens(file=path)
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert tokens.for_url("https://a.example.com/") is None
        assert tokens.for_url("https://a.example.com/") is None
    assert [f"chmod 600 {path}" in record.getMessage() for record in caplog.records] == [True]
    assert "s3cret" not in caplog.text
    with pytest.raises(TokensFileError):
        keep_token(path, HostPattern.parse("b.example.com"), "x")  # nor is one lost by a change
    path.chmod(0o600)
    assert tokens.for_url("https://a.example.com/") == "s3cret-word"


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"tokens": []}', '{"tokens": {"a.b": 1}}', '{"tokens": {"a b": "x"}}'),
        *(
            '{"tokens": {"a.b": "s3cret word"}}',
            "[" * 100_000,
            '{"tokens": {"a.b": "x' + "y" * 2_000_000 + '"}}',
        ),
    ],
)
def test_a_file_of_another_kind_counts_for_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(TokensFileError) as error:
        read_tokens(path)
    assert "s3cret" not in str(error.value)
    assert SourceTokens(file=path).kept() == []


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    keep_token(tmp_path / "real", HostPattern.parse("a.example.com"), "x")
    (tmp_path / "tokens.json").symlink_to(tmp_path / "real")
    with pytest.raises(TokensFileError):
        read_tokens(tmp_path / "tokens.json")


def test_many_who_change_the_file_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    hosts = [HostPattern.parse(f"h{number}.example.com") for number in range(12)]
    threads = [threading.Thread(target=keep_token, args=(path, host, f"t-{host}")) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_tokens(path) == {host: f"t-{host}" for host in hosts}


def test_settings_come_before_the_hubs_own_and_that_before_the_file(tmp_path: Path) -> None:
    path, hub_file = tmp_path / "tokens.json", tmp_path / "hub" / "token"
    keep_token(path, HostPattern.parse("huggingface.co"), "in-file")
    hub_file.parent.mkdir()

    def kind(environ: dict[str, str], *hosts: str) -> CredentialKind | None:
        found = SourceTokens(of(*hosts), hub=HUB, environ=environ, file=path).found(f"{HUB}/a/b")
        return found.kind if found is not None else None

    home = {"HF_HOME": str(hub_file.parent)}
    assert kind(home) == CredentialKind.FILE
    hub_file.write_text("hf_of_the_hub\n")
    assert kind(home) == CredentialKind.HUB_FILE
    assert kind({"HF_TOKEN_PATH": str(hub_file)}) == CredentialKind.HUB_FILE
    assert kind({"HOME": str(tmp_path)}) == CredentialKind.FILE
    assert kind({**home, "HUGGING_FACE_HUB_TOKEN": "old"}) == CredentialKind.ENVIRONMENT
    assert kind({**home, "HF_TOKEN": " x\n"}) == CredentialKind.ENVIRONMENT
    assert kind({**home, "HF_TOKEN": "x", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}) == CredentialKind.FILE
    assert kind({"HF_TOKEN": "x"}, "huggingface.co") == CredentialKind.SETTING
    assert kind({"HF_TOKEN": "x"}, "example.com") == CredentialKind.ENVIRONMENT


def test_the_hubs_own_token_is_for_the_hub_alone(tmp_path: Path) -> None:
    tokens = SourceTokens(hub=f"{HUB}/", environ={"HF_TOKEN": "x"})
    assert tokens.for_url(f"{HUB}/a") == "x"
    for other in ("http://huggingface.co/a", "https://cdn-lfs.huggingface.co/a", "https://hf.co/a"):
        assert tokens.for_url(other) is None
    mirror = SourceTokens(hub="https://mirror.example.com:8443/hf", environ={"HF_TOKEN": "x"})
    assert mirror.for_url("https://mirror.example.com:8443/hf/a") == "x"
    assert mirror.for_url(HUB) is None


def test_the_most_exact_host_counts(tmp_path: Path) -> None:
    tokens = SourceTokens(of("*.example.com", "*.a.example.com", "x.a.example.com"))
    assert tokens.for_url("https://x.a.example.com/") == "token-of-x.a.example.com"
    assert tokens.for_url("https://y.a.example.com/") == "token-of-*.a.example.com"
    assert tokens.for_url("https://b.example.com/") == "token-of-*.example.com"


def test_an_address_with_credentials_of_its_own_shows_nothing_besides() -> None:
    tokens = SourceTokens(of("example.com"))
    assert tokens.for_url("https://example.com/m?token=abcdefgh") is None
    assert tokens.for_url("https://example.com/m?X-Amz-Signature=abcdefgh&X-Amz-Date=1") is None
    assert tokens.for_url("https://example.com/m?download=true") == "token-of-example.com"


def test_nothing_shows_a_token() -> None:
    tokens = SourceTokens(of("example.com"), hub=HUB, environ={"HF_TOKEN": "s3cret"})
    stored = tokens.found(HUB)
    assert stored is not None
    assert "s3cret" not in f"{stored!r} {tokens.kept()!r} {json.dumps(tokens.kept())}"
