"""Records beside those of the real InvokeAI, in the databases that it made."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelkeep_record.store import AppConfig, ModelRecordServiceBase, lock
from support import invokeai_environment
from support.waiting import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

WRITER = Path(invokeai_environment.__file__).with_name("invokeai_writer.py")
LORA = {"model_type": "lora", "model_format": "lycoris", "base_model": "sd-1"}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("invokeai") / "roots"
    invokeai_environment.make_roots(folder)
    return folder


def theirs(database: Path) -> dict[str, Any]:
    """What InvokeAI's tables are, and every row of each."""
    with contextlib.closing(sqlite3.connect(database)) as conn:
        made = conn.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        made = [row for row in made if not row[1].startswith(("modelkeep", "sqlite_autoindex_modelkeep"))]
        tables = [name for kind, name, _ in made if kind == "table" and not name.startswith("sqlite_")]
        marks = [conn.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")]
        rows = {name: conn.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in tables}
        return {
            "made": made,
            "marks": marks,
            "journal": conn.execute("PRAGMA journal_mode").fetchone(),
            **rows,
        }


def work(store: ModelRecordServiceBase, number: int) -> None:
    made = store.add_model(
        None, {**LORA, "name": f"lora {number}", "path": f"/loras/{number}", "tags": ["x"]}
    )
    store.update_model(made.key, {"description": "seen", "trigger_phrases": ["a"]})
    if number % 3 == 0:
        store.del_model(made.key)
    assert len(store.search_by_tag("x")) == number - number // 3


@pytest.mark.parametrize("release", ["3.7", "4.2", "5.6", "6.14"])
def test_the_tables_of_every_release_stay_as_they_are(roots: Path, release: str) -> None:
    config = AppConfig(root=roots / release)
    before = theirs(config.db_path)
    assert before["model_config" if release == "3.7" else "models"]
    with contextlib.closing(sqlite3.connect(config.db_path)) as connection:
        store = ModelRecordServiceBase.open(config, connection, lock)
        for number in range(1, 13):
            work(store, number)
        for model in store.all_models():
            store.del_model(model.key)
    assert theirs(config.db_path) == before


def test_InvokeAI_works_on_its_models_meanwhile_and_starts_again(roots: Path, tmp_path: Path) -> None:
    root = roots / "6.14"
    config = AppConfig(root=root)
    before = theirs(config.db_path)

    def invokeai(stop: Path) -> subprocess.Popen[str]:
        command = [str(invokeai_environment.python()), "-P", str(WRITER), str(root), str(stop)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    stop = tmp_path / "stop"
    with invokeai(stop) as writer, ModelRecordServiceBase.open(config) as store:
        wait_until(lambda: Path(f"{stop}.begun").exists() or writer.poll() is not None, timeout_s=300)
        assert writer.poll() is None
        for number in range(1, 61):
            work(store, number)
        stop.touch()
        told = json.loads(writer.communicate()[0].splitlines()[-1])
        assert writer.returncode == 0
        assert told["changes"] > 10
        kept = store.all_models()
        assert len(kept) == 40
    after = theirs(config.db_path)
    with contextlib.closing(sqlite3.connect(config.db_path)) as conn:
        rows = conn.execute("SELECT id, config FROM models ORDER BY id").fetchall()
        assert [list(row) for row in rows] == told["rows"]
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [row[0] for row in after.pop("models")] == [row[0] for row in before.pop("models")]
    assert after == before
    # InvokeAI's next start, with its migrations and its store, minds nothing.
    again = tmp_path / "again"
    again.touch()
    with invokeai(again) as writer:
        assert json.loads(writer.communicate()[0].splitlines()[-1]) == {"changes": 0, "rows": told["rows"]}
    with ModelRecordServiceBase.open(config) as store:
        assert store.all_models() == kept


def test_the_settings_that_InvokeAI_writes_are_read(tmp_path: Path) -> None:
    program = """
import os, pathlib, sys
path = pathlib.Path(sys.argv[1])
os.environ["INVOKEAI_ROOT"] = str(path.parent)
sys.argv = sys.argv[:1]
from invokeai.app.services.config.config_default import DefaultInvokeAIAppConfig
said = {"models_dir": "/srv/models", "db_dir": "db", "max_cache_ram_gb": 24, "precision": "bfloat16"}
DefaultInvokeAIAppConfig(**said).write_file(path, as_example=True)
"""
    command = [str(invokeai_environment.python()), "-P", "-c", program, str(tmp_path / "invokeai.yaml")]
    subprocess.run(command, check=True)
    config = AppConfig(root=tmp_path)
    assert config.models_path == Path("/srv/models")
    assert config.db_path == tmp_path / "db" / "invokeai.db"
    assert (config.ram, config.precision, config.device, config.model_config_db) == (
        24,
        "bfloat16",
        "auto",
        "auto",
    )
    assert config.host == "127.0.0.1"  # type: ignore[attr-defined]  # kept, though nothing here reads it
