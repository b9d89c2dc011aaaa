"""Files of records that an application opens by itself: made, refused, shared, chosen by its settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.exceptions import (
    FieldInvalidException,
    ModelkeepError,
    StoreFileBrokenException,
    UnknownModelException,
)
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.records import RecordMethods
from modelkeep_common.paths import MARKER
from modelkeep_common.sqlite import Embedded
from modelkeep_download.migrations import MIGRATIONS as DOWNLOADS
from modelkeep_record.store import (
    AppConfig,
    ModelRecordServiceBase,
    ModelRecordServiceFile,
    ModelRecordServiceSQL,
    WrongStoreException,
    lock,
)
from modelkeep_record.stores.sqlite.schema import MIGRATIONS
from support import applicationdb
from support.records import KEY, record_service, vae

ROOT = Path(__file__).resolve().parents[2]
VAE: dict[str, Any] = {
    "name": "vae",
    "path": "/vae",
    "model_type": "vae",
    "model_format": "diffusers",
    "base_model": "sd-1",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of an application; no other is named anywhere."""
    monkeypatch.delenv("INVOKEAI_ROOT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("name", "kind", "backend"),
    [
        ("sqlite_database.db", ModelRecordServiceSQL, "sqlite"),
        ("database.yaml", ModelRecordServiceFile, "yaml"),
        ("database.YML", ModelRecordServiceFile, "yaml"),
    ],
)
def test_a_file_that_is_not_there_is_made_and_initialized_and_opened_again(
    tmp_path: Path, name: str, kind: type[ModelRecordServiceBase], backend: str
) -> None:
    path = tmp_path / "new" / "folder" / name
    with ModelRecordServiceBase.from_db_file(str(path)) as store:
        assert isinstance(store, kind)
        assert (store.backend, store.version(), store.all_models()) == (backend, "3.2", [])
        made = store.add_model(KEY, VAE)
    files = {file.name for file in path.parent.iterdir()} - {f".{name}.lock"}
    assert files == {name}
    assert path.stat().st_mode & 0o777 == 0o600
    with kind.from_db_file(path) as store:
        assert store.all_models() == [made]


