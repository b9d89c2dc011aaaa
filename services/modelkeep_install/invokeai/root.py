"""Where an InvokeAI has its things: its invokeai.yaml says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelkeep.appconfig import INIT_FILE, AppConfig
from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep_common.auth import Principal

from ..domain.roots import ModelRoots
from ..domain.system_errors import reading

#: Pictures of models, in its folder of models.
_PICTURES = "model_images"


@dataclass(frozen=True, slots=True)
class Root:
    """An installation.

    Attributes:
        path: Its root folder.
        models_dir: Its folder of models.
        configs_dir: Where the configurations of its checkpoints are.
        database: Its database; None where there is none.
        models_yaml: Its legacy file of models; None where there is none.
    """

    path: Path
    models_dir: Path
    configs_dir: Path
    database: Path | None
    models_yaml: Path | None

    @property
    def pictures(self) -> Path:
        """The folder of the pictures of its models."""
        return self.models_dir / _PICTURES


def find_root(text: str, roots: ModelRoots, named_by: Principal) -> Root:
    """The installation at a path; blocks.

    Args:
        text: Its root folder, as a caller named it.
        roots: What may be read.
        named_by: The caller.

    Raises:
        FieldInvalidException: It is no root of an InvokeAI, or its settings cannot be read.
        ForbiddenPathException: It, or where its database is, lies outside every root.
        SourceNotFoundException: There is nothing at the path.
    """
    path = roots.requested(text, "root", named_by)
    with reading(path):
        path.stat()
    if not path.is_dir():
        raise no_root(path, "is a file")
    roots.requested(str(path / INIT_FILE), "root", named_by)  # it may be a link
    config = AppConfig(root=path)
    database, models_yaml = config.db_path, config.model_conf_path
    for file in (database, models_yaml):
        roots.requested(str(file), "root", named_by)
    root = Root(
        path,
        config.models_path,
        config.legacy_conf_path,
        database if database.is_file() else None,
        models_yaml if models_yaml.is_file() else None,
    )
    if root.database is None and root.models_yaml is None:
        raise no_root(path, f"has neither {database} nor {models_yaml}")
    return root


def no_root(path: Path, why: str) -> FieldInvalidException:
    """The error of a folder that is no root."""
    return FieldInvalidException(
        f"{path} is no root folder of an InvokeAI: it {why}.",
        violations=[FieldViolation("root", why)],
        remedy="Name the folder that holds invokeai.yaml, databases and models.",
    )
