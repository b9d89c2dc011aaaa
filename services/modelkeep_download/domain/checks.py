"""What a request says of its source besides the address: checked values, and the error for bad ones."""

from __future__ import annotations

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
