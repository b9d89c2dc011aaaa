"""Records at whose path there is nothing, and whether they may go: a disk that is away empties no records."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from modelkeep.exceptions import ManyMissingException, RootMismatchException
from modelkeep_common.paths import MARKER

from ..domain.ports import StoredModel
from ..domain.roots import ModelRoots
from ..presence import is_there


def away(gone: Collection[StoredModel], total: int, roots: ModelRoots) -> dict[str, ManyMissingException]:
    """Of orphans, why they are not removed unless that is forced; nothing of those that may go.

    One may go if the folder that it was in is there and holds something: for what was in models_dir, that is
    models_dir itself. None may if two or more are more than half of all records.

    Args:
        gone: The orphans.
        total: Number of all records that can be looked at.
        roots: Where relative paths begin.
    """
    if len(gone) > 1 and 2 * len(gone) > total:
        why = f"{len(gone)} of {total} models are gone at once, as if a disk were away"
        return {model.key: _stays(model, why) for model in gone}
    kept = {}
    for model in gone:
        location = roots.locate(model.path, model.root_id)
        inside = location.is_relative_to(roots.models_dir)
        folder = roots.models_dir if inside else location.parent
        if not (is_there(roots.models_dir / MARKER) if inside else _holds_something(folder)):
            kept[model.key] = _stays(model, f"{folder} is gone or empty, as if a disk were away")
    return kept


def elsewhere(models: Collection[StoredModel], roots: ModelRoots) -> RootMismatchException | None:
    """The error where all models of any models_dir are another one's: as if its disk were away."""
    ids = [model.root_id for model in models if model.root_id and not model.path.startswith("/")]
    if not ids or roots.root_id in ids:
        return None
    return RootMismatchException(
        f"No record belongs to {roots.models_dir}, the models_dir here; {len(ids)} belong to another.",
        metadata={"expected_root_id": ids[0], "actual_root_id": roots.root_id},
    )


def _holds_something(folder: Path) -> bool:
    return is_there(folder) is True


def _stays(model: StoredModel, why: str) -> ManyMissingException:
    return ManyMissingException(
        f"The record of {model.path} was not removed: {why}.", metadata={"key": model.key, "path": model.path}
    )
