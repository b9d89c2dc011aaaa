"""Who fetches an object that several transfers want: the registry, and copies made from it on threads."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from modelkeep_common.copies import copy_at
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine.answers import Answer
from modelkeep_download.engine.blobs import Blobs, Key, Seat, key_of
from modelkeep_download.engine.copying import Copying, TakeOver
from modelkeep_download.engine.http1 import AnswerHead, Body, Headers
from modelkeep_download.engine.lanes import Course
from modelkeep_download.engine.limits import JobBandwidth
from modelkeep_download.engine.pieces import Pieces
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.syncer import Syncer
from modelkeep_download.engine.transfer import Credentials, Head, Partial
from modelkeep_download.engine.transport import Limits, Response
from support.httpserver import pattern

MIB = 1 << 20
BODY = pattern(4 * MIB)
SHA256 = hashlib.sha256(BODY).hexdigest()
KEY: Key = ("sha256", SHA256, len(BODY))


class _Nothing:
    """A stream that has nothing."""

    def readline(self, limit: int = -1, /) -> bytes:
        return b""

    def readinto1(self, buffer: memoryview, /) -> int:
        return 0

    def expect(self, seconds: float) -> None:
        """Nothing comes."""


def answer(url: str = "http://a.example/m", validator: str = '"v1"', total: int | None = len(BODY)) -> Answer:
    """An answer that tells of an object."""
    head = AnswerHead(200, Headers({"content-length": [str(total or 0)]}))
    response = Response(head, url, _Nothing(), lambda fit: None)
    return Answer(response, Body(head, _Nothing()), Head(total, validator, "", url, ""))


class Fetch:
    """A transfer without a network: its file, its seat, and what it has written."""

    def __init__(self, blobs: Blobs, path: Path, held: ExitStack, *, url: str = "http://a.example/m") -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        held.callback(os.close, self.fd)
        self.stop, self.answer = StopSignal(), answer(url)
        self.there = Partial(path, ByteRanges(), len(BODY), '"v1"', expected_sha256=SHA256)
        self.pieces = Pieces(len(BODY), ByteRanges())
        self.seat = held.enter_context(blobs.seat(Credentials(url), self.there, self.fd))
        self.result: BaseException | None = None
        self.thread: threading.Thread | None = None

    def take(self, key: Key | None = KEY) -> Seat | None:
        """Sit down."""
        return self.seat.take(key, self.answer, self.pieces)

    def write(self, first: int, end: int, body: bytes = BODY) -> None:
        """Fetch a part."""
        span = self.pieces.claim(first, end)
        assert span is not None
        os.pwrite(self.fd, body[first:end], first)
        self.pieces.advance(span, end - first)
        self.pieces.release(span)

    def copying(self, beginning: bytes = BODY[:4096]) -> Copying:
        """What copies into its file."""
        other = self.seat.first()
        assert other is not None
        return Copying(self.seat, other, self.there, beginning)

    def copy(self, copying: Copying) -> None:
        """Copy."""
        syncer = Syncer(self.fd, self.pieces, lambda news: None, 64 * MIB, 60.0)
        own, limits = self.seat.bandwidth, Limits()
        tell = lambda news: None  # noqa: E731
        with closing(copying):
            copying.run(Course(self.fd, self.pieces, syncer, tell, own, limits, self.stop, lambda: 0))

    def begin_to_copy(self, copying: Copying | None = None) -> None:
        """Copy on a thread of its own."""
        copying = copying or self.copying()

        def run() -> None:
            try:
                self.copy(copying)
            except BaseException as error:
                self.result = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def ended(self) -> BaseException | None:
        """How the copying ended."""
        assert self.thread is not None
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.result

    @property
    def content(self) -> bytes:
        """The file."""
        return os.pread(self.fd, len(BODY) + 1, 0)


Make = Callable[..., Fetch]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    blobs = Blobs()
    with ExitStack() as held:
        yield lambda name, **more: Fetch(blobs, tmp_path / name, held, **more)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_shared_has_a_hash_or_an_address_with_a_strong_etag() -> None:
    plain = Partial(Path("p"), ByteRanges(), None, "")
    hashed = replace(plain, expected_sha256=SHA256)
    assert key_of(answer(), hashed) == key_of(answer("http://b.example/n", '"v2"'), hashed) == KEY
    assert key_of(answer(), plain) == key_of(answer(), plain)
    assert key_of(answer(), plain) != key_of(answer(), hashed)
    for other in (answer("http://a.example/n"), answer(validator='"v2"'), answer(total=5000)):
        assert key_of(other, plain) != key_of(answer(), plain)
    # Of two addresses that differ in a credential, one is the other.
    signed = [answer(f"http://a.example/m?id=7&X-Amz-Signature={name}") for name in "ab"]
    assert key_of(signed[0], plain) == key_of(signed[1], plain) != key_of(answer(), plain)
    for unsure in (answer(validator=""), answer(validator="Mon, 01 Jan 2024 00:00:00 GMT")):
        assert key_of(unsure, plain) is None
        assert key_of(unsure, hashed) == KEY
    assert key_of(answer(total=None), hashed) is None
    assert key_of(answer(total=4096), hashed) is None  # it has come with the answer
    assert key_of(answer(), replace(hashed, in_one_piece=True)) is None


def test_who_comes_first_fetches_and_the_next_one_follows_when_it_stands_up(make: Make) -> None:
    one, two, three = make("1"), make("2"), make("3")
    assert one.take() is None
    assert two.take() is one.seat
    assert three.take() is one.seat
    assert make("4").take(("sha256", "0" * 64, 5)) is None
    one.seat.stand()
    assert (two.seat.first(), three.seat.first()) == (None, two.seat)
    three.seat.stand()
    two.seat.stand()
    assert make("5").take() is None


def test_only_who_comes_while_another_asks_needs_no_more_than_the_beginning(make: Make) -> None:
    assert not make("1").seat.asks_beginning
    assert make("2").seat.asks_beginning
    assert make("3", url="http://b.example/m").seat.asks_beginning  # the same hash


def test_a_copy_follows_what_is_written_in_whatever_order(make: Make) -> None:
    one, two, three = make("1"), make("2"), make("3")
    for fetch in (one, two, three):
        fetch.take()
    two.begin_to_copy()
    three.begin_to_copy()
    one.write(3 * MIB, 4 * MIB)
    one.write(0, MIB)
    until(lambda: two.pieces.size == three.pieces.size == 2 * MIB)
    one.write(MIB, 3 * MIB)
    assert (two.ended(), three.ended()) == (None, None)
    assert two.content == three.content == BODY


def test_the_next_one_takes_over_with_all_that_was_written_and_the_others_follow_it(make: Make) -> None:
    one, two, three = make("1"), make("2"), make("3")
    for fetch in (one, two, three):
        fetch.take()
    one.write(0, MIB + 5)
    copying = two.copying()
    one.seat.stand()
    os.unlink(one.there.path)  # as a cancel does
    two.begin_to_copy(copying)
    over = two.ended()
    assert isinstance(over, TakeOver)
    assert over.there.have == ByteRanges.first(MIB + 5)
    three.begin_to_copy()
    two.write(MIB + 5, len(BODY))
    assert three.ended() is None
    assert three.content == BODY


def test_nothing_is_taken_any_more_of_a_file_that_is_begun_anew(make: Make) -> None:
    one, two = make("1"), make("2")
    one.take()
    two.take()
    one.write(0, 1000)
    two.begin_to_copy()
    one.write(1000, 2 * MIB)
    until(lambda: two.pieces.size == 2 * MIB)
    make("1")  # the job's next try
    one.write(2 * MIB, 3 * MIB, b"?" * len(BODY))
    one.seat.stand()
    over = two.ended()
    assert isinstance(over, TakeOver)
    assert over.there.have == ByteRanges.first(2 * MIB)


def test_a_seat_is_lost_when_the_source_answers_with_another_object(make: Make) -> None:
    one, two = make("1"), make("2")
    one.take()
    two.take()
    one.seat.heard(KEY)
    assert two.seat.first() is one.seat
    one.seat.heard(None)
    assert (two.seat.first(), one.seat.void) == (None, True)
    assert one.take() is None  # and takes no other in this run
    assert two.seat.first() is None


@pytest.mark.parametrize("stops_first", [True, False])
def test_stopping_in_any_order_leaves_nobody_behind(make: Make, stops_first: bool) -> None:
    fetches = [make(str(number)) for number in range(6)]
    for fetch in fetches:
        fetch.take()
    for fetch in fetches[1:]:
        fetch.begin_to_copy()
    fetches[0].write(0, MIB)
    until(lambda: all(fetch.pieces.size == MIB for fetch in fetches[1:]))
    order = fetches[1:] if stops_first else fetches[:0:-1]
    for fetch in order:
        fetch.stop.stop()
        assert isinstance(fetch.ended(), Stopped)
        fetch.seat.stand()
    fetches[0].write(MIB, len(BODY))
    assert fetches[0].seat.first() is None


def test_what_begins_otherwise_is_fetched_apart(make: Make) -> None:
    one, two = make("1"), make("2")
    one.take()
    two.take()
    one.write(0, MIB)
    with pytest.raises(TakeOver) as over:
        two.copy(two.copying(b"?" * 4096))
    assert over.value.there.have == ByteRanges()
    assert two.seat.left


def test_a_sample_that_is_other_than_the_copy_shows_that_it_is_another_object(make: Make) -> None:
    one, two = make("1"), make("2", url="http://b.example/m")
    one.take()
    two.take()
    assert not two.seat.knows_address()
    one.write(0, len(BODY))
    copying = two.copying()
    copying.expect(3 * MIB, BODY[3 * MIB : 3 * MIB + 99])
    two.copy(copying)
    copying = two.copying()
    copying.expect(3 * MIB, b"?" * 99)
    with pytest.raises(StartOver):
        two.copy(copying)


def test_a_file_that_was_changed_after_its_delivery_is_no_source(make: Make) -> None:
    one, two = make("1"), make("2")
    one.take()
    two.take()
    one.write(0, len(BODY))
    copying = two.copying()
    one.seat.stand(sha256=SHA256)
    os.pwrite(one.fd, b"?", 2 * MIB)  # who has the file delivered may write to it
    two.copy(copying)
    with pytest.raises(StartOver):
        copying.check(hashlib.sha256(two.content).hexdigest())


def test_a_job_without_a_limit_does_not_wait_for_one_that_has_one(make: Make) -> None:
    one, two = make("1"), make("2")
    one.seat.bandwidth = JobBandwidth(rate=MIB)
    one.take()
    two.take()
    with pytest.raises(TakeOver):
        two.copy(two.copying())
    assert two.seat.left


def test_bytes_are_copied_at_their_offsets_between_any_two_files(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b") as source, (tmp_path / "b").open("w+b") as target:
        os.pwrite(source.fileno(), BODY, 0)
        assert copy_at(source.fileno(), target.fileno(), 5, 10) == 10
        assert os.pread(target.fileno(), 20, 0) == bytes(5) + BODY[5:15]
        assert copy_at(source.fileno(), target.fileno(), len(BODY), 10) == 0
        if Path("/dev/shm").is_dir():  # another file system
            other = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
            try:
                assert copy_at(source.fileno(), other, 7, 10) == 10
                assert os.pread(other, 10, 7) == BODY[7:17]
            finally:
                os.close(other)