def with_schema(path: Path, version: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute(f"PRAGMA user_version = {version}")


def a_text(path: Path) -> None:
    path.write_text("__metadata__:\n  version: 3.2\n" * 99)


def another_programs(path: Path) -> None:
    applicationdb.make(path)


def another_services(path: Path) -> None:
    Embedded.open(path, DOWNLOADS, "download").close()


def a_newer_releases(path: Path) -> None:
    ModelRecordServiceSQL.from_db_file(path).close()
    with_schema(path, len(MIGRATIONS) + 1)


def with_a_marker_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA application_id = 17")


def a_database(path: Path) -> None:
    database = path.with_suffix(".db")
    ModelRecordServiceSQL.from_db_file(database).close()
    database.rename(path)


def of_no_records(path: Path) -> None:
    path.write_text("InvokeAI:\n  Paths:\n    models_dir: models\n")


def with_a_mistake(path: Path) -> None:
    ModelRecordServiceFile.from_db_file(path).close()
    path.write_text(path.read_text() + "vae: [1\n")


def of_version_3_0(path: Path) -> None:
    model = "sd-1/main/stable-diffusion-v1-5:\n  path: sd-1/main/v1-5\n  model_format: diffusers\n"
    path.write_text(f"__metadata__:\n  version: 3.0.0\n{model}")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (a_database, "SQLite database"),
        (of_no_records, "no file of records"),
        (with_a_mistake, "line .*, column"),
        (of_version_3_0, "version"),
        (Path.mkdir, "folder"),
        (os.mkfifo, "is no file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_yaml_file_of_another_kind_is_an_assertion_error_that_says_which(
    tmp_path: Path, make: Any, said: str
) -> None:
    path = tmp_path / "wrong.yaml"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for open_ in (ModelRecordServiceBase.from_db_file, ModelRecordServiceFile.from_db_file):
        with pytest.raises(AssertionError, match=said) as caught:
            open_(path)
        assert isinstance(caught.value, WrongStoreException)
        assert str(path) in str(caught.value)
        assert ("Mend it" in str(caught.value)) == (make is with_a_mistake)
    assert before == (path.read_bytes() if path.is_file() else None)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (a_text, "not a SQLite database"),
        (another_programs, "another program"),
        (another_services, "belongs to the download service"),
        (a_newer_releases, "newer"),
        (with_a_marker_alone, "another program"),
        (Path.mkdir, "folder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_of_another_kind_is_an_assertion_error_that_says_which(
    tmp_path: Path, make: Any, said: str
) -> None:
    path = tmp_path / "wrong.db"
    make(path)
    before = None if path.is_dir() else path.read_bytes()
    for open_ in (ModelRecordServiceBase.from_db_file, ModelRecordServiceSQL.from_db_file):
        with pytest.raises(AssertionError, match=said) as caught:
            open_(path)
        assert isinstance(caught.value, WrongStoreException)
        assert isinstance(caught.value, ModelkeepError)
        assert str(path) in str(caught.value)
    assert before == (None if path.is_dir() else path.read_bytes())


@pytest.mark.parametrize("name", ["records.txt", "records", "records.db.bak", "records.json"])
def test_an_ending_of_neither_kind_is_refused_and_no_file_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError, match=r"\.db, \.yaml, \.yml"):
        ModelRecordServiceBase.from_db_file(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_yaml_file_is_no_database_and_a_database_no_yaml_file(tmp_path: Path) -> None:
    with pytest.raises(WrongStoreException, match="no database"):
        ModelRecordServiceSQL.from_db_file(tmp_path / "records.yaml")
    with pytest.raises(WrongStoreException, match="no YAML file"):
        ModelRecordServiceFile.from_db_file(tmp_path / "records.db")
    assert list(tmp_path.iterdir()) == []


def test_a_connection_to_another_services_database_is_refused(tmp_path: Path) -> None:
    another_services(tmp_path / "download.db")
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "download.db")) as connection,
        pytest.raises(AssertionError, match="download"),
    ):
        ModelRecordServiceSQL.from_connection(connection, lock)


@pytest.mark.parametrize("name", ["records.db", "records.yaml"])
def test_a_filter_that_no_index_answers_leaves_all_that_fit(tmp_path: Path, name: str) -> None:
    with ModelRecordServiceBase.from_db_file(tmp_path / name) as store:
        keys = {store.add_model(None, VAE | {"path": f"/{number}"}).key for number in range(3)}
        assert {model.key for model in store.list_models(missing=False)} == keys
        assert {model.key for model in store.list_models(text="/")} == keys
        assert store.list_models(text="~") == []


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    for ending in (".db", ".yaml"):
        with pytest.raises(FieldInvalidException, match="File name too long"):
            ModelRecordServiceBase.from_db_file(tmp_path / f"{'n' * 300}{ending}")


