"""modelkeep_common.settings: where a value comes from, and what a bad one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr, ValidationError

from modelkeep_common.settings import ServiceSettings, load_settings


class ThingSettings(ServiceSettings):
    service: ClassVar[str] = "install"
    port: int = Field(50099, ge=0, le=65535, description="TCP port.")
    import_roots: tuple[Path, ...] = Field((), description="Folders.")
    access_token: SecretStr | None = Field(None, description="Secret.")
    hosts: dict[str, str] = Field({}, description="Mapping.")


def load(*argv: str) -> ThingSettings:
    return load_settings(ThingSettings, list(argv))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        load(*argv)
    assert caught.value.code == 78
    return capsys.readouterr().err


def test_flags_beat_the_environment_which_beats_the_file_which_beats_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "modelkeep.yaml"
    file.write_text(
        "port: 1\ndrain_grace_s: 1\nrecord: {port: 9}\ninstall: {max_watches: 1, log_level: DEBUG}\n"
    )
    monkeypatch.setenv("MODELKEEP_INSTALL_PORT", "2")
    monkeypatch.setenv("MODELKEEP_INSTALL_MAX_WATCHES", "2")
    monkeypatch.setenv("MODELKEEP_CLIENT_INSTALL_ADDRESS", "elsewhere:1")
    settings = load("--config", str(file), "--max-watches", "3")
    assert (settings.max_watches, settings.port, settings.drain_grace_s) == (3, 2, 1)
    assert (settings.log_level, settings.host) == ("DEBUG", "127.0.0.1")
    monkeypatch.setenv("MODELKEEP_INSTALL_CONFIG", str(file))
    assert load().log_level == "DEBUG"


def test_the_environment_alone_does_not_change_settings_made_in_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELKEEP_INSTALL_PORT", "2")
    assert ThingSettings().port == 50099


def test_lists_may_be_repeated_flags_or_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("--import-roots", "/a", "--import-roots", "/b").import_roots == (Path("/a"), Path("/b"))
    monkeypatch.setenv("MODELKEEP_INSTALL_IMPORT_ROOTS", "/a,/b")
    assert load().import_roots == (Path("/a"), Path("/b"))
    monkeypatch.setenv("MODELKEEP_INSTALL_IMPORT_ROOTS", '["/c"]')
    assert load().import_roots == (Path("/c"),)
    monkeypatch.setenv("MODELKEEP_INSTALL_HOSTS", '{"a": "b"}')
    assert load().hosts == {"a": "b"}


def test_relative_paths_start_from_the_base_folder_wherever_the_service_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.yaml").write_text("log_file: logs/install.log\n")
    monkeypatch.chdir("/")
    monkeypatch.setenv("MODELKEEP_INSTALL_BASE_DIR", str(tmp_path))
    settings = load("--config", "settings.yaml", "--import-roots", "models", "--import-roots", "/b")
    assert settings.log_file == tmp_path / "logs" / "install.log"
    assert settings.import_roots == (tmp_path / "models", Path("/b"))
    assert settings.data_dir == tmp_path / "modelkeep-data"


def test_switches_have_a_no_form(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("--insecure").insecure is True
    assert load("--no-reflection").reflection is False
    monkeypatch.setenv("MODELKEEP_INSTALL_INSECURE", "true")
    assert load().insecure is True
    assert load("--no-insecure").insecure is False


def test_an_unknown_variable_with_the_prefix_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELKEEP_INSTALL_PROT", "1")
    assert "MODELKEEP_INSTALL_PROT" in refused(capsys)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("--port", "70000"), "--port"),
        (("--port", "x"), "--port"),
        (("--no-such-flag",), "--no-such-flag"),
        (("--config", "/no/such/file.yaml"), "/no/such/file.yaml"),
        (("--log-level", "LOUD"), "--log-level"),
        (("--hosts", "{oops"), "--hosts"),
        (("--drain-grace-s", "inf"), "--drain-grace-s: Input should be a finite number"),
        (("--drain-grace-s", "nan"), "--drain-grace-s: Input should be a finite number"),
    ],
)
def test_a_bad_value_exits_78_and_names_where_it_came_from(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], named: str
) -> None:
    assert named in refused(capsys, *argv)


@pytest.mark.parametrize("text", ["port: [", "- 1", "no_such: 1", "install: 3", "\x00", "port: !!int ''"])
def test_a_bad_file_exits_78_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert "bad.yaml" in refused(capsys, "--config", str(file))


def test_a_bad_secret_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "--access-token", "hf_secret", "--port", "x")
    assert "hf_secret" not in text


def test_print_config_hides_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--access-token", "hf_secret", "--print-config")
    assert caught.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["access_token"] == "***"
    assert printed["port"] == 50099


def test_check_config_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--check-config")
    assert caught.value.code == 0
    assert "good" in capsys.readouterr().out


def test_help_says_what_each_setting_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in ThingSettings.model_fields.values():
        assert " ".join((field.description or "?").split()[:3]) in text


def test_settings_are_frozen_and_know_their_folders() -> None:
    settings = ThingSettings.for_test(Path("/data"))
    assert settings.database == Path("/data/install/install.db")
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]  # frozen, that is the point


_TLS = ("--tls-cert-file", "/c", "--tls-key-file", "/k")
_JWKS = ("--jwt-jwks-file", "/j")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (_TLS[:2], "tls_cert_file and tls_key_file go together"),
        (_TLS[2:], "tls_cert_file and tls_key_file go together"),
        (("--tls-client-ca-file", "/a"), "tls_client_ca_file needs tls_cert_file"),
        ((*_TLS, "--tls-callers-file", "/w"), "tls_callers_file needs tls_client_ca_file"),
        (("--jwt-denied-file", "/d"), "jwt_denied_file needs jwt_jwks_file"),
        (_JWKS, "JWTs need jwt_issuer and jwt_audience, too"),
        ((*_JWKS, "--jwt-issuer", "i"), "JWTs need jwt_audience, too"),
        (("--jwt-issuer", "i", "--jwt-audience", "a"), "JWTs need jwt_jwks_file, too"),
    ],
)
def test_half_of_what_knows_callers_is_refused(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], why: str
) -> None:
    assert why in refused(capsys, *given)


def test_all_of_what_knows_callers_is_taken() -> None:
    callers = ("--tls-client-ca-file", "/a", "--tls-callers-file", "/w")
    tokens = ("--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-denied-file", "/d")
    assert load(*_TLS, *callers, *_JWKS, *tokens).jwt_denied_file == Path("/d")
