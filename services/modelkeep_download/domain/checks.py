"""What a request says of its source besides the address: checked values, and the error for bad ones."""

from __future__ import annotations

import re

from modelkeep.exceptions import FieldInvalidException, FieldViolation


def bad_source(description: str, field: str = "source") -> FieldInvalidException:
    """The error for a source that is malformed; `description` must not repeat the URL's secrets."""
    return FieldInvalidException(
        f"the source cannot be used: {description}", violations=[FieldViolation(field, description)]
    )


def check_token(token: str) -> None:
    """Make sure that a token can stand in a header; empty is none.

    Raises:
        FieldInvalidException: It has blanks, line ends, or characters that are not ASCII.
    """
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise FieldInvalidException(
            "the access token cannot be used",
            violations=[FieldViolation("access_token", "has blanks, line ends or characters beyond ASCII")],
        )


def check_sha256(text: str) -> str:
    """The expected hash in lower case; "sha256:" in front is allowed. Empty stays empty.

    Raises:
        FieldInvalidException: Not 64 hexadecimal digits.
    """
    digest = text.strip().lower().removeprefix("sha256:")
    if digest and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise FieldInvalidException(
            "the expected hash cannot be used",
            violations=[FieldViolation("expected_sha256", "a SHA-256 has 64 hexadecimal digits")],
        )
    return digest