@pytest.mark.skipif(not os.geteuid(), reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for name in ("records.db", "records.yaml"):
        with pytest.raises(FieldInvalidException, match="cannot write"):
            ModelRecordServiceBase.from_db_file(tmp_path / name)


def test_tables_of_an_earlier_release_are_brought_up_to_date(tmp_path: Path) -> None:
    path = applicationdb.make(tmp_path / "invokeai.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        before = applicationdb.of_the_application(connection)
        Embedded(connection, MIGRATIONS[:1], "record")
        columns = connection.execute("SELECT count(*) FROM pragma_table_info('modelkeep_models')").fetchone()
        store = ModelRecordServiceSQL.from_connection(connection, lock)
        assert store.search_by_name(store.add_model(None, VAE).name)
        now = connection.execute("SELECT count(*) FROM pragma_table_info('modelkeep_models')").fetchone()
        assert now > columns
        meta = dict(connection.execute("SELECT key, value FROM modelkeep_meta"))
        assert meta["schema_version"] == len(MIGRATIONS)
        connection.execute("UPDATE modelkeep_meta SET value = value + 1 WHERE key = 'schema_version'")
        connection.commit()
        with pytest.raises(WrongStoreException, match="newer"):
            ModelRecordServiceSQL.from_connection(connection, lock)
        assert applicationdb.of_the_application(connection) == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["record.db", "record.yaml"])
async def test_a_service_and_an_application_share_a_file(data_dir: Path, name: str) -> None:
    path = data_dir / "record" / name
    with await asyncio.to_thread(ModelRecordServiceBase.from_db_file, path) as store:
        first = await asyncio.to_thread(store.add_model, None, VAE)
        async with record_service(data_dir, model_config_db=path) as stub:
            watch = stub.WatchModels(pb.WatchModelsRequest())
            seen = await watch.read()
            assert [event.put.key for event in seen.events] == [first.key]
            await asyncio.to_thread(store.update_model, first.key, {"name": "renamed"})
            second = (await stub.CreateModel(pb.CreateModelRequest(model=vae("second")))).model
            assert (await asyncio.to_thread(store.get_model, second.key)).name == "second"
            await asyncio.to_thread(store.del_model, second.key)
            names: list[str] = []
            while len(names) < 3:
                names += [event.put.name or event.removed_key for event in (await watch.read()).events]
            assert names == ["renamed", "second", second.key]
            watch.cancel()
            change = model_pb2.Model(key=first.key, name="by the service")
            await stub.UpdateModel(pb.UpdateModelRequest(model=change))
            assert (await asyncio.to_thread(store.get_model, first.key)).name == "by the service"
            listed = (await stub.ListModels(pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL))).models
            assert [model.revision for model in listed] == [5]


def test_a_file_of_the_service_may_be_opened_as_a_connection(tmp_path: Path) -> None:
    path = tmp_path / "record.db"
    with ModelRecordServiceSQL.from_db_file(path) as store:
        made = store.add_model(None, VAE)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        again = ModelRecordServiceSQL.from_connection(connection, lock)
        assert again.all_models() == [made]
        again.update_model(made.key, {"name": "renamed"})
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE 'modelkeep%'")
        assert tables.fetchone() == (0,)
    with ModelRecordServiceSQL.from_db_file(path) as store:
        assert store.get_model(made.key).name == "renamed"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("opened", "name"),
    [
        (ModelRecordServiceSQL.from_db_file, "records.db"),
        (ModelRecordServiceSQL.from_application, "records.db"),
        (ModelRecordServiceFile.from_db_file, "records.yaml"),
    ],
    ids=["own", "adopted", "yaml"],
)
def test_two_openings_of_one_file_are_both_correct(tmp_path: Path, opened: Any, name: str) -> None:
    path = tmp_path / name
    with opened(path) as one, opened(path) as two:
        shared = one.add_model(None, VAE).key

        def work(store: ModelRecordServiceBase, first: int) -> None:
            for number in range(first, first + 20):
                store.add_model(None, VAE | {"path": f"/{number}"})
                store.update_model(shared, {"tags": [f"{number}"]})

        with ThreadPoolExecutor() as threads:
            for done in [threads.submit(work, one, 0), threads.submit(work, two, 20)]:
                done.result()
        assert one.all_models() == two.all_models()
        assert {model.path for model in one.all_models()} == {"/vae", *(f"/{number}" for number in range(40))}
        revisions = [model.revision for model in one.all_models() if model.key != shared]
        assert len(set(revisions)) == 40
        assert one.get_model(shared).revision <= 81


def test_each_opening_has_an_id_in_the_history(tmp_path: Path) -> None:
    path = tmp_path / "records.db"

    def epochs() -> int:
        with applicationdb.opened(path) as conn:
            return int(conn.execute("SELECT count(*) FROM modelkeep_epochs").fetchone()[0])

    for number in range(3):
        with ModelRecordServiceSQL.from_application(path) as store:
            store.add_model(None, VAE | {"path": f"/{number}"})
            store.add_model(None, VAE | {"path": f"/{number}/b"})
        assert epochs() == number + 1


