"""What pydantic says of bad values, in the words in which services say it: "size_bytes must be …"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from modelkeep.exceptions import FieldViolation

#: Type of a problem → what is wrong; for others pydantic's own sentence, as it goes on after a name.
_WORDS: Final[Mapping[str, str]] = {
    "missing": "must be set",
    "path_type": "must be a path",
    "extra_forbidden": "is no field of this",
}
_SUBJECT: Final = re.compile(r"^(Input|Value|String|List|Dictionary|URL|Number|Datetime|Date) should ")


def violations_of(error: ValidationError, *, skip: int = 0) -> list[FieldViolation]:
    """The bad fields of an error.

    Args:
        error: Pydantic's.
        skip: How many first parts of each location are no field, as the tag of a union.
    """
    return [
        FieldViolation(".".join(str(part) for part in item["loc"][skip:]), _in_words(item))
        for item in error.errors(include_url=False)
    ]


def _in_words(item: Any) -> str:
    if said := _WORDS.get(item["type"]):
        return said
    text = str(item["msg"]).removeprefix("Value error, ")
    return _SUBJECT.sub("must ", text)
