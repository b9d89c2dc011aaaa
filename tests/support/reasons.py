"""What the comments of error_reason.proto promise of each reason."""

from __future__ import annotations

import re

from . import apidescriptors


def comments() -> dict[str, str]:
    """Reason → the comment of its value, as one line."""
    (file,) = [f for f in apidescriptors.descriptor_set().file if f.package == "modelkeep.errors.v1"]
    found = {}
    for location in file.source_code_info.location:
        if len(location.path) == 4 and tuple(location.path[:3]) == (5, 0, 2):
            name = file.enum_type[0].value[location.path[3]].name.removeprefix("ERROR_REASON_")
            found[name] = " ".join(location.leading_comments.split())
    return found


def declared(comment: str) -> set[str]:
    """The keys after "Metadata:"; what stands in brackets are notes."""
    text = re.sub(r"\([^)]*\)", "", comment.partition("Metadata:")[2])
    return set(re.findall(r"[a-z_]+", text)) - {"none", "or", "and"}


def promised(comment: str) -> set[str]:
    """The keys that are always there: those before a semicolon; none where one of several is."""
    always = re.sub(r"\([^)]*\)", "", comment.partition("Metadata:")[2]).partition(";")[0]
    return set() if " or " in always else declared(f"Metadata:{always}")