# -- open -----------------------------------------------------------------------------------------------


def settings(root: Path, **values: Any) -> list[Any]:
    """An application's configuration, and anything with its fields."""
    fields = {"models_dir": "models", "conf_path": "configs/models.db", "model_config_db": "auto", **values}
    return [
        AppConfig(root=root, **values),
        SimpleNamespace(root=root, db_path="databases/invokeai.db", **fields),
    ]


def test_auto_with_connection_and_lock_is_the_applications_database(root: Path) -> None:
    path = applicationdb.make(root / "databases" / "invokeai.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for number, config in enumerate(settings(root)):
            store = ModelRecordServiceBase.open(config, connection, threading.Lock())
            store.add_model(None, VAE | {"path": f"/{number}"})
        assert connection.execute("SELECT count(*) FROM modelkeep_models").fetchone() == (2,)


def test_auto_without_both_opens_a_connection_to_the_applications_database(root: Path) -> None:
    path = root / "databases" / "invokeai.db"
    for config in settings(root):
        with ModelRecordServiceBase.open(config) as store:
            assert store.all_models() == []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        # The application makes its tables afterwards, as if nobody had been there.
        assert connection.execute("PRAGMA application_id").fetchone() == (0,)
        connection.executescript(applicationdb.SCHEMA)
        before = applicationdb.of_the_application(connection)
        for number, config in enumerate(settings(root)):
            with ModelRecordServiceBase.open(config, connection) as store:
                store.add_model(None, VAE | {"path": f"/{number}"})
        with ModelRecordServiceBase.open(AppConfig(root=root), lock=lock) as store:
            assert len(store.all_models()) == 2
        # Its records have a schema's marker now.
        with ModelRecordServiceBase.from_db_file(path) as store:
            assert len(store.all_models()) == 2
        assert applicationdb.of_the_application(connection) == before


def test_a_path_is_opened_by_its_ending(root: Path, tmp_path: Path) -> None:
    for said in ("records.db", tmp_path / "elsewhere" / "records.yaml", Path("sub/records.db")):
        for config in settings(root, model_config_db=said):
            with ModelRecordServiceBase.open(config) as store:
                assert store.backend == ("yaml" if Path(said).suffix == ".yaml" else "sqlite")
        assert (root / said).is_file()
    with pytest.raises(AssertionError, match="ends in none of"):
        ModelRecordServiceBase.open(AppConfig(root=root, model_config_db="records.txt"))
    applicationdb.make(tmp_path / "other.db")
    with pytest.raises(AssertionError, match="another program"):
        ModelRecordServiceBase.open(AppConfig(root=root, model_config_db=tmp_path / "other.db"))


def test_none_is_the_legacy_file(root: Path) -> None:
    for config in settings(root, model_config_db=None, conf_path="configs/legacy.yaml"):
        with ModelRecordServiceBase.open(config) as store:
            assert store.backend == "yaml"
    assert (root / "configs" / "legacy.yaml").is_file()
    for config in (
        AppConfig(root=root, model_config_db=None),
        SimpleNamespace(root=root, model_config_db=None),
    ):
        with ModelRecordServiceBase.open(config) as store:
            assert isinstance(store, ModelRecordServiceFile)
    assert (root / "configs" / "models.yaml").is_file()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "config is no configuration"),
        ({"root": "/nowhere"}, "config is no configuration"),
        (SimpleNamespace(root="/nowhere", model_config_db=5), "model_config_db is no path, but of type int"),
    ],
    ids=["none", "dict", "number"],
)
def test_what_is_no_configuration_opens_no_store_in_its_place(config: Any, said: str) -> None:
    with pytest.raises(FieldInvalidException, match=said):
        ModelRecordServiceBase.open(config)


