"""One entry of a file as a record."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from modelkeep.exceptions import FieldInvalidException, FieldViolation, InvalidModelConfigException
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.model.v1.taxonomy_pb2 import ModelFormat, ModelType
from modelkeep_common.calls.sentences import in_words
from modelkeep_common.calls.validation import collector
from modelkeep_common.wire import total

from ...domain import details, kinds, rules
from . import values
from .names import EXTRA, FILES, OTHER_CONFIG, UNKNOWN, arms, readable, readable_in_entry, shown
from .nodes import Listing, Mapping, Node, Scalar, parse
from .problems import Problem

_KEY: Final = re.compile("[0-9a-f]{32}")
#: A number of an enum that this version does not know is no mistake: a newer one wrote it.
_TOLERATED: Final = frozenset({"enum.defined_only"})
#: Where a revision must end, so that the next ones are numbers of the store as well.
MAX_REVISION: Final = 1 << 53

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Read:
    """What stands in an entry."""

    name: str
    model: Model
    #: In the order in which they stand there.
    listed: list[ModelFile]
    #: Where the values of fields stand, by the fields' names in the API, and each of the files.
    places: dict[str, Place]

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """The files, ordered by path."""
        return tuple(sorted(self.listed, key=lambda file: file.path))

    @property
    def path_place(self) -> Place:
        """Where the record's path stands."""
        return self.places.get("path", self.places[""])


def parse_entry(body: str) -> tuple[Scalar, Node]:
    """The name and the contents of one entry at the top of a file.

    Raises:
        Problem: It is no such entry.
    """
    root = parse(body)
    if not isinstance(root, Mapping) or len(root.pairs) != 1:
        raise Problem(0, 0, "is no entry: it must be NAME: and its fields")
    ((name, contents),) = root.pairs.values()
    return name, contents


def read_entry(body: str) -> Read:
    """The record that an entry is.

    Raises:
        Problem: It is none.
    """
    name, contents = parse_entry(body)
    if not isinstance(contents, Mapping):
        raise Problem(contents.line, contents.column, f"the entry {name.text} must have fields with names")
    places: dict[str, Place] = {"": (name.line, name.column)}
    model, files = Model(), list[ModelFile]()
    # The type says which settings there are; what is no field comes last.
    first = ("model_type", "type", EXTRA)
    ordered = sorted(contents.pairs.items(), key=lambda pair: pair[0] not in first)
    for _, (place, node) in ordered:
        _take(model, files, place, node, places)
    if not model.key:
        model.key = key_of(name.text)
    kinds.select_arm(model)
    if "size_bytes" not in places:
        model.size_bytes = total(file.size_bytes for file in files)
    _check(model, files, places)
    return Read(name.text, model, files, places)


def check_by_hand(read: Read, known: Model | None) -> None:
    """Whether a person may write this: by the rules of requests, which programs have kept already.

    Args:
        read: The entry.
        known: The record before; what was wrong with it already is not held against the change.

    Raises:
        Problem: A rule is broken.
    """
    excused = set() if known is None else set(_broken_rules(known, ""))
    found = [violation for violation in _broken_rules(read.model, "") if violation not in excused]
    for number, file in enumerate(read.listed):
        found += _broken_rules(file, f"{FILES}[{number}].")
    if read.model.key in read.model.related_keys:
        found.append(FieldViolation("related_keys", "has the model's own key"))
    if found:
        raise _problem(found[0], read.places)


def key_of(name: str) -> str:
    """The key of an entry that names none: its own name, or what follows from it, the same each time."""
    if _KEY.fullmatch(name):
        return name
    return hashlib.blake2b(name.encode(), digest_size=16, person=b"modelkeep.entry").hexdigest()


def _take(model: Model, files: list[ModelFile], place: Scalar, node: Node, places: dict[str, Place]) -> None:
    name = place.text
    fields = readable_in_entry(model.type)
    field = fields.get(name)
    if field is not None:
        if field.name in places:
            raise Problem(place.line, place.column, f"{name} is there already, by the field's other name")
        places[field.name] = (node.line, node.column)
        # Of the record itself, or of the settings of its type.
        values.put(model if field.containing_type is Model.DESCRIPTOR else _arm(model), field, node)
    elif name == FILES:
        _read_files(files, node, places)
    elif name == UNKNOWN:
        values.merge_unknown(model, node)
    elif name == OTHER_CONFIG:
        _read_other_config(model, node)
    else:
        values.check_name(place, [*fields, FILES])
        extra = getattr(model, EXTRA)
        if name in extra:
            raise Problem(place.line, place.column, f"{name} is there already, in {EXTRA}")
        extra[name] = values.as_json(node)


def _arm(model: Model) -> Any:
    kinds.select_arm(model)
    return getattr(model, str(model.WhichOneof("config")))


def _read_files(files: list[ModelFile], node: Node, places: dict[str, Place]) -> None:
    if isinstance(node, Scalar) and node.is_null:
        return
    if not isinstance(node, Listing):
        raise Problem(node.line, node.column, f"{FILES} must be a list")
    fields = readable(ModelFile.DESCRIPTOR)
    for number, item in enumerate(node.items):
        places[f"{FILES}[{number}]"] = (item.line, item.column)
        if not isinstance(item, Mapping):
            raise Problem(item.line, item.column, f"each of the {FILES} must have fields with names")
        file = ModelFile()
        for name, (place, value) in item.pairs.items():
            if name == UNKNOWN:
                values.merge_unknown(file, value)
            elif name in fields:
                values.put(file, fields[name], value)
            else:
                raise Problem(place.line, place.column, f"a file has no field {name}")
        files.append(file)


def _read_other_config(model: Model, node: Node) -> None:
    if not isinstance(node, Mapping) or len(node.pairs) != 1 or not node.pairs.keys() <= arms().keys():
        raise Problem(
            node.line, node.column, f"{OTHER_CONFIG} must have the name of one type, and its fields below it"
        )
    for name, (_, part) in node.pairs.items():
        values.put(model, arms()[name], part)


def _check(model: Model, files: list[ModelFile], places: dict[str, Place]) -> None:
    """Whether there may be such a record."""
    try:
        details.without_secrets(model)
        if _is_readable(model):
            rules.check_record(model)
        rules.check_files(files)
    except (FieldInvalidException, InvalidModelConfigException) as error:
        raise _problem(error.violations[0], places) from None
    if not 0 <= model.revision <= MAX_REVISION:
        raise _problem(FieldViolation("revision", "is no revision: leave it out"), places)


def _is_readable(model: Model) -> bool:
    """Whether this version knows the record's kind; what it knows of kinds does not hold for others."""
    return not (model.name and model.path) or (
        model.type in ModelType.values() and model.format in ModelFormat.values()
    )


def _broken_rules(message: Any, prefix: str) -> Iterable[FieldViolation]:
    for violation in collector()(message):
        if violation.proto.rule_id not in _TOLERATED:
            said = in_words(violation, message.DESCRIPTOR)
            yield FieldViolation(prefix + said.field, said.description)


def _problem(violation: FieldViolation, places: dict[str, Place]) -> Problem:
    path = violation.field.removeprefix("model.").split(".")
    if path[0] in arms() and len(path) > 1:
        path = path[1:]
    name = path[0].split("[")[0] if not path[0].startswith(FILES) else path[0]
    place = places.get(name, places[""])
    field = Model.DESCRIPTOR.fields_by_name.get(name)
    path[0] = shown(field) + path[0].removeprefix(name) if field is not None else path[0]
    return Problem(*place, FieldViolation(".".join(path), violation.description).words)
