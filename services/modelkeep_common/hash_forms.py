"""A hash as people paste it: which of the usual forms it is, and the SHA-256 that it means. Pure."""

from __future__ import annotations

import re

from modelkeep.exceptions import FieldInvalidException, FieldViolation

#: Number of hexadecimal characters → what has so many.
_OTHERS = {
    8: "like AutoV1 or CRC32",
    10: "like AutoV2, the first ten characters of a SHA-256",
    12: "like AutoV3, which is of the tensors alone",
    32: "like MD5",
    40: "like SHA-1, which Git uses",
    128: "like SHA-512",
}


def sha256_of(text: str, field: str = "expected_sha256") -> str:
    """The SHA-256 that a text means, as 64 lowercase hexadecimal characters; empty stays empty.

    Taken in upper case, with `sha256:` or `sha256-` in front, with blanks, colons or dashes between, and as
    `sha256sum` prints it, with the name of the file behind.

    Raises:
        FieldInvalidException: It is another hash, or none; says which.
    """
    plain = text.strip().lower()
    plain = re.sub(r"^(?:sha-?256|oid sha256)\s*[:=-]\s*", "", plain)
    plain = re.sub(r"^([0-9a-f]{64})\s+\*?\S.*$", r"\1", plain, flags=re.DOTALL)
    digits = re.sub(r"[\s:_-]", "", plain)
    if not digits or re.fullmatch("[0-9a-f]{64}", digits):
        return digits
    raise FieldInvalidException(
        "the expected hash cannot be used", violations=[FieldViolation(field, _wrong(plain, digits))]
    )


def _wrong(plain: str, digits: str) -> str:
    wanted = "a SHA-256 has 64 hexadecimal characters"
    named = re.match(r"([a-z][a-z0-9]*-?\d*)\s*[:=]", plain)
    if named is not None:
        return f"{wanted}; this one is marked as {named[1]}"
    if re.fullmatch("[0-9a-f]+", digits):
        return (
            f"{wanted}; this has {len(digits)}{f', {_OTHERS[len(digits)]}' if len(digits) in _OTHERS else ''}"
        )
    return f"{wanted} and nothing else"