def test_a_hand_edit_is_seen_at_the_next_call_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "records.yaml"
    with ModelRecordServiceFile.from_db_file(path) as store:
        key = store.add_model(None, VAE).key
        text = path.read_text()
        path.write_text(text.replace("name: vae", "name: by hand"))
        assert store.get_model(key).name == "by hand"
        path.write_text(broken := text + "more: [1\n")
        for call in (store.all_models, lambda: store.add_model(None, VAE | {"path": "/other"})):
            with pytest.raises(StoreFileBrokenException, match=r"line \d+, column"):
                call()
        assert path.read_text() == broken
        path.write_text(text)
        assert store.update_model(key, {"description": "mended"}).name == "vae"


def test_a_program_starts_as_the_originals_example_does(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOKEAI_ROOT", str(root))
    applicationdb.make(root / "databases" / "invokeai.db")
    config = AppConfig(root=root)  # get_config(), without a configuration that stays for other tests
    db_conn = sqlite3.connect(config.db_path.as_posix(), check_same_thread=False)
    store = ModelRecordServiceBase.open(config, db_conn, lock)
    assert store.get_model(store.add_model(None, VAE).key).name == "vae"
    db_conn.close()


def test_a_model_in_the_models_folder_is_found_by_its_absolute_path(root: Path) -> None:
    models = root / "models"
    models.mkdir(parents=True)
    with ModelRecordServiceBase.open(AppConfig(root=root)) as store:
        made = store.add_model(None, VAE | {"path": "sd-1/vae"})
        other = store.add_model(None, VAE | {"path": "sd-1/vae", "root_id": str(uuid.uuid4())})
        assert store.search_by_path(models / "sd-1" / "vae") == made
        marker = uuid.uuid4()
        (models / MARKER).write_text(f"{marker}\n")
        mine = store.add_model(None, VAE | {"path": "sd-2/vae", "root_id": str(marker)})
        assert store.search_by_path(models / "sd-2" / "vae") == mine
        assert store.search_by_path("sd-2/vae") == mine
        store.del_model(made.key)
        assert store.search_by_path("sd-1/vae") == other
        with pytest.raises(UnknownModelException):
            store.search_by_path(models / "sd-1" / "vae")


def test_the_config_of_a_checkpoint_starts_in_the_root(root: Path) -> None:
    config = AppConfig(root=root)
    fields = VAE | {"model_format": "checkpoint", "config": "configs/stable-diffusion/v1-inference.yaml"}
    with ModelRecordServiceBase.open(config) as store:
        model: Any = store.add_model(None, fields)
        assert config.resolve(model.config) == root / "configs" / "stable-diffusion" / "v1-inference.yaml"
        model = store.update_model(model.key, {"config": "/elsewhere/v1.yaml"})
        assert config.resolve(model.config) == Path("/elsewhere/v1.yaml")


def test_every_method_that_a_service_and_a_file_can_answer_is_there() -> None:
    shared = {name for name in vars(RecordMethods) if not name.startswith("_")}
    assert {"get_model", "search_by_path", "update_model"} < shared
    assert shared <= set(vars(ModelRecordServiceBase))


def test_neither_grpc_nor_torch_is_needed(tmp_path: Path) -> None:
    program = """
import sys
for name in ("grpc", "grpc_status", "grpc_health", "torch", "numpy", "httpx"):
    sys.modules[name] = None
from modelkeep_record.store import ModelRecordServiceBase, AppConfig
with ModelRecordServiceBase.open(AppConfig(root=sys.argv[1])) as store:
    kind = {"model_type": "vae", "model_format": "diffusers", "base_model": "sd-1"}
    made = store.add_model(None, {"name": "v", "path": "/v", **kind})
    assert store.search_by_name("v") == [made]
    store.update_model(made.key, {"name": "w"})
    store.del_model(made.key)
"""
    path = os.pathsep.join([str(ROOT / "services"), str(ROOT / "clients" / "python")])
    subprocess.run(
        [sys.executable, "-c", program, tmp_path], check=True, env={**os.environ, "PYTHONPATH": path}
    )
