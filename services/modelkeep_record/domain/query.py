"""Which records a list or a watch is about. The same question is asked in SQL by the store."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.labels import have
from modelkeep_common.wire import to_micros

#: Longest text that is searched, in characters; what lies beyond in a record is not found.
MAX_SEARCH_CHARS = 65_536
#: Words that a search may have.
MAX_SEARCH_WORDS = 16


class Order(Enum):
    """Columns that a list is ordered by; the key makes each order total."""

    NAME = ("name", "key")
    TYPE = ("type", "base", "name", "format", "key")
    SIZE = ("size_bytes", "key")
    CREATE_TIME = ("create_time_us", "key")
    UPDATE_TIME = ("update_time_us", "key")
    PATH = ("path", "key")
    KEY = ("key",)

    @property
    def kinds(self) -> tuple[type[str | int | float], ...]:
        """The types of the columns' values."""
        return tuple(int if name in _NUMBERS else str for name in self.value)


_NUMBERS = frozenset({"type", "format", "size_bytes", "create_time_us", "update_time_us"})


class Bounds(NamedTuple):
    """The least and the greatest number that is meant; None: there is no such bound."""

    least: int | None = None
    most: int | None = None

    def hold(self, number: int) -> bool:
        """Whether the number lies between them."""
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)


NO_BOUNDS = Bounds()


@dataclass(frozen=True)
class Query:
    """Filters; what is empty does not restrict, and all others must hold."""

    name: str = ""
    #: One of these among the record's bases, or "any" among them.
    bases: frozenset[str] = frozenset()
    types: frozenset[int] = frozenset()
    formats: frozenset[int] = frozenset()
    #: All of these.
    tags: frozenset[str] = frozenset()
    #: All of these pairs.
    labels: tuple[tuple[str, str], ...] = ()
    paths: frozenset[str] = frozenset()
    root_id: str = ""
    #: Original or current hash; in the store also a digest of one of the files.
    hash: str = ""
    source: str = ""
    keys: frozenset[str] = frozenset()
    #: One of the related keys.
    related_to: str = ""
    #: Beginning of the key.
    key_prefix: str = ""
    #: The name, folded.
    name_folded: str = ""
    #: Whether the files are gone; None: either.
    missing: bool | None = None
    #: From the first to the last; None: no bound.
    size_bytes: Bounds = NO_BOUNDS
    #: Microseconds since 1970.
    create_time_us: Bounds = NO_BOUNDS
    update_time_us: Bounds = NO_BOUNDS
    #: Paths of files, of which the record lists one. Only the store looks at it.
    files: frozenset[str] = frozenset()
    #: All of these words, folded, somewhere in :func:`search_text`.
    words: tuple[str, ...] = ()

    @property
    def restricts(self) -> bool:
        """Whether any filter is set."""
        return self != Query()

    @property
    def effective_bases(self) -> frozenset[str]:
        """The bases whose records match: "any" fits every question for a base."""
        return self.bases | {"any"} if self.bases else self.bases

    def matches(self, model: Model) -> bool:
        """Whether a record is among those asked for; of its files' digests nothing is known here."""
        return (
            (not self.name or model.name == self.name)
            and (not self.bases or not self.effective_bases.isdisjoint((model.base, *model.compatible_bases)))
            and (not self.types or model.type in self.types)
            and (not self.formats or model.format in self.formats)
            and self.tags.issubset(model.tags)
            and have(model.labels, dict(self.labels))
            and self._path_matches(model)
            and (not self.hash or self.hash in (model.original_hash, model.current_hash))
            and (not self.source or model.source == self.source)
            and (not self.keys or model.key in self.keys)
            and (not self.related_to or self.related_to in model.related_keys)
            and model.key.startswith(self.key_prefix)
            and (not self.name_folded or folded(model.name) == self.name_folded)
            and self.missing in (None, model.HasField("missing_time"))
            and self.size_bytes.hold(model.size_bytes)
            and self.create_time_us.hold(to_micros(model.create_time))
            and self.update_time_us.hold(to_micros(model.update_time))
            and self._words_match(model)
        )

    def _path_matches(self, model: Model) -> bool:
        if not self.paths:
            return not self.root_id or bool(self.files) or model.root_id == self.root_id
        return model.path in self.paths and (not self.root_id or model.root_id in ("", self.root_id))

    def _words_match(self, model: Model) -> bool:
        if not self.words:
            return True
        text = _texts.of(model)
        return all(word in text for word in self.words)


def split_words(text: str) -> tuple[str, ...]:
    """The words of a search, folded so that case does not matter; the longest, which say most, first.

    Raises:
        FieldInvalidException: There are too many.
    """
    words = sorted(dict.fromkeys(folded(text).split()), key=len, reverse=True)
    if len(words) > MAX_SEARCH_WORDS:
        raise FieldInvalidException(
            "The search has too many words.",
            violations=[FieldViolation("filter.text", f"has more than {MAX_SEARCH_WORDS} words")],
        )
    return tuple(words)


def search_text(model: Model) -> str:
    """What free text is searched in, folded."""
    parts = (
        model.name,
        *model.tags,
        *model.trigger_phrases,
        model.source,
        model.path,
        model.description,
    )
    text = "\n".join(part for part in parts if part)[:MAX_SEARCH_CHARS]
    return folded(text)


class _Texts:
    """The search text of the latest records, since each of many watches asks for it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[tuple[str, int, str], str] = {}

    def of(self, model: Model) -> str:
        """:func:`search_text` of a stored record, which key, revision and etag name in all stores."""
        name = (model.key, model.revision, model.etag)
        text = self._kept.get(name)
        if text is None:
            text = search_text(model)
            if len(self._kept) >= self._size:
                self._kept.clear()
            self._kept[name] = text
        return text


_texts = _Texts(16)


def folded(text: str) -> str:
    """A text without regard to case."""
    # SQLite's full-text index ends a text at a NUL.
    return text.casefold().replace("\0", " ")
