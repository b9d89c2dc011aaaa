"""What a rule of selection picks, and the errors for what it cannot decide. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from modelkeep.exceptions import AmbiguousSourceException, UnknownVariantException
from modelkeep_download.resolve.listing import Entry, counted
from modelkeep_download.resolve.plans import Choice

#: Bytes of an error's text about choices: it travels in a header.
_MAX_TEXT: Final = 2000


@dataclass
class Pick:
    """The files of a model that is a folder."""

    files: list[Entry]
    variant: str = ""
    reasons: list[str] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    #: Whether a program could belong to the model.
    may_have: Callable[[Entry], bool] = lambda entry: True
    #: Whether a file is another form of what was picked.
    covers: Callable[[Entry], bool] = lambda entry: False


def check_variant(asked: str, there: Sequence[Choice], source: str) -> None:
    """Refuse a variant that a model does not have.

    Raises:
        UnknownVariantException: Always.
    """
    names = sorted(choice.value for choice in there)
    available = _cut(names)
    raise UnknownVariantException(
        f"{source} has no variant {asked}.",
        metadata={"source": source, "variant": asked, "available": available},
        remedy=f"Take one of these: {available}; or none, for full precision." if names else "",
    )


def ambiguous(source: str, choices: Sequence[Choice]) -> AmbiguousSourceException:
    """The error for a source that holds several models, or one in several variants."""
    by_variant = all(choice.kind == "variant" for choice in choices)
    told = _cut(
        [
            f"{choice.value if by_variant else choice.source} ({_size(choice.size)})"
            if choice.size is not None
            else choice.source
            for choice in choices
        ]
    )
    what = "variants of one model" if by_variant else "models"
    example = choices[0].value if by_variant else choices[0].source
    return AmbiguousSourceException(
        f"{source} holds {len(choices):,} {what}, and none of them stands out.",
        metadata={"source": source, "choices": told},
        remedy=f"Name {'the variant' if by_variant else 'one of them as the source'}, such as {example}.",
    )


def _cut(texts: Sequence[str]) -> str:
    shown: list[str] = []
    for text in texts:
        if sum(map(len, shown)) + len(text) > _MAX_TEXT:
            return f"{'; '.join(shown)}; and {counted(len(texts) - len(shown), 'other')}"
        shown.append(text)
    return "; ".join(shown)


def _size(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
