"""The configuration of an application, from invokeai.yaml, the environment and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep import appconfig
from modelkeep.appconfig import AppConfig
from modelkeep.exceptions import FieldInvalidException

VERSION_3 = """\
InvokeAI:
  Web Server:
    host: 127.0.0.1
    port: 9090
  Paths:
    root: /somewhere/else
    autoimport_dir: autoimport
    conf_path: configs/models.yaml
    models_dir: /srv/models
    legacy_conf_dir: configs/stable-diffusion
    db_dir: db
    outdir: /home/user/outputs
    model_config_db: records.yaml
  Model Cache:
    max_cache_size: 13.5
    vram: 1.5
  Device:
    device: cuda
    precision: autocast
"""
VERSION_4 = """\
# Internal metadata - do not edit:
schema_version: 4.0.2

# Put user settings here
models_dir: /srv/models
db_dir: db
max_cache_ram_gb: 24.0
vram: 1.5
precision: bfloat16
device: cuda:1
remote_api_tokens:
  - url_regex: example.com
    token: very-secret
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of whoever runs the tests, and no configuration of an earlier test."""
    for name in ("INVOKEAI_ROOT", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(appconfig, "_singletons", type(appconfig._singletons)())


def written(root: Path, text: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "invokeai.yaml").write_text(text, encoding="utf-8")
    return root


def test_without_any_setting_the_defaults_are_those_of_the_original(tmp_path: Path) -> None:
    config = AppConfig.get_config()
    root = tmp_path / "home" / "invokeai"
    assert (config.root_path, config.models_path) == (root, root / "models")
    assert (config.db_path, config.model_conf_path) == (
        root / "databases" / "invokeai.db",
        root / "configs" / "models.yaml",
    )
    assert (config.model_config_db, config.autoimport_dir, config.autoimport_path) == ("auto", None, None)
    assert (config.ram, config.vram, config.precision, config.device) == (7.5, 0.25, "auto", "auto")


def test_the_sections_of_a_version_3_file_are_read(tmp_path: Path) -> None:
    config = AppConfig(root=written(tmp_path / "root", VERSION_3))
    assert config.root_path == tmp_path / "root"
    assert config.models_path == Path("/srv/models")
    assert config.autoimport_path == tmp_path / "root" / "autoimport"
    assert config.db_path == tmp_path / "root" / "db" / "invokeai.db"
    assert config.model_config_db == Path("records.yaml")
    assert config.legacy_conf_path == tmp_path / "root" / "configs" / "stable-diffusion"
    assert (config.ram, config.vram, config.device, config.precision) == (13.5, 1.5, "cuda", "auto")
    assert (config.host, config.port) == ("127.0.0.1", 9090)  # type: ignore[attr-defined]  # kept


def test_the_settings_of_a_version_4_file_are_read_and_what_is_only_kept_is_not_shown(tmp_path: Path) -> None:
    config = AppConfig(root=written(tmp_path / "root", VERSION_4))
    assert config.models_path == Path("/srv/models")
    assert config.db_path == tmp_path / "root" / "db" / "invokeai.db"
    assert (config.ram, config.vram, config.precision, config.device) == (24.0, 1.5, "bfloat16", "cuda:1")
    assert config.remote_api_tokens[0]["token"] == "very-secret"  # type: ignore[attr-defined]
    assert "very-secret" not in repr(config)
    assert "very-secret" not in str(config)


def test_arguments_outrank_flags_which_outrank_the_environment_which_outranks_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = written(tmp_path / "root", "ram: 1\nvram: 1\ndevice: file\nprecision: float16\n")
    for name in ("RAM", "vram", "DEVICE"):
        monkeypatch.setenv(f"INVOKEAI_{name}", "environment" if name == "DEVICE" else "2")
    config = AppConfig(root=root, ram=4)
    config.parse_args(["--ram", "3", "--vram=3", "--log_level", "debug", "--no-patchmatch"])
    assert (config.ram, config.vram, config.device, config.precision) == (4.0, 3.0, "environment", "float16")


def test_the_root_is_named_by_argument_flag_environment_virtual_environment_or_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = written(tmp_path / "around", "ram: 5\n")
    monkeypatch.setenv("VIRTUAL_ENV", str(around / ".venv"))
    assert (AppConfig().root, AppConfig().ram) == (around, 5.0)
    monkeypatch.setenv("INVOKEAI_ROOT", str(written(tmp_path / "variable", "ram: 6\n")))
    config = AppConfig()
    assert (config.root, config.ram) == (tmp_path / "variable", 6.0)
    written(tmp_path / "flag", "ram: 8\n")
    config.parse_args(["--root", str(tmp_path / "flag"), "--model-config-db", "a.db"])
    assert (config.root_path, config.ram, config.model_config_db) == (tmp_path / "flag", 8.0, Path("a.db"))
    assert AppConfig(root=tmp_path).root_path == tmp_path


def test_a_relative_root_stays_where_it_was_when_the_current_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "root", "ram: 5\n")
    monkeypatch.chdir(tmp_path)
    config = AppConfig(root="root")
    monkeypatch.chdir("/")
    assert (config.models_path, config.ram) == (tmp_path / "root" / "models", 5.0)


def test_there_is_one_configuration_in_a_process(tmp_path: Path) -> None:
    config = AppConfig.get_config(root=tmp_path)
    config.parse_args(["--ram", "3"])
    assert AppConfig.get_config() is config
    assert AppConfig.get_config(root=tmp_path) is config
    other = AppConfig.get_config(root=tmp_path, ram=2)
    assert other is not config
    assert AppConfig.get_config() is other


@pytest.mark.parametrize("said", [None, "", "null", "None"], ids=str)
def test_no_database_of_records_is_a_choice(tmp_path: Path, said: str | None) -> None:
    text = "model_config_db: null\n" if said is None else f"model_config_db: '{said}'\n"
    assert AppConfig(root=written(tmp_path / "root", text)).model_config_db is None


def test_null_for_a_setting_that_must_be_sets_nothing(tmp_path: Path) -> None:
    text = "InvokeAI:\n  Cache:\n    max_cache_size: null\n    ram: 3\n    precision: null\n  Other: null\n"
    config = AppConfig(root=written(tmp_path / "root", text))
    assert (config.ram, config.precision) == (3.0, "auto")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ram: 1\nvram: [1\n", "line 3"),
        ("- ram\n", "line 1"),
        ("ram: 1\n\tvram: 2\n", "line 2"),
        ("device: auto\nram: much\n", "ram in .*, line 2"),
        ("InvokeAI:\n  Model Cache:\n    ram: -1\n", "ram in .*, line 3"),
        ("ram: 0\n", "ram in .*, line 1"),
        ("vram: .nan\n", "vram in .*, line 1"),
        ("precision: float8\n", "precision in .*, line 1"),
        ("model_config_db: 17\n", "model_config_db in .*, line 1, must be a path"),
        ("max_cache_size: much\n", "max_cache_size in .*, line 1"),
        ("x: !!python/object/apply:os.system [echo]\n", "line 1"),
        ("when: 2026-99-99\n", "no YAML"),
        ("ram: !!float ''\n", "no YAML: a value does not fit its tag"),
    ],
    ids=lambda value: value[:12],
)
def test_a_broken_file_is_an_error_that_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    root = written(tmp_path / "root", text)
    with pytest.raises(FieldInvalidException, match=said) as caught:
        AppConfig(root=root)
    assert str(root / "invokeai.yaml") in str(caught.value)


def test_a_file_that_is_no_text_or_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    root = written(tmp_path / "root", "")
    (root / "invokeai.yaml").write_bytes(b"ram: \xff\n")
    with pytest.raises(FieldInvalidException, match="UTF-8"):
        AppConfig(root=root)
    (root / "invokeai.yaml").unlink()
    (root / "invokeai.yaml").mkdir()
    with pytest.raises(FieldInvalidException, match="cannot be read"):
        AppConfig(root=root)


def test_bad_flags_and_variables_are_told_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AppConfig()
    with pytest.raises(FieldInvalidException, match="--ram"):
        config.parse_args(["--ram", "lots"])
    with pytest.raises(FieldInvalidException, match="--vram"):
        config.parse_args(["--vram"])
    assert config.ram == 7.5
    monkeypatch.setenv("INVOKEAI_VRAM", "lots")
    with pytest.raises(FieldInvalidException, match="INVOKEAI_VRAM"):
        AppConfig()


def test_a_bad_argument_or_assignment_is_refused() -> None:
    with pytest.raises(FieldInvalidException, match="ram"):
        AppConfig(ram=-1)
    config = AppConfig()
    wrong: Any = -1
    with pytest.raises(ValueError, match="ram"):
        config.ram = wrong
    config.models_dir = "elsewhere"  # type: ignore[assignment]  # as from the original's settings
    assert config.models_path == config.root_path / "elsewhere"
