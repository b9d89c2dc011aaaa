"""modelkeep_common.idempotency: once per request id, whatever the client does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from modelkeep.exceptions import RequestIdReusedException
from modelkeep.record.v1 import record_service_pb2 as record
from modelkeep_common.idempotency import KEEP_SECONDS, fingerprint, replay_or_run
from modelkeep_common.sqlite import Connection
from modelkeep_common.sqlite.migrations import migrate


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Connection]:
    connection = sqlite3.connect(tmp_path / "t.db", isolation_level=None, factory=Connection)
    migrate(connection, tmp_path / "t.db", [], "test")
    yield connection
    connection.close()


class Work:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> bytes:
        self.times += 1
        return f"result {self.times}".encode()


def ask(
    conn: Connection,
    work: Work,
    request_id: str = "id-1",
    body: bytes = b"body",
    *,
    method: str = "m",
    principal: str = "p",
    now: float = 1000.0,
) -> tuple[bytes, bool]:
    return replay_or_run(conn, request_id, body, work, method=method, principal=principal, now=now)


def test_the_second_time_the_first_answer_comes_back(conn: Connection) -> None:
    work = Work()
    assert ask(conn, work) == (b"result 1", False)
    assert ask(conn, work) == (b"result 1", True)
    assert work.times == 1


def test_another_body_under_the_same_id_is_refused_and_runs_nothing(conn: Connection) -> None:
    work = Work()
    ask(conn, work)
    with pytest.raises(RequestIdReusedException) as caught:
        ask(conn, work, body=b"other")
    assert caught.value.metadata == {"request_id": "id-1"}
    assert work.times == 1


def test_ids_are_per_caller_and_method(conn: Connection) -> None:
    work = Work()
    ask(conn, work)
    ask(conn, work, method="m2", body=b"other")
    ask(conn, work, principal="p2", body=b"other")
    assert work.times == 3


def test_without_an_id_every_request_runs(conn: Connection) -> None:
    work = Work()
    assert [ask(conn, work, "")[1], ask(conn, work, "")[1]] == [False, False]
    assert work.times == 2


def test_an_answer_is_kept_for_a_day(conn: Connection) -> None:
    work = Work()
    ask(conn, work)
    assert ask(conn, work, now=1000 + KEEP_SECONDS - 1)[1] is True
    assert ask(conn, work, now=1000 + KEEP_SECONDS + 1) == (b"result 2", False)
    assert conn.execute("SELECT count(*) FROM requests").fetchone()[0] == 1


def test_a_failed_request_leaves_nothing_and_may_be_tried_again(conn: Connection) -> None:
    def fail() -> bytes:
        raise RuntimeError

    conn.execute("BEGIN IMMEDIATE")
    with pytest.raises(RuntimeError):
        replay_or_run(conn, "id-1", b"body", fail, method="m", principal="p")
    conn.execute("ROLLBACK")
    assert ask(conn, Work()) == (b"result 1", False)


def test_outside_of_a_call_the_key_has_no_caller_or_method(conn: Connection) -> None:
    assert replay_or_run(conn, "id-1", b"body", Work()) == (b"result 1", False)
    assert replay_or_run(conn, "id-1", b"body", Work()) == (b"result 1", True)


def test_a_fingerprint_is_of_the_values_not_of_the_bytes() -> None:
    one, two = Struct(), Struct()
    one.update({"a": 1, "b": [True, None, {"c": "d"}]})
    two.update({"b": [True, None, {"c": "d"}], "a": 1})
    assert fingerprint(one) == fingerprint(two)
    two["a"] = 2
    assert fingerprint(one) != fingerprint(two)


def test_a_fingerprint_tells_neighbouring_fields_and_types_apart() -> None:
    variants = [
        record.GetModelRequest(key="a"),
        record.GetModelRequest(),
        FieldMask(paths=["a", "b"]),
        FieldMask(paths=["ab"]),
        FieldMask(paths=["b", "a"]),
        FieldMask(),
        Timestamp(seconds=1),
        Timestamp(nanos=1),
        Timestamp(seconds=-1),
    ]
    assert len({fingerprint(message) for message in variants}) == len(variants)


def test_secrets_and_the_id_itself_do_not_count() -> None:
    from modelkeep.download.v1 import download_service_pb2 as download

    def request(**fields: str) -> bytes:
        return fingerprint(download.CreateDownloadRequest(**fields))  # type: ignore[arg-type]  # by name

    names = download.CreateDownloadRequest.DESCRIPTOR.fields_by_name
    assert request(request_id="a") == request(request_id="b")
    if "access_token" in names:
        assert request(access_token="a") == request(access_token="b") == request()


def test_fields_that_this_release_does_not_know_count() -> None:
    unknown = Timestamp(seconds=1).SerializeToString() + b"\xfa\x01\x03abc"
    other = Timestamp(seconds=1).SerializeToString() + b"\xfa\x01\x03abd"
    prints = {fingerprint(Timestamp.FromString(data)) for data in (unknown, other, b"\x08\x01")}
    assert len(prints) == 3
