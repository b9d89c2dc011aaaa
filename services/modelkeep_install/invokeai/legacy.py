"""InvokeAI's models.yaml: where models were before 3.5 moved them into the database.

Of version 3.0.0 an entry is called ``base/type/name`` and its paths begin in the folder of models; before
that, an entry has a plain name, is a main model, and its paths begin in the root. What an entry says is
given as the database would have it; what the database has no name for keeps the one that it has in the
file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from modelkeep import yamltext
from modelkeep.contents import PICKLE_SUFFIXES, TENSOR_SUFFIXES
from modelkeep.exceptions import FieldInvalidException, FieldViolation, InvalidModelConfigException

from .cleaning import cleaned, cleaned_text
from .root import Root
from .source import Source, text_in

#: A models.yaml may have this many bytes.
_MAX_BYTES = 8 << 20
_METADATA = "__metadata__"
_FORMATS = {"ckpt": "checkpoint"}
_FILES = TENSOR_SUFFIXES | PICKLE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Legacy:
    """A models.yaml.

    Attributes:
        version: As it says; empty before 3.0.
        sources: Its entries, in its order.
    """

    version: str
    sources: list[Source]


def read_yaml(root: Root) -> Legacy:
    """The entries of the models.yaml of an installation; blocks.

    Raises:
        FieldInvalidException: It cannot be read.
    """
    if root.models_yaml is None:
        return Legacy("", [])
    top = _parsed(root.models_yaml)
    metadata = top.pop(_METADATA, None)
    version = str(metadata.get("version", "")) if isinstance(metadata, dict) else ""
    return Legacy(version, [_source(str(name), entry, root) for name, entry in top.items()])


def _source(name: str, entry: Any, root: Root) -> Source:
    if not isinstance(entry, Mapping):
        return Source(name, error=_bad_entry(name, "has no fields"), is_legacy=True)
    config = {str(field): value for field, value in entry.items()}
    parts = name.split("/", 2)
    config = _of_3(parts, config, root) if len(parts) == 3 else _of_2(name, config, root)
    try:
        config = cleaned(config)
    except InvalidModelConfigException as error:
        return Source(name, error=error, is_legacy=True)
    if not config.get("path"):
        repository = text_in(config, "repo_id")
        why = (
            f"is a repository that InvokeAI fetches by itself: {repository}" if repository else "has no path"
        )
        return Source(name, config, error=_bad_entry(name, why, repository), is_legacy=True)
    return Source(name, config, is_legacy=True)


def _of_3(parts: list[str], entry: dict[str, Any], root: Root) -> dict[str, Any]:
    base, type_, name = parts
    said = entry.pop("model_format", None) or entry.pop("format", None)
    path = text_in(entry, "path")
    place = root.models_dir / path if path else None
    if place is not None and not place.exists() and (root.path / path).exists():
        place = root.path / path
    config = {"name": name, "type": type_, "base": base, **entry, "path": str(place) if place else ""}
    return (
        config
        | {"format": _FORMATS.get(str(said), str(said)) if said else _format_of(type_, place)}
        | _paths(entry, root)
    )


def _of_2(name: str, entry: dict[str, Any], root: Root) -> dict[str, Any]:
    said = str(entry.pop("format", ""))
    path = text_in(entry, "weights") or text_in(entry, "path")
    for other in ("weights", "path"):
        if text_in(entry, other) == path:
            entry.pop(other, None)
    config_file = PurePath(text_in(entry, "config")).name
    size = {side: entry.pop(side) for side in ("width", "height") if isinstance(entry.get(side), int)}
    config: dict[str, Any] = {
        "name": name,
        "type": "main",
        "base": next(
            (base for start, base in (("v1", "sd-1"), ("v2", "sd-2")) if config_file.startswith(start)),
            "unknown",
        ),
        "format": _FORMATS.get(said, said) or _format_of("main", root.path / path if path else None),
        **entry,
        "path": str(root.path / path) if path else "",
    }
    if "inpaint" in config_file:
        config["variant"] = "inpaint"
    if size:
        config["default_settings"] = size
    return config | _paths(entry, root)


def _paths(entry: Mapping[str, Any], root: Root) -> dict[str, str]:
    """The paths of an entry that begin in the root."""
    return {
        name: os.path.normpath(root.path / text)
        for name in ("config", "vae")
        if (text := text_in(entry, name))
    }


def _format_of(type_: str, place: Path | None) -> str:
    """The format of what says none, by what is there, or by its name."""
    is_file = place is not None and (place.is_file() or place.suffix.lower() in _FILES)
    if type_ == "embedding":
        return "embedding_file" if is_file else "embedding_folder"
    if type_ == "lora" and is_file:
        return "lycoris"
    return "checkpoint" if is_file else "diffusers"


class _Loader(yaml.SafeLoader):
    """Plain values without aliases, by which a small file can stand for a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "has an alias, as no models.yaml does", mark)
        return super().compose_node(parent, index)


def _parsed(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise _bad_file(path, f"has more than {_MAX_BYTES:,} bytes")
        top = yaml.load(data, _Loader)
    except OSError as error:
        raise _bad_file(path, f"cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise _bad_file(path, error.problem or "is no YAML", where) from None
    except (yaml.YAMLError, *yamltext.ODD) as error:
        raise _bad_file(path, f"is no YAML: {yamltext.said_of(error)}") from None
    if top is None:
        return {}
    if not isinstance(top, dict):
        raise _bad_file(path, "has no entries of the form `name: fields`")
    return top


def _bad_file(path: Path, problem: str, where: str = "") -> FieldInvalidException:
    return FieldInvalidException(
        f"The models cannot be read: {path}{where}: {problem}.",
        violations=[FieldViolation("root", f"{path.name}{where} {problem}")],
        remedy=f"Mend {path}, or move it away.",
    )


def _bad_entry(name: str, why: str, repository: str = "") -> InvalidModelConfigException:
    return InvalidModelConfigException(
        f"The entry {cleaned_text(name)} of models.yaml {why}.",
        violations=[FieldViolation("path", why)],
        remedy=f"Install it: modelkeep install {repository}"
        if repository
        else "Give it a path in models.yaml.",
    )
