"""modelkeep_common.paging: sizes, and tokens that belong to one query."""

from __future__ import annotations

import base64
import json

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1.download_service_pb2 import ListDownloadsRequest
from modelkeep.exceptions import FieldInvalidException, PageTokenMismatchException
from modelkeep_common import paging, tokens
from modelkeep_common.paging import AskedPage, Key, clamp_page_size, decode_page_token, encode_page_token

KEYS = st.one_of(
    st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
POSITIONS = st.lists(KEYS, min_size=1, max_size=4)


def kinds(position: list[Key]) -> list[type[Key]]:
    return [type(key) for key in position]


@pytest.mark.parametrize(
    ("asked", "given_"), [(0, 50), (1, 1), (999, 999), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)]
)
def test_a_page_size_is_defaulted_and_capped(asked: int, given_: int) -> None:
    assert clamp_page_size(asked) == given_


def test_a_negative_page_size_is_a_bad_field() -> None:
    with pytest.raises(FieldInvalidException) as caught:
        clamp_page_size(-1)
    assert caught.value.violations[0].field == "page_size"


@given(POSITIONS, st.binary(max_size=40))
def test_a_token_gives_back_its_position_to_its_own_query(position: list[Key], query: bytes) -> None:
    assert decode_page_token(encode_page_token(position, query), query, kinds(position)) == position


@given(POSITIONS, st.binary(max_size=40), st.binary(max_size=40))
def test_a_token_of_another_query_is_refused(position: list[Key], query: bytes, other: bytes) -> None:
    token = encode_page_token(position, query)
    if query == other:
        return
    with pytest.raises(PageTokenMismatchException):
        decode_page_token(token, other, kinds(position))


@given(POSITIONS, POSITIONS, st.binary(max_size=40))
def test_a_token_whose_position_was_changed_is_refused(
    position: list[Key], other: list[Key], query: bytes
) -> None:
    def fields(token: str) -> list[object]:
        found: list[object] = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return found

    digest = fields(encode_page_token(position, query))[0]
    changed = tokens.encode([str(digest), *other])
    if json.dumps(position) == json.dumps(other):
        return
    with pytest.raises(PageTokenMismatchException):
        decode_page_token(changed, query, kinds(other))


@given(st.text(min_size=1))
def test_no_text_is_taken_for_a_token_or_breaks_the_parser(text: str) -> None:
    with pytest.raises(PageTokenMismatchException):
        decode_page_token(text, b"q", (str,))


@given(st.recursive(KEYS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_no_json_is_taken_for_a_token(value: object) -> None:
    token = base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
    with pytest.raises(PageTokenMismatchException):
        decode_page_token(token, b"q", (str,))


def test_deep_nesting_is_refused_like_any_other_text() -> None:
    token = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    with pytest.raises(PageTokenMismatchException):
        decode_page_token(token, b"q", (str,))


def test_no_token_is_the_first_page() -> None:
    assert decode_page_token("", b"q", (str,)) == []


@given(POSITIONS, POSITIONS, st.binary(max_size=40))
def test_a_position_of_other_kinds_is_refused_though_its_digest_is_right(
    position: list[Key], other: list[Key], query: bytes
) -> None:
    if kinds(position) == kinds(other):
        return
    with pytest.raises(PageTokenMismatchException):
        decode_page_token(encode_page_token(position, query), query, kinds(other))


def test_an_answer_holds_as_many_messages_as_fit_and_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [BytesValue(value=b"x" * 98) for _ in range(5)]  # 100 bytes each
    assert paging.fitting(iter(messages)) == messages
    assert paging.fitting(iter(messages), 2) == messages[:2]
    for room, fit in ((350, 3), (300, 3), (299, 2), (10, 1)):
        monkeypatch.setattr(paging, "MAX_PAGE_BYTES", room)
        assert paging.fitting(iter(messages)) == messages[:fit]
    assert paging.fitting(iter(messages[:0])) == []


def read_by_pages(request: ListDownloadsRequest, ids: range, payload: str) -> list[list[int]]:
    """The numbers on each page, as a service answers them."""
    pages: list[list[int]] = []
    while True:
        asked = AskedPage(request, int)
        rows = [number for number in ids if number > (asked.after or 0)][: asked.limit]
        page, request.page_token = asked.of(
            rows, lambda number: download_pb2.Download(id=number, path=payload), lambda message: message.id
        )
        pages.append([message.id for message in page])
        if not request.page_token:
            return pages


def test_a_list_is_read_page_by_page_and_the_last_page_names_no_other() -> None:
    assert read_by_pages(ListDownloadsRequest(page_size=3), range(1, 8), "") == [[1, 2, 3], [4, 5, 6], [7]]
    assert read_by_pages(ListDownloadsRequest(page_size=3), range(1, 7), "") == [[1, 2, 3], [4, 5, 6]]
    assert read_by_pages(ListDownloadsRequest(), range(0), "") == [[]]


def test_a_page_ends_where_an_answer_is_full_and_the_next_goes_on_there() -> None:
    large = "x" * (paging.MAX_PAGE_BYTES * 2 // 5)
    assert read_by_pages(ListDownloadsRequest(page_size=5), range(1, 6), large) == [[1, 2], [3, 4], [5]]


def test_a_page_of_another_query_or_of_no_size_is_refused() -> None:
    first = AskedPage(ListDownloadsRequest(page_size=1, queue="a"), int)
    _, token = first.of([1, 2], lambda number: download_pb2.Download(id=number), lambda message: message.id)
    assert AskedPage(ListDownloadsRequest(page_size=9, queue="a", page_token=token), int).after == 1
    with pytest.raises(PageTokenMismatchException):
        AskedPage(ListDownloadsRequest(queue="b", page_token=token), int)
    with pytest.raises(FieldInvalidException):
        AskedPage(ListDownloadsRequest(page_size=-1), int)
