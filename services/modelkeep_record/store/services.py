"""The original's classes of record stores, by their names."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from modelkeep.appconfig import AUTO, CONF_PATH, DB_DIR, DB_FILE, path_in
from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.records import RecordMethods
from modelkeep_common.at_once import run_at_once
from modelkeep_common.sqlite import Embedded

from ..config import YAML_SUFFIXES
from ..domain.rules import SCHEMA_VERSION
from ..stores.sqlite.schema import MIGRATIONS
from ..stores.sqlite.shelf import SqliteShelf
from ..stores.yaml.shelf import YamlShelf
from .calls import LocalRecords, Shelf
from .errors import refusals, wrong

if TYPE_CHECKING:
    import sqlite3

P = ParamSpec("P")
R = TypeVar("R")

#: The marker of this kind of store.
_SERVICE = "record"
_SQL_ENDINGS = (".db",)
#: Attributes of a configuration, of which it has one at least.
_TELLING = ("root", "root_path", "model_config_db", "db_path")
#: What a SQLite database begins with.
_SQLITE = b"SQLite format 3\0"


def _plain(
    method: Callable[Concatenate[RecordMethods, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[ModelRecordServiceBase, P], R]:
    """A method of RecordMethods as a plain one, under the lock: same name, arguments and documentation."""

    @wraps(method)
    def call(self: ModelRecordServiceBase, /, *arguments: P.args, **named: P.kwargs) -> R:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("This store is closed.")
            return run_at_once(method(self._records, *arguments, **named))

    return call


class ModelRecordServiceBase(ABC):
    """Records of models, kept in this process. Any thread may call; a lock is held during each call.

    Made by :meth:`from_db_file` and :meth:`open`.

    Args:
        shelf: What the records are kept in.
        lock: What is held during each call.
        models_path: The folder of installed models, if it is known: :meth:`search_by_path` then finds what
            lies in it by its absolute path, too.
    """

    def __init__(
        self, shelf: Shelf, lock: AbstractContextManager[Any], models_path: Path | None = None
    ) -> None:
        self._shelf = shelf
        self._lock = lock
        self._records = LocalRecords(shelf, models_path)
        self._is_closed = False

    @property
    @abstractmethod
    def backend(self) -> str:
        """What the records are kept in: ``sqlite`` or ``yaml``."""

    @classmethod
    def from_db_file(
        cls, db_file: str | os.PathLike[str], *, models_path: Path | None = None
    ) -> ModelRecordServiceBase:
        """Open a file of records, a database or a YAML file by its ending; one that is not there is made.

        Args:
            db_file: The file: ``.db``, ``.yaml`` or ``.yml``.
            models_path: The folder of installed models, if it is known.

        Raises:
            WrongStoreException: The file is of another kind, is another program's, or of a newer release. An
                AssertionError.
            FieldInvalidException: It cannot be written.
        """
        ending = Path(db_file).suffix.lower()
        if ending in _SQL_ENDINGS:
            return ModelRecordServiceSQL.from_db_file(db_file, models_path=models_path)
        if ending in YAML_SUFFIXES:
            return ModelRecordServiceFile.from_db_file(db_file, models_path=models_path)
        raise wrong(
            f"{os.fspath(db_file)} ends in none of {', '.join((*_SQL_ENDINGS, *YAML_SUFFIXES))}, by which a "
            "database is told from a YAML file"
        )

    @classmethod
    def open(
        cls,
        config: Any,
        conn: sqlite3.Connection | None = None,
        lock: AbstractContextManager[Any] | None = None,
    ) -> ModelRecordServiceBase:
        """Open the store that an application's configuration says.

        ``model_config_db`` is ``auto``: the records are in the application's database, on the connection that
        is given together with its lock, or else on a connection of their own to ``db_path``. It is a path:
        see :meth:`from_db_file`. It is None: likewise with the legacy ``conf_path``.

        Args:
            config: A :class:`modelkeep.appconfig.AppConfig`, or anything with its attributes.
            conn: The application's connection to its database.
            lock: What its threads hold while they use that.

        Raises:
            WrongStoreException: The file is of another kind, is another program's, or of a newer release. An
                AssertionError.
            FieldInvalidException: It cannot be written, or `config` is no configuration.
        """
        if not any(hasattr(config, name) for name in _TELLING):
            problem = f"is no configuration: it has none of {', '.join(_TELLING)}"
            raise FieldInvalidException("", violations=[FieldViolation("config", problem)])
        models_path = path_in(config, "models_path", "models_dir", default="models")
        said = getattr(config, "model_config_db", AUTO)
        if said != AUTO:
            names = ("model_config_db",) if said else ("model_conf_path", "conf_path")
            path = path_in(config, *names, default=CONF_PATH)
            return ModelRecordServiceBase.from_db_file(path, models_path=models_path)
        if conn is not None and lock is not None:
            return ModelRecordServiceSQL.from_connection(conn, lock, models_path=models_path)
        path = path_in(config, "db_path", default=Path(DB_DIR, DB_FILE))
        return ModelRecordServiceSQL.from_application(path, models_path=models_path)

    get_model = _plain(RecordMethods.get_model)
    exists = _plain(RecordMethods.exists)
    search_by_path = _plain(RecordMethods.search_by_path)
    search_by_name = _plain(RecordMethods.search_by_name)
    all_models = _plain(RecordMethods.all_models)
    search_by_tag = _plain(RecordMethods.search_by_tag)
    model_info_by_name = _plain(RecordMethods.model_info_by_name)
    list_models = _plain(RecordMethods.list_models)
    get_related_model_keys = _plain(RecordMethods.get_related_model_keys)
    get_related_model_keys_batch = _plain(RecordMethods.get_related_model_keys_batch)
    add_model = _plain(RecordMethods.add_model)
    update_model = _plain(RecordMethods.update_model)
    preview_update = _plain(RecordMethods.preview_update)
    add_model_relationship = _plain(RecordMethods.add_model_relationship)
    remove_model_relationship = _plain(RecordMethods.remove_model_relationship)
    set_cover_image = _plain(RecordMethods.set_cover_image)
    get_cover_image = _plain(RecordMethods.get_cover_image)
    delete_cover_image = _plain(RecordMethods.delete_cover_image)
    del_model = _plain(RecordMethods.del_model)

    def version(self) -> str:
        """Version of the store's data model: "3.2"."""
        return SCHEMA_VERSION

    def close(self) -> None:
        """Close what was opened for it; a connection that was given stays open."""
        with self._lock:
            self._is_closed = True
            self._shelf.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ModelRecordServiceSQL(ModelRecordServiceBase):
    """Records in a SQLite database."""

    @property
    def backend(self) -> str:
        """See :class:`ModelRecordServiceBase`."""
        return "sqlite"

    @classmethod
    def from_connection(
        cls,
        connection: sqlite3.Connection,
        lock: AbstractContextManager[Any],
        *,
        models_path: Path | None = None,
    ) -> Self:
        """Keep the records in an application's database, beside its own tables.

        The records are in tables whose names begin with ``modelkeep_``. Of the connection and of the other
        tables nothing is changed. Inside a transaction that the application has begun, what is called is a
        part of it; else each call that changes something is a transaction of its own.

        Args:
            connection: The application's; it stays open when this is closed.
            lock: What its threads hold while they use the connection: a ``threading.Lock``, or an ``RLock``,
                with which a thread may call while it holds it.
            models_path: The folder of installed models, if it is known.

        Raises:
            WrongStoreException: The tables in there are another service's, or of a newer release.
        """
        with lock, refusals():
            tables = Embedded(connection, MIGRATIONS, _SERVICE)
        return cls(SqliteShelf(tables, is_own=False), lock, models_path)

    @classmethod
    def from_db_file(cls, db_file: str | os.PathLike[str], *, models_path: Path | None = None) -> Self:
        """Open a database; one that is not there is made. See :class:`ModelRecordServiceBase`."""
        return cls._open(Path(db_file), models_path, adopt=False)

    @classmethod
    def from_application(cls, db_file: str | os.PathLike[str], *, models_path: Path | None = None) -> Self:
        """Keep the records in an application's database, on a connection of one's own.

        As :meth:`from_connection`; a database that is not there is made, for the application to make its
        tables in.

        Raises:
            WrongStoreException: It is no database, or the records in there are of a newer release.
            FieldInvalidException: It cannot be written.
        """
        return cls._open(Path(db_file), models_path, adopt=True)

    @classmethod
    def _open(cls, path: Path, models_path: Path | None, *, adopt: bool) -> Self:
        if path.suffix.lower() in YAML_SUFFIXES:
            raise wrong(f"{path} is a YAML file by its ending, and no database")
        with refusals():
            if path.is_dir():
                raise wrong(f"{path} is a folder, and no database")
            tables = Embedded.open(path.absolute(), MIGRATIONS, _SERVICE, adopt=adopt)
        return cls(SqliteShelf(tables, is_own=True), threading.RLock(), models_path)


class ModelRecordServiceFile(ModelRecordServiceBase):
    """Records in a YAML file, which people may edit; a change of theirs is seen at the next call."""

    @property
    def backend(self) -> str:
        """See :class:`ModelRecordServiceBase`."""
        return "yaml"

    @classmethod
    def from_db_file(cls, db_file: str | os.PathLike[str], *, models_path: Path | None = None) -> Self:
        """Open a YAML file; one that is not there is made. See :class:`ModelRecordServiceBase`.

        Raises:
            WrongStoreException: It is another kind of file, or has a mistake in it; its place is told.
            FieldInvalidException: It cannot be written.
        """
        path = Path(db_file)
        if path.suffix.lower() in _SQL_ENDINGS:
            raise wrong(f"{path} is a database by its ending, and no YAML file")
        if _is_database(path):
            raise wrong(f"{path} is a SQLite database, and no YAML file")
        with refusals():
            shelf = YamlShelf.open(path.absolute())
        return cls(shelf, threading.RLock(), models_path)


def _is_database(path: Path) -> bool:
    try:
        if not path.is_file():  # a pipe would keep whoever opens it waiting
            return False
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:  # said by whoever opens it
        return False
