"""The original's record store inside an application's own process, without a server.

::

    from modelkeep_record.store import AppConfig, ModelRecordServiceBase, lock

    config = AppConfig.get_config()
    connection = sqlite3.connect(config.db_path, check_same_thread=False)
    store = ModelRecordServiceBase.open(config, connection, lock)
    for model in store.search_by_tag(["sfw", "scenery"]):
        print(model.key, model.name, model.path)

The methods are those of :class:`modelkeep.client.ModelRecordStore`, and so are the configs that go in and
come out (:mod:`modelkeep.configs`) and the exceptions (:mod:`modelkeep.exceptions`). A file that
:meth:`ModelRecordServiceBase.from_db_file` makes may be RecordService's at the same time, and the other way
round. Neither grpc nor torch is imported. See docs/adr/0022-records-in-the-database-of-an-application.md.
"""

from __future__ import annotations

import threading

from modelkeep.appconfig import AppConfig

from .errors import WrongStoreException
from .services import ModelRecordServiceBase, ModelRecordServiceFile, ModelRecordServiceSQL

#: A lock for the connection that an application shares among its threads, if it has none of its own.
lock = threading.RLock()

__all__ = [
    "AppConfig",
    "ModelRecordServiceBase",
    "ModelRecordServiceFile",
    "ModelRecordServiceSQL",
    "WrongStoreException",
    "lock",
]
