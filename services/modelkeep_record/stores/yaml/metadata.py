"""The entry that says what a file is: of which version, and what its last write left."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from modelkeep_common.wire import from_time_text, to_seconds, to_time_text

from .document import METADATA
from .editing import edit
from .nodes import Mapping, Node, Scalar
from .problems import Problem, WrongKindProblem
from .reading import MAX_REVISION, parse_entry
from .text import entry_text
from .tree import Token, Tree

#: The version of files that this program writes, as the original counts them.
VERSION: Final = "3.2.0"
#: The first version of records; those before it name models by their base and type.
_OLDEST: Final = (3, 1)
_NEWEST: Final = (3, 2)
_WHOLE: Final = re.compile("[0-9]{1,16}")


class Metadata(NamedTuple):
    """What the entry says."""

    version: str = VERSION
    #: When the file was made, as text; "" if it does not say.
    create_time: str = ""
    #: That of the last change that was written.
    revision: int = 0
    #: Bytes of the file as it was written: one that a person has changed since has others.
    size_bytes: int = 0

    def of_write(self, revision: int, size_bytes: int) -> Metadata:
        """What stands there after a write: a file of an older version is one of this version then."""
        version = self.version if _parsed(self.version) == _NEWEST else VERSION
        return Metadata(version, self.create_time, revision, size_bytes)

    def body(self, before: str) -> str:
        """The entry's text; ``before``: the one that it takes the place of, whose comments stay."""
        after: dict[str, Tree] = {name: Token(value) for name, value in self._asdict().items()}
        if not before:
            return entry_text(METADATA, after)
        said: dict[str, Tree] = {
            name: Token(value) for name, value in read_metadata(before)._asdict().items()
        }
        said = {name: value for name, value in said.items() if value != "0"}
        if entry_text(METADATA, said) == before:
            return entry_text(METADATA, after)
        body = edit(before, said, after, {})
        return body if body and _says(body, self) else entry_text(METADATA, after)

    @property
    def create_time_s(self) -> float:
        """When the file was made, in seconds since 1970; 0 if it does not say."""
        return to_seconds(from_time_text(self.create_time)) if self.create_time else 0.0

    def _tree(self) -> dict[str, Tree]:
        return {name: Token(value) for name, value in self._asdict().items() if value}


def read_metadata(body: str) -> Metadata:
    """What the entry says.

    Raises:
        Problem: It is wrong.
    """
    name, contents = parse_entry(body)
    if not isinstance(contents, Mapping) or "version" not in contents.pairs:
        raise Problem(name.line, name.column, f"{METADATA} must have a version")
    found: dict[str, Node] = {field: node for field, (_, node) in contents.pairs.items()}
    revision, size = (_whole(found.get(field), field) for field in ("revision", "size_bytes"))
    return Metadata(_version(found["version"]), _time(found.get("create_time")), revision, size)


def _version(node: Node) -> str:
    text = node.text if isinstance(node, Scalar) else ""
    version = _parsed(text)
    if version is None:
        raise WrongKindProblem(
            node.line, node.column, f"the version must be one such as {VERSION}, not {text!r}"
        )
    if version < _OLDEST:
        what = f"the version {text} is that of InvokeAI before 3.1: `modelkeep import-invokeai` reads it"
        raise WrongKindProblem(node.line, node.column, what)
    if version > _NEWEST:
        what = f"the version {text} is newer than this program, which knows {VERSION}: upgrade it"
        raise WrongKindProblem(node.line, node.column, what)
    return text


def _says(body: str, metadata: Metadata) -> bool:
    try:
        return body.startswith(f"{METADATA}:") and read_metadata(body) == metadata
    except Problem:
        return False


def _parsed(text: str) -> tuple[int, int] | None:
    """The first two numbers of a version; None if it is none."""
    parts = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", text)
    return (int(parts[1]), int(parts[2])) if parts is not None else None


def _time(node: Node | None) -> str:
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return ""
    try:
        return to_time_text(from_time_text(node.text if isinstance(node, Scalar) else ""))
    except ValueError:
        raise Problem(node.line, node.column, "create_time must be a time: leave it out") from None


def _whole(node: Node | None, field: str) -> int:
    """A number that only programs write; a person need not."""
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return 0
    if not isinstance(node, Scalar) or not _WHOLE.fullmatch(node.text) or int(node.text) > MAX_REVISION:
        raise Problem(node.line, node.column, f"{field} must be a whole number: leave it out")
    return int(node.text)
