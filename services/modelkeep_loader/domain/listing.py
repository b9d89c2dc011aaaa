"""What a record says of its model's files: which there are, and what it claims of their contents.

The list is what may be lent: a file that came into a model's folder by another way is not the model's.
Digests in it are *claims*. A file that is not what its record claims is refused; no claim ever makes two
files one, for whoever writes a record can write down another file's digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from modelkeep.exceptions import ChecksumMismatchException, InvalidModelException
from modelkeep_common.wire import clamped_time
from modelkeep_loader.domain.records import FileFacts

#: File systems keep times more coarsely than they first tell them.
_SAME_TIME_S = 0.01


@dataclass(frozen=True, slots=True)
class Listing:
    """The files that belong to a model.

    Attributes:
        model: Name of the model, for messages.
        files: By path relative to the model's folder, or by the name of its single file; None: the record
            has no list, and whatever the folder holds is the model's.
        below: What stands before the names that are asked for: "vae/" for a folder inside the model's.
    """

    model: str
    files: Mapping[str, FileFacts] | None
    below: str = ""

    def inside(self, folder: str) -> Listing:
        """The part of it for a folder inside the model's; names are relative to that one."""
        return replace(self, below=f"{self.below}{folder}/")

    def has(self, name: str) -> bool:
        """Whether a file belongs to the model."""
        return self.files is None or self.below + name in self.files

    def claim(self, name: str, status: os.stat_result) -> FileFacts | None:
        """What the record claims of a file, if it says something about the file as it is now.

        One that was changed since is another file: of another size, or of another time where the record
        has one. Whoever keeps his models in place may change them.
        """
        facts = (self.files or {}).get(self.below + name)
        if facts is None or not facts.digest or facts.size_bytes != status.st_size:
            return None
        if facts.modify_time is None:
            return facts
        is_same_time = abs(facts.modify_time - clamped_time(status.st_mtime)) <= _SAME_TIME_S
        return facts if is_same_time else None

    def require(self, name: str, path: Path) -> None:
        """Refuse a file that does not belong to the model.

        Raises:
            InvalidModelException: The record does not list it.
        """
        if not self.has(name):
            raise InvalidModelException(
                f"{name} lies in the folder of {self.model!r} and is not among the files that its record "
                "lists, so it is not lent.",
                metadata={"path": str(path), "detail": f"not in the record: {name}"},
                remedy="Install the model anew, or take the file away.",
            )

    def check(self, name: str, path: Path, descriptor: int) -> None:
        """Compare an open file, which is small, with what the record claims of it.

        Raises:
            ChecksumMismatchException: It is another one.
        """
        status = os.fstat(descriptor)
        if (facts := self.claim(name, status)) is not None:
            data = os.pread(descriptor, status.st_size, 0)
            plain = blake3(data) if facts.digest.startswith("blake3:") else hashlib.sha256(data)
            refuse_other(facts, plain.hexdigest(), path, self.model)


def refuse_other(facts: FileFacts, actual: str, path: Path, model: str) -> None:
    """Compare a digest with the one that a record claims.

    Args:
        facts: The claim.
        actual: Of the file, in hexadecimal, by the function that the claim names.
        path: The file.
        model: Name of the model.

    Raises:
        ChecksumMismatchException: They differ.
    """
    function, _, claimed = facts.digest.partition(":")
    if actual != claimed:
        said = {"expected": facts.digest, "actual": f"{function}:{actual}"}
        raise ChecksumMismatchException(
            f"{path.name} is not the file that the record of {model!r} says it is: its {function} is "
            f"{actual}, the record has {claimed}.",
            metadata={"path": str(path), **said},
            remedy="Put back the file that was installed, or uninstall the model and install it anew.",
        )
