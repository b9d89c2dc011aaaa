"""What a file says, as records; and what changes from one state of it to the next.

A state is never changed: a change makes another one, so that who reads needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.model.v1.model_pb2 import Model, ModelFile

from ...domain import kinds, rules
from .document import METADATA, Piece, gap_without_entry, join
from .editing import aliases_of, edit
from .metadata import Metadata
from .problems import Problem
from .reading import Read, read_entry
from .text import entry_text
from .tree import tree_of

PathKey = tuple[str, str]


class Change(NamedTuple):
    """A record after a change; None: it is gone."""

    revision: int
    key: str
    message: bytes | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and its text in the file."""

    name: str
    body: str
    model: Model
    #: The model in its wire form.
    message: bytes
    files: tuple[ModelFile, ...]
    #: What the text says, where that is not all of the record: it was given marks that are not written yet.
    said: Model | None = None

    @property
    def path(self) -> PathKey:
        """What no two records share."""
        return self.model.path, self.model.root_id


@dataclass(frozen=True, slots=True)
class State:
    """A file at one moment."""

    head: str = ""
    #: What stands below each entry, by its name, in the file's order; that of the metadata is among them.
    gaps: Mapping[str, str] = field(default_factory=dict)
    metadata: Metadata = field(default_factory=Metadata)
    metadata_body: str = ""
    #: By key.
    entries: Mapping[str, Entry] = field(default_factory=dict)
    #: Keys by the entries' names.
    names: Mapping[str, str] = field(default_factory=dict)
    #: Keys by path and root.
    paths: Mapping[PathKey, str] = field(default_factory=dict)
    #: Keys of the records that name related ones.
    relating: frozenset[str] = frozenset()
    #: Of the last change.
    revision: int = 0

    def written(self) -> tuple[bytes, State]:
        """The whole file, and the state whose metadata is what stands there."""
        bodies = {entry.name: entry.body for entry in self.entries.values()}
        gaps = self.gaps if METADATA in self.gaps else {METADATA: "\n", **self.gaps}
        names = list(gaps)
        place = names.index(METADATA)
        above = join(self.head, (Piece(bodies[name], gaps[name]) for name in names[:place])).encode()
        rest = (Piece(bodies[name], gaps[name]) for name in names[place + 1 :])
        below = join(gaps[METADATA], rest).encode()
        size = 0
        while True:  # the number of bytes is among the bytes
            metadata = self.metadata.of_write(self.revision, size)
            body = metadata.body(self.metadata_body)
            data = body.encode()
            if (now := len(above) + len(data) + len(below)) == size:
                state = replace(self, gaps=gaps, metadata=metadata, metadata_body=body)
                return above + data + below, state
            size = now


def apply(state: State, changed: Mapping[str, Entry | None], revision: int) -> State:
    """The state after changes of records.

    Args:
        state: The state before.
        changed: By key, what they are now; None: they are gone.
        revision: That of the last of the changes.
    """
    gaps, entries = dict(state.gaps), dict(state.entries)
    names, paths, relating = dict(state.names), dict(state.paths), set(state.relating)
    for key, entry in changed.items():
        old = entries.pop(key, None) if entry is None else entries.get(key)
        if old is not None:
            relating.discard(key)
            if paths.get(old.path) == key:  # not another one's already
                del paths[old.path]
            if entry is None or entry.name != old.name:
                del names[old.name]
                _drop_gap(gaps, old.name)
        if entry is None:
            continue
        if entry.name not in gaps:
            _separate(gaps)
            gaps[entry.name] = ""
        entries[key] = entry
        names[entry.name] = paths[entry.path] = key
        if entry.model.related_keys:
            relating.add(key)
    # What was noticed but not written yet goes along.
    for key, entry in entries.items():
        if entry.said is not None:
            entries[key] = rewritten(entry.name, entry, entry.model, entry.files)
    return replace(
        state,
        gaps=gaps,
        entries=entries,
        names=names,
        paths=paths,
        relating=frozenset(relating),
        revision=revision,
    )


def rewritten(name: str, old: Entry | None, model: Model, files: Iterable[ModelFile]) -> Entry:
    """A record with its text, which keeps what a person wrote into the one before.

    Args:
        name: The entry's name.
        old: The entry as it was; None: it is new.
        model: The record.
        files: Its files, ordered by path.

    Raises:
        FieldInvalidException: No entry says this record: it breaks a rule.
    """
    files = tuple(files)
    after = tree_of(model, files, name)
    body = ""
    if old is not None:
        said = old.said or old.model
        before = tree_of(said, old.files, name)
        if entry_text(name, before) != old.body:
            body = edit(old.body, before, after, aliases_of({said.type, model.type})) or ""
    if not body or _problem_with(body, name, model, files):
        body = entry_text(name, after)
        if problem := _problem_with(body, name, model, files):
            raise FieldInvalidException(
                "The record cannot be kept in a YAML file.", violations=[FieldViolation("model", problem)]
            )
    return Entry(name, body, model, model.SerializeToString(), files)


def relating(entries: Mapping[str, Entry]) -> frozenset[str]:
    """The keys of the records that name related ones."""
    return frozenset(key for key, entry in entries.items() if entry.model.related_keys)


def unsaid(said: Model, model: Model) -> Model | None:
    """What a text says, if that is not all of the record."""
    return None if rules.canonical(bare(model)) == rules.canonical(said) else said


def bare(model: Model) -> Model:
    """A record as its entry says it: without the etag, which follows from the rest."""
    plain = Model()
    plain.CopyFrom(model)
    plain.ClearField("etag")
    return plain


def _separate(gaps: dict[str, str]) -> None:
    """An empty line stands before a new entry."""
    if gaps:
        last = next(reversed(gaps))
        if not gaps[last].endswith(("\n\n", "\r\n\r\n")) and gaps[last] not in ("\n", "\r\n"):
            gaps[last] += "\n" if not gaps[last] or gaps[last].endswith("\n") else "\n\n"


def _drop_gap(gaps: dict[str, str], name: str) -> None:
    """Comments below an entry that is gone stay, below the one before it."""
    names = list(gaps)
    place = names.index(name)
    kept = gap_without_entry(gaps.pop(name))
    if kept and place:
        gaps[names[place - 1]] += kept


def _problem_with(body: str, name: str, model: Model, files: tuple[ModelFile, ...]) -> str:
    """Why a text is not read as this very record; "" if it is."""
    try:
        read: Read = read_entry(body)
    except Problem as problem:
        return problem.what
    wanted = Model()
    wanted.CopyFrom(model)
    kinds.select_arm(wanted)
    same = read.name == name and read.files == files and unsaid(read.model, wanted) is None
    return "" if same else "would come back as another record"
