"""A mutation that is asked for twice with one ``request_id`` happens once.

The answer is stored in the transaction of the mutation, for 24 hours, per caller and method. All kept
answers together are bounded by bytes: beyond that the oldest of the caller who has most are forgotten. What
counts as the same request is decided by the fields' values, never by serialised bytes, which are not
canonical, and without the secrets, which are not stored even as a hash.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable, Collection
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from modelkeep.exceptions import RequestIdReusedException

from .calls.call import current_call
from .sqlite.connections import Connection

#: Seconds for which an answer is kept.
KEEP_SECONDS = 24 * 3600.0
#: So many old answers are forgotten at every eighth request.
_CLEAN_EVERY, _CLEAN_ROWS = 8, 160
#: What a row takes besides its answer.
_ROW_BYTES = 256
#: The part of the allowed bytes that may be added before the answers are measured again.
_MEASURE_AFTER = 1 / 16


def replay_or_run(
    conn: Connection,
    request_id: str,
    fingerprint: bytes,
    run: Callable[[], bytes],
    *,
    method: str | None = None,
    principal: str | None = None,
    now: float | None = None,
) -> tuple[bytes, bool]:
    """Run a mutation once per ``request_id``; inside its write transaction.

    Args:
        conn: The connection of the write transaction.
        request_id: The caller's id for this request; "" always runs.
        fingerprint: What :func:`fingerprint` says of the request.
        run: Does the work in this transaction and returns the serialised response.
        method: Full method name; by default that of the call under way.
        principal: The caller; by default the call's.
        now: Seconds since 1970, for tests.

    Returns:
        The serialised response, and True if it is that of an earlier request.

    Raises:
        RequestIdReusedException: The id was used for a request with another body.
    """
    if not request_id:
        return run(), False
    call = current_call()
    key = (
        principal if principal is not None else call.principal.name,
        method if method is not None else call.method,
        request_id,
    )
    clock = time.time() if now is None else now
    # A little now and then keeps the table small without ever taking long.
    if conn.books.requests % _CLEAN_EVERY == 0:
        conn.execute(
            "DELETE FROM requests WHERE (principal, method, request_id) IN "
            "(SELECT principal, method, request_id FROM requests WHERE create_time < ? LIMIT ?)",
            (clock - KEEP_SECONDS, _CLEAN_ROWS),
        )
    conn.books.requests += 1
    row = conn.execute(
        "SELECT fingerprint, response, create_time FROM requests "
        "WHERE principal = ? AND method = ? AND request_id = ?",
        key,
    ).fetchone()
    if row is not None and row[2] >= clock - KEEP_SECONDS:
        if row[0] != fingerprint:
            raise request_id_reused(request_id)
        return bytes(row[1]), True
    response = run()
    conn.execute(
        "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?)", (*key, fingerprint, response, clock)
    )
    _bound(conn, len(response) + _ROW_BYTES, clock)
    return response, False


def request_id_reused(request_id: str) -> RequestIdReusedException:
    """The error for an id that was used for a request with another body."""
    return RequestIdReusedException(
        f"request_id {request_id} was used for a request with another body: use a new one.",
        metadata={"request_id": request_id},
    )


def _bound(conn: Connection, added: int, now: float) -> None:
    """Forget answers while there are more bytes than may be. Those of this very moment stay."""
    conn.books.answers_added += added
    if conn.books.answers_added <= conn.books.limits.answers_bytes * _MEASURE_AFTER:
        return
    conn.books.answers_added = 0
    sizes: dict[str, int] = dict(
        conn.execute(
            "SELECT principal, sum(length(response) + ?) FROM requests GROUP BY principal", (_ROW_BYTES,)
        )
    )
    # A part more than need be, so that the next answer does not measure again.
    excess = sum(sizes.values()) - int(conn.books.limits.answers_bytes * (1 - _MEASURE_AFTER))
    while excess > 0 and sizes:
        principal = max(sizes, key=lambda name: sizes[name])
        others = max((size for name, size in sizes.items() if name != principal), default=0)
        freed = _forget(conn, principal, min(excess, max(sizes[principal] - others, 1)), now)
        excess -= freed
        sizes[principal] -= freed
        if not freed:
            del sizes[principal]


def _forget(conn: Connection, principal: str, wanted: int, now: float) -> int:
    """Forget a caller's oldest answers, of about so many bytes; answers with how many they had."""
    rows: list[tuple[str, str]] = []
    freed = 0
    for method, request_id, size in conn.execute(
        "SELECT method, request_id, length(response) + ? FROM requests "
        "WHERE principal = ? AND create_time < ? ORDER BY create_time",
        (_ROW_BYTES, principal, now),
    ):
        if freed >= wanted:
            break
        rows.append((method, request_id))
        freed += size
    conn.executemany(
        "DELETE FROM requests WHERE principal = ? AND method = ? AND request_id = ?",
        [(principal, *row) for row in rows],
    )
    return freed


def fingerprint(message: Message, *, without: Collection[str] = ("request_id", "access_token")) -> bytes:
    """A hash of a message's canonical content.

    Fields are taken by number, maps by key, unset fields not at all; fields named in ``without`` are
    left out at every depth. Fields unknown to this release count too.

    Returns:
        32 bytes.
    """
    digest = hashlib.sha256(message.DESCRIPTOR.full_name.encode())
    _feed(digest, message, frozenset(without))
    return digest.digest()


def _feed(digest: Any, message: Message, without: frozenset[str]) -> None:
    digest.update(b"{")
    for field, value in sorted(message.ListFields(), key=lambda pair: pair[0].number):
        if field.name in without:
            continue
        digest.update(struct.pack("<I", field.number))
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = field.message_type.fields_by_name["value"]
            digest.update(b"m")
            for key in sorted(value):
                _feed_scalar(digest, key)
                _feed_value(digest, values, value[key], without)
        elif field.is_repeated:
            digest.update(b"r")
            for item in value:
                _feed_value(digest, field, item, without)
        else:
            digest.update(b"s")
            _feed_value(digest, field, value, without)
        digest.update(b";")
    _feed_unknown(digest, UnknownFieldSet(message))
    digest.update(b"}")


def _feed_unknown(digest: Any, fields: Any) -> None:
    for field in sorted(fields, key=lambda unknown: unknown.field_number):
        digest.update(b"u" + struct.pack("<I", field.field_number))
        if isinstance(field.data, UnknownFieldSet):
            _feed_unknown(digest, field.data)
        else:
            _feed_scalar(digest, field.data)


def _feed_value(digest: Any, field: FieldDescriptor, value: Any, without: frozenset[str]) -> None:
    if field.message_type is not None:
        _feed(digest, value, without)
    else:
        _feed_scalar(digest, value)


def _feed_scalar(digest: Any, value: Any) -> None:
    kind = type(value).__name__.encode()
    if isinstance(value, bool):
        data = b"1" if value else b"0"
    elif isinstance(value, float):
        # 0.0 and -0.0 differ on the wire as well: keep them apart.
        data = struct.pack("<d", value)
    elif isinstance(value, bytes):
        data = value
    else:
        data = str(value).encode()
    digest.update(kind + struct.pack("<Q", len(data)) + data)
