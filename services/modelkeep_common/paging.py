"""Keyset pages: a token says after which row to go on, and for which query.

Tokens are opaque but not secret: whoever makes one up gets a page that a plain query could have had.
They carry a digest of query and position, so that a damaged one, or one of another query, is refused,
and are read strictly (tokens.py), so that a made-up position is at least of the order's kinds.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import Message

from modelkeep.exceptions import FieldInvalidException, FieldViolation, PageTokenMismatchException

from . import tokens
from .idempotency import fingerprint

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
#: A page is cut here as well, well under the 4 MiB that clients receive by default.
MAX_PAGE_BYTES = 2 << 20

Key = str | int | float
K = TypeVar("K", str, int)
M = TypeVar("M", bound=Message)
R = TypeVar("R")


def clamp_page_size(page_size: int) -> int:
    """The number of rows to answer with: 0 is 50, more than 1000 is 1000.

    Raises:
        FieldInvalidException: It is negative.
    """
    if page_size < 0:
        raise FieldInvalidException(
            "",
            violations=[FieldViolation("page_size", "must be 0 (the default of 50) or more")],
        )
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def fitting(messages: Iterable[M], most: int = MAX_PAGE_SIZE) -> list[M]:
    """The first of the messages, at least one, as many as an answer holds by number and by bytes."""
    page: list[M] = []
    room = MAX_PAGE_BYTES
    for message in itertools.islice(messages, most):
        room -= message.ByteSize()
        if room < 0 and page:
            break
        page.append(message)
    return page


class AskedPage(Generic[K]):
    """The page that a request asks for, of a list in the order of one column.

    Args:
        request: Its ``page_token`` and ``page_size`` are read; all else identifies the query.
        kind: Of the column's values.

    Attributes:
        after: The last value of the page before; None on the first page.
        limit: Rows to read: one more than the page may have, which tells whether another follows.

    Raises:
        PageTokenMismatchException: The token is of another query, or none.
        FieldInvalidException: The size is negative.
    """

    def __init__(self, request: Any, kind: type[K]) -> None:
        self._mark = fingerprint(request, without=("page_token", "page_size"))
        position = decode_page_token(request.page_token, self._mark, (kind,))
        self.after: K | None = cast(K, position[0]) if position else None
        self.limit = clamp_page_size(request.page_size) + 1

    def of(
        self, rows: Sequence[R], message: Callable[[R], M], value: Callable[[M], K]
    ) -> tuple[list[M], str]:
        """The messages of the page, and the token of the next one, or "".

        Args:
            rows: From behind ``after`` on; ``limit`` of them are enough.
            message: Of a row.
            value: The column's, of a message.
        """
        page = fitting(map(message, rows), self.limit - 1)
        more = encode_page_token([value(page[-1])], self._mark) if len(rows) > len(page) else ""
        return page, more


def encode_page_token(position: Sequence[Key], query_fingerprint: bytes) -> str:
    """The token of the page after ``position``.

    Args:
        position: The sort key of the last row of this page, as many values as the order has columns.
        query_fingerprint: What identifies the query; every argument but the page's own.
    """
    return tokens.encode([_digest(query_fingerprint, position), *position])


def decode_page_token(token: str, query_fingerprint: bytes, kinds: Sequence[type[Key]]) -> list[Key]:
    """The position in ``token``; an empty token gives an empty list, the first page.

    Args:
        token: What the client sent.
        query_fingerprint: As for :func:`encode_page_token`.
        kinds: The types of the position's values, in order.

    Raises:
        PageTokenMismatchException: It belongs to another query, or is no page token.
    """
    if not token:
        return []
    fields = tokens.decode(token)
    if (
        fields is None
        or not tokens.is_of(fields, [str, *kinds])
        or fields[0] != _digest(query_fingerprint, fields[1:])
    ):
        raise PageTokenMismatchException(
            "",
            violations=[
                FieldViolation(
                    "page_token",
                    "must be one of this query: repeat the arguments that it was given for, or start without",
                )
            ],
        )
    return fields[1:]


def _digest(query_fingerprint: bytes, position: Sequence[Key]) -> str:
    text = json.dumps(position, separators=(",", ":")).encode()
    return base64.b64encode(hashlib.blake2b(query_fingerprint + text, digest_size=9).digest()).decode()
