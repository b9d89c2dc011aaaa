"""What ``modelkeep edit`` sees to before it gives a model another path: that the same model is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modelkeep.cli._output import short, size
from modelkeep.exceptions import FieldInvalidException, FieldViolation

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.configs import AnyModelConfig

_INSTALL: Final = "install it: `modelkeep install PATH`"
#: What follows from the files, or from the path.
_FOLLOW: Final = ("size_bytes", "original_hash", "current_hash", "root_id")


def placed(client: Client, config: AnyModelConfig, values: dict[str, Any]) -> dict[str, Any]:
    """The changes of a record, with the path that they name as the record has it.

    Raises:
        FieldInvalidException: What is at the path is another model, or a field follows from the files.
        ModelkeepError: Nothing is there, or it may not be read.
    """
    if follows := [name for name in _FOLLOW if name in values]:
        problem = "follows from the files: install the model anew to change it"
        raise _bad(*(FieldViolation(name, problem) for name in follows))
    if not values.get("path"):
        return values
    path = Path(os.path.abspath(Path(values["path"]).expanduser()))
    _check_same(client, config, path)
    for root in client.server_info("install").roots:
        if root.purpose == "models" and path.is_relative_to(root.path):
            return values | {"path": str(path.relative_to(root.path)), "root_id": root.root_id}
    return values | {"path": str(path), "root_id": None}


def _check_same(client: Client, config: AnyModelConfig, path: Path) -> None:
    from modelkeep.model.v1 import taxonomy_pb2

    found = client.model_install.probe(str(path))
    kind = short(taxonomy_pb2.ModelType.Name(found.type), "MODEL_TYPE_")
    if kind not in (config.model_type, "unknown"):
        raise _bad_path(f"holds a {kind}, and {config.name} is a {config.model_type}; {_INSTALL}")
    if found.size_bytes != config.size_bytes:
        exact = size(found.size_bytes) == size(config.size_bytes)
        has, had = (f"{n:,} bytes" if exact else size(n) for n in (found.size_bytes, config.size_bytes))
        raise _bad_path(f"has {has}, and the record {had}: it is another model; {_INSTALL}")
    listed = client.model_record_store.list_files(config.key)
    if len(listed) == 1 and path.is_file() and listed[0].path != path.name:
        raise _bad_path(f"must be called {listed[0].path}, as the record lists it: rename it")


def _bad_path(problem: str) -> FieldInvalidException:
    return _bad(FieldViolation("path", problem))


def _bad(*violations: FieldViolation) -> FieldInvalidException:
    return FieldInvalidException("", violations=violations)
