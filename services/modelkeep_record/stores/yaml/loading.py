"""What a file's text says, as a state; and what changed since another one, whoever changed it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.wire import to_timestamp

from ...domain import rules
from .document import METADATA, Piece, Split, split
from .metadata import VERSION, Metadata, read_metadata
from .problems import Problem, WrongKindProblem
from .reading import Place, Read, check_by_hand, read_entry
from .state import Change, Entry, PathKey, State, bare, relating, unsaid


def load(text: str, before: State | None, moment: float) -> tuple[State, list[Change]]:
    """The state that a file's text is, and what changed since another one.

    Args:
        text: The file's.
        before: The state that was known; None: none was.
        moment: When the file was changed, in seconds since 1970.

    Raises:
        Problem: Something in the text is wrong.
    """
    pieces = split(text)
    if not any(map(_is_metadata, pieces.pieces)):
        what = f"is no file of records: there is no entry {METADATA} with a version, such as {VERSION}"
        raise WrongKindProblem(0, 0, what)
    state = before or State()
    # Else a person has been there, perhaps while no program was.
    is_whole = claimed_size(pieces) == len(text.encode())
    known = {entry.body: entry for entry in state.entries.values()}
    metadata, metadata_body = Metadata(), ""
    gaps: dict[str, str] = {}
    entries: dict[str, Entry] = {}
    places: dict[str, Place] = {}
    for piece, line in zip(pieces.pieces, pieces.lines, strict=True):
        try:
            if _is_metadata(piece):
                name, metadata, metadata_body = METADATA, read_metadata(piece.body), piece.body
            else:
                entry = known.get(piece.body)
                if entry is None:
                    entry, read = _new_entry(piece.body)
                    if not is_whole or entry.model.revision <= state.revision:
                        old = state.entries.get(entry.model.key)
                        check_by_hand(read, old.model if old is not None else None)
                    places[entry.model.key] = read.path_place[0] + line, read.path_place[1]
                name = entry.name
                _check_key(entry, entries)
                entries[entry.model.key] = entry
            if name in gaps:
                raise Problem(0, 0, f"the entry {name} is there already")
        except Problem as problem:
            raise problem.below(line) from None
        gaps[name] = piece.gap
    new = replace(state, head=pieces.head, gaps=gaps, metadata=metadata, metadata_body=metadata_body)
    known_before = before is not None
    unsure = not known_before and not is_whole
    return _numbered(new, entries, _paths(entries, places), moment, known=known_before, unsure=unsure)


def claimed_size(pieces: Split) -> int:
    """The size that the file says of itself; 0 if it says none that can be read."""
    for piece in pieces.pieces:
        if _is_metadata(piece):
            try:
                return read_metadata(piece.body).size_bytes
            except Problem:
                return 0
    return 0


def _is_metadata(piece: Piece) -> bool:
    # The name ends with a colon and a blank; without one the colon is a part of it.
    return piece.body.startswith(f"{METADATA}:") and piece.body[len(METADATA) + 1 :][:1].isspace()


def _new_entry(body: str) -> tuple[Entry, Read]:
    read = read_entry(body)
    if read.name == METADATA:
        raise Problem(0, 0, f"{METADATA} must stand there without quotes")
    return Entry(read.name, body, read.model, b"", read.files, read.model), read


def _check_key(entry: Entry, entries: Mapping[str, Entry]) -> None:
    if (other := entries.get(entry.model.key)) is not None and other.name != entry.name:
        raise Problem(
            0, 0, f"the entry {entry.name} has the key of the entry {other.name}: {entry.model.key}"
        )


def _paths(entries: Mapping[str, Entry], places: Mapping[str, Place]) -> dict[PathKey, str]:
    paths: dict[PathKey, str] = {}
    for key, entry in entries.items():
        if (other := paths.setdefault(entry.path, key)) != key:
            # The one of the two that is new, or the second.
            new, old = (entry, entries[other]) if key in places else (entries[other], entry)
            what = f"the path of {new.name} is that of {old.name}: {new.model.path}"
            raise Problem(*places[new.model.key], what)
    return paths


def _numbered(
    state: State,
    entries: dict[str, Entry],
    paths: dict[PathKey, str],
    moment: float,
    *,
    known: bool,
    unsure: bool,
) -> tuple[State, list[Change]]:
    """Give what changed its revisions.

    What another process wrote has one, above all that were known here; what a person wrote gets one, and so
    do the records that it makes related ones of, or that were. With ``unsure`` a person may have written any
    of them while no program ran.
    """
    before = state.entries
    changed = {key: entry for key, entry in entries.items() if not entry.message}
    written: dict[int, str] = {}
    for key, entry in changed.items():
        if known and entry.model.revision > state.revision:
            written.setdefault(entry.model.revision, key)
    by_others = set(written.values())
    highest = max([state.revision, state.metadata.revision, *(e.model.revision for e in changed.values())])
    numbers = _numbers(state.revision, highest, written)
    changes = [Change(next(numbers), key, None) for key in before if key not in entries]
    last = max([highest, *(change.revision for change in changes)])
    by_hand: list[str] = []
    for key, entry in changed.items():
        old = before.get(key)
        if old is not None and _says_the_same(entry, old):
            entries[key] = replace(
                entry, model=old.model, message=old.message, said=unsaid(entry.model, old.model)
            )
            continue
        is_numbered = key in by_others or (not known and entry.model.revision > 0)
        if is_numbered:
            revision = entry.model.revision
        else:
            last += 1
            revision = last
        if unsure or not is_numbered:
            by_hand.append(key)
        model = _stamped(entry, old, revision, None if is_numbered else moment)
        message = model.SerializeToString()
        entries[key] = replace(entry, model=model, message=message, said=unsaid(entry.model, model))
        changes.append(Change(revision, key, message))
    for key, related in _other_sides(before, entries, by_hand).items():
        last += 1
        entry = entries[key]
        model = Model()
        model.CopyFrom(entry.model)
        model.related_keys[:] = related
        rules.stamp(model, last, moment)
        message = model.SerializeToString()
        entries[key] = replace(entry, model=model, message=message, said=entry.said or bare(entry.model))
        changes.append(Change(last, key, message))
    names = {entry.name: key for key, entry in entries.items()}
    new = replace(state, entries=entries, names=names, paths=paths, relating=relating(entries), revision=last)
    return new, sorted(changes) if known else []


def _numbers(known: int, highest: int, taken: Mapping[int, str]) -> Iterator[int]:
    """Revisions above what was known that no record has: another process removed something in each."""
    number = known
    while True:
        number += 1
        if number > highest or number not in taken:
            yield number


def _says_the_same(entry: Entry, old: Entry) -> bool:
    """Whether only comments or the form differ, or what was stamped here is written now."""
    return entry.files == old.files and _plain(entry.model) in {
        _plain(old.said or old.model),
        _plain(old.model),
    }


def _plain(model: Model) -> bytes:
    """A record without what says nothing about it."""
    plain = bare(model)
    plain.ClearField("revision")
    return rules.canonical(plain)


def _other_sides(
    before: Mapping[str, Entry], entries: Mapping[str, Entry], by_hand: Sequence[str]
) -> dict[str, list[str]]:
    """The related keys of records that must follow what a person wrote: each of two names the other."""
    related: dict[str, set[str]] = {}

    def of(key: str) -> set[str]:
        return related.setdefault(key, set(entries[key].model.related_keys))

    naming: dict[str, list[str]] = {}
    for key, entry in entries.items():
        for other in entry.model.related_keys:
            naming.setdefault(other, []).append(key)
    for key in by_hand:
        was = set(before[key].model.related_keys) if key in before else set()
        now = set(entries[key].model.related_keys) - {key}
        for other in (was ^ now) & entries.keys():
            (of(other).add if other in now else of(other).discard)(key)
        if key not in before:
            of(key).update(naming.get(key, ()))
    for gone in before.keys() & naming.keys() - entries.keys():
        for key in naming[gone]:
            of(key).discard(gone)
    return {
        key: sorted(keys)
        for key, keys in sorted(related.items())
        if keys != set(entries[key].model.related_keys)
    }


def _stamped(entry: Entry, old: Entry | None, revision: int, moment: float | None) -> Model:
    """The record that an entry is; with a moment, one that a person has written."""
    model = Model()
    model.CopyFrom(entry.model)
    if moment is not None:
        now = to_timestamp(moment)
        if not model.HasField("create_time"):
            model.create_time.CopyFrom(old.model.create_time if old is not None else now)
        if old is not None and old.path != entry.path and old.model.missing_time == model.missing_time:
            model.ClearField("missing_time")
    rules.stamp(model, revision, moment)
    return model
