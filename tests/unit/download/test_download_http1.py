"""Answers of broken and hostile servers, through the real transport: a known error, or the very bytes."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelkeep.exceptions import ModelkeepError, NotAModelFileException, SourceNotFoundException
from modelkeep_download.domain.names import is_safe_component, name_from_disposition
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import StartOver, TransientError
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.http1 import MAX_INTERIM, Headers, content_range, http_date, parse_retry_after
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transfer import Credentials, Partial
from modelkeep_download.engine.transport import HttpTransport, Limits
from modelkeep_download.sources.url import HttpTransfer

BODY = b"0123456789" * 30


class RawServer:
    """Answers every connection with the same bytes, then closes it."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/m.bin"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                head = b""
                while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
                    head += piece
                connection.sendall(self.answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    def close(self) -> None:
        """Stop listening."""
        # Closing alone would not wake the accept.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    raw = RawServer()
    yield raw
    raw.close()


def fetch(server: RawServer, answer: bytes, *, have: int = 0) -> bytes:
    """What is fetched of such an answer, by a job that has the first bytes of BODY; or its error."""
    server.answer = answer
    limits = Limits(connect_timeout_s=5, headers_timeout_s=5, stall_timeout_s=5, max_redirects=2)
    transport = HttpTransport(AddressGuard(allow_private=True), limits)
    transfer = HttpTransfer(transport)
    # The server answers one connection after the other: none may be kept.
    with contextlib.closing(transport), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data")
        path.write_bytes(BODY[:have])
        partial = Partial(path, ByteRanges.first(have), len(BODY) if have else None, '"v1"' if have else "")
        sha256 = transfer.run(Credentials(server.url), partial, lambda news: None, StopSignal())
        got = path.read_bytes()
    assert hashlib.sha256(got).hexdigest() == sha256
    return got


def answer(*headers: str, body: bytes = BODY, status: str = "200 OK") -> bytes:
    """An answer as bytes; the headers in Latin-1."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body


LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SEVERAL_CHUNKS = b"1;x=y\r\n0\r\n12b \r\n%b\r\n0\r\nA: b\r\n\r\n" % BODY[1:]
BAD_LENGTHS = ("", "-5", "+5", "5 5", "0x5", "²", "9" * 5000, 2**63, 10**30, "1_0")
BAD_SIZES = (
    *(b"-5\r\nhello", b"1_0\r\n", b"0x5\r\nhello", b"\r\n", b" 5\r\nhello"),
    *(b"f" * 16 + b"\r\n", b"f" * 17 + b"\r\n"),
)
BROKEN_CHUNKS = (b"", b"5\r\nhel", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n")
BAD_HEADERS = ("nonsense", "A : b", ": b", "A: b\0c", "A: b\rContent-Length: 1")
BAD_STATUS_LINES = (
    *(b"hello world", b"HTTP/2 200 OK", b"HTTP/1.1 99999 x", b"HTTP/1.1 -01 x", b"HTTP/1.1 \xb2\xb2\xb2 x"),
    *(b"HTTP/1.1 0200 x", b" HTTP/1.1 200 x"),
)


@pytest.mark.parametrize(
    "sent",
    [
        *(answer(LENGTH), answer(), answer(CHUNKED, body=CHUNKS), answer(LENGTH, LENGTH)),
        answer(LENGTH, body=BODY + b"what the answer does not count"),
        answer(f"Content-Length: {len(BODY)}, {len(BODY)}", "content-encoding: identity"),
        answer("TRANSFER-ENCODING: Chunked", body=SEVERAL_CHUNKS),
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + answer(LENGTH),
        answer(LENGTH).replace(b"\r\n", b"\n"),
        answer(LENGTH).replace(b"HTTP/1.1", b"HTTP/1.0"),
        answer(LENGTH, 'ETag: "\x80\xff"', "Last-Modified: Tue, 01 Jan 99999 00:00:00 GMT", "Date: x"),
        answer(LENGTH, "Last-Modified: Tue,", "  01 Jan 2019 00:00:00 GMT", "Date: x", "X-Empty:"),
        answer(LENGTH, "ETag: " + '"' + "e" * 60_000 + '"', "Content-Type: " + "t" * 60_000),
        answer(LENGTH, "Content-Disposition: attachment; filename*=unicode_escape''%5Cud800.bin"),
        answer(LENGTH, "Content-Disposition: attachment; filename*" + "9" * 5000 + '="x"'),
        answer(LENGTH, "Content-Disposition: attachment; filename*=idna''a.bin; filename*=hex''41"),
    ],
)
def test_what_is_sound_arrives(server: RawServer, sent: bytes) -> None:
    assert fetch(server, sent) == BODY


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (answer("Content-Length: 5", LENGTH), "lengths that differ"),
        (answer("Content-Length: 5, 300"), "lengths that differ"),
        (answer(LENGTH, CHUNKED, body=CHUNKS), "both a length and a transfer encoding"),
        (answer("Transfer-Encoding:", LENGTH), "transfer encoding is malformed"),
        (answer(CHUNKED, CHUNKED, body=CHUNKS), "transfer encoding is malformed"),
        (answer(CHUNKED, body=CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"), "HTTP/1.0"),
        *((answer(CHUNKED, body=chunks), "size is malformed") for chunks in BAD_SIZES),
        *((answer(CHUNKED, body=chunks), "break off") for chunks in BROKEN_CHUNKS),
        *((answer(f"Content-Length: {length}"), "length is malformed") for length in BAD_LENGTHS),
        *((answer(header, LENGTH), "headers is malformed") for header in BAD_HEADERS),
        *((line + b"\r\n\r\n", "no HTTP/1.1") for line in BAD_STATUS_LINES),
        (answer(CHUNKED, body=b"5\r\nhello!\r\n0\r\n\r\n"), "longer than it says"),
        (answer(CHUNKED, body=b"5;" + b"e" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"), "too long"),
        (answer(f"Content-Length: {len(BODY) + 10}"), "broke off after 300 of 310"),
        (b"HTTP/1.1 103 Hints\r\n\r\n" * (MAX_INTERIM + 1) + answer(LENGTH), "interim answers"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n" + BODY, "changes the protocol"),
        (b"", "no answer at all"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", "break off"),
        (answer(LENGTH, *(f"X-{n}: y" for n in range(300))), "more than 200 headers"),
        (answer("X: " + "y" * 70_000, LENGTH), "too long"),
        (answer(*["X: " + "y" * 60_000] * 3, LENGTH), "more than 131072 bytes"),
    ],
)
def test_what_is_not_understood_is_an_error_that_says_so(server: RawServer, sent: bytes, reason: str) -> None:
    with pytest.raises(TransientError, match=reason):
        fetch(server, sent)


@pytest.mark.parametrize(
    "headers",
    [
        *(
            ("Transfer-Encoding: gzip, chunked",),
            ("Transfer-Encoding: gzip", CHUNKED),
            ("Transfer-Encoding: gzip",),
        ),
        *(
            ("Content-Encoding: gzip", LENGTH),
            ("CONTENT-ENCODING: X-GZIP",),
            ("Content-Encoding: identity, br",),
        ),
        ("Content-Encoding: identity", "Content-Encoding: br", LENGTH),
    ],
)
def test_a_body_that_is_encoded_is_refused_in_every_spelling(
    server: RawServer, headers: tuple[str, ...]
) -> None:
    with pytest.raises(NotAModelFileException, match="encoded as") as caught:
        fetch(server, answer(*headers, body=gzip.compress(BODY)))
    assert "another address" in caught.value.remedy


@pytest.mark.parametrize(
    "headers",
    [
        *(
            (),
            ("Location:",),
            ("Location: /a", "Location: /b"),
            ("Location: http://[::1",),
            ("Location: //",),
        ),
        *(
            ("Location: file:///etc/passwd",),
            ("Location: /" + "a" * 60_000,),
            ("Location: http://127.0.0.1:0/",),
        ),
        *(("Location: /again",), ("Location: http://127.0.0.1:99999/",), ("Location: http://\xff/",)),
    ],
)
def test_a_redirect_that_leads_nowhere_ends(server: RawServer, headers: tuple[str, ...]) -> None:
    with pytest.raises(SourceNotFoundException, match="redirects"):
        fetch(server, answer(*headers, status="302 Found"))


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Range: bytes 100-299/300", "Content-Length: 199"),
        ("Content-Range: bytes 100-298/300",),
        ("Content-Range: bytes 0-299/300",),
        ("Content-Range: bytes 100-299/*",),
        ("Content-Range: bytes 100-299/301",),
        ("Content-Range: bytes 100-299/" + "9" * 5000,),
        ("Content-Range: bytes 100-299/³00",),
        ("Content-Range: bytes 299-100/300",),
        ("Content-Range: bytes 100-299/300", "Content-Range: bytes 100-299/301"),
        ("Content-Type: multipart/byteranges; boundary=x",),
        ("Content-Range: bytes 100-299/300", 'ETag: "v2"'),
    ],
)
def test_a_range_that_is_not_the_one_asked_for_starts_over(
    server: RawServer, headers: tuple[str, ...]
) -> None:
    with pytest.raises(StartOver):
        fetch(server, answer(*headers, status="206 Partial Content", body=BODY[100:]), have=100)


def test_a_range_as_asked_for_is_gone_on_with_and_ends_where_it_says(server: RawServer) -> None:
    served = 'Content-Range: bytes 100-299/300\r\nETag: "v1"'
    assert fetch(server, answer(served, status="206 P", body=BODY[100:]), have=100) == BODY
    chunks = b"c8\r\n%b\r\n0\r\n\r\n" % BODY[100:]
    assert fetch(server, answer(served, CHUNKED, status="206 P", body=chunks), have=100) == BODY
    more = b"c9\r\n%bx\r\n0\r\n\r\n" % BODY[100:]
    with pytest.raises(StartOver, match="more than it promised"):
        fetch(server, answer(served, CHUNKED, status="206 P", body=more), have=100)


_NAMES = st.sampled_from(
    (
        *("Content-Length", "Transfer-Encoding", "Content-Encoding", "Content-Range", "ETag", "X"),
        *("Last-Modified", "Date", "Content-Disposition", "Content-Type", "Location", "Retry-After"),
    )
)
_VALUES = st.one_of(
    st.sampled_from(("", "0", "5", "300", "chunked", "gzip, chunked", "identity", '"v1"', "9" * 5000)),
    st.sampled_from(("Tue, 01 Jan 99999 00:00:00 GMT", "attachment; filename*=hex''41", "text/html")),
    st.sampled_from(("bytes 100-299/300", "/x", "//[", "1e9")),
    st.text(st.characters(max_codepoint=255), max_size=30),
)
_STATUSES = st.sampled_from((*["200 OK"] * 6, *["206 P"] * 2, "302 F", "308 P", "401 No", "416 R", "503 No"))
_BODIES = st.sampled_from((BODY, CHUNKS, b""))
_quiet = settings(max_examples=150, deadline=None)


def promised(headers: list[tuple[str, str]], body: bytes) -> set[bytes]:
    """What a careful reader may take such an answer to hold; written apart from the product."""
    lines = [(name.lower(), value.strip(" \t")) for name, value in headers]
    codings = [value.lower() for name, value in lines if name == "transfer-encoding"]
    lengths = {
        part.strip(" \t") for name, value in lines if name == "content-length" for part in value.split(",")
    }
    if codings:
        return {BODY} if codings == ["chunked"] and not lengths and body == CHUNKS else set()
    if not lengths:
        return {body}
    length = lengths.pop()
    (not lengths and length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(body))
    return {body[: int(length)]}


@_quiet
@given(_STATUSES, st.lists(st.tuples(_NAMES, _VALUES), max_size=5), _BODIES, st.booleans())
@example("200 OK", [("Content-Length", "9" * 5000)], BODY, False)
@example("503 No", [("Retry-After", "Wed, 21 Oct 99999 07:28:00 GMT")], BODY, False)
def test_any_headers_end_in_a_known_error_or_in_the_bytes_that_were_promised(
    server: RawServer, status: str, headers: list[tuple[str, str]], body: bytes, resumed: bool
) -> None:
    sent = answer(*(f"{name}: {value}" for name, value in headers), status=status, body=body)
    try:
        got = fetch(server, sent, have=100 if resumed else 0)
    except (TransientError, StartOver, ModelkeepError):
        return
    if status == "206 P":
        assert resumed
        assert got[:100] == BODY[:100]
        assert len(got) == 300
    else:
        assert status == "200 OK"
        clean = [(name, value.split("\n")[0]) for name, value in headers]
        broken = any("\n" in value or "\r" in value for _, value in headers)
        assert broken or got in promised(clean, body)


@_quiet
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_end_in_a_known_error_or_in_a_file(server: RawServer, sent: bytes, head: bool) -> None:
    with contextlib.suppress(TransientError, StartOver, ModelkeepError):
        fetch(server, (b"HTTP/1.1 200 OK\r\n" if head else b"") + sent)


@given(st.one_of(st.text(max_size=70), st.text("0123456789 ,:GMTJanWed+-", max_size=40)))
@example("Wed, 21 Oct 99999 07:28:00 GMT")
@example("Tue, 01 Jan 0000 00:00:00 -9999")
@example("9" * 60)
def test_dates_and_delays_are_numbers_or_nothing(text: str) -> None:
    moment, delay = http_date(text), parse_retry_after(text, now=0.0)
    assert moment is None or abs(moment) < 1e12
    assert delay is None or 0 <= delay < 1e13
    assert http_date(None) is None


@given(st.text(max_size=60))
@example("bytes 0-1/" + "9" * 5000)
def test_a_content_range_is_a_range_or_nothing(text: str) -> None:
    found = content_range(Headers({"content-range": [text]}))
    assert found is None or 0 <= found[0] <= found[1] < 2**63


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("attachment; filename*=UTF-8''na%C3%AFve.bin", "naïve.bin"),
        ("attachment; filename*=iso-8859-1'en'%A3.bin", "£.bin"),
        ('attachment; FileName*=utf-8\'\'; filename="a;b \\"c\\".bin"; x=y', "a;b _c_.bin"),
        ('attachment; filename="a;b (c).bin"; filename="second.bin"', "a;b (c).bin"),
        ("attachment; filename=my model.bin ; size=3", "my model.bin"),
        ('filename="bare.bin"; size=3', "bare.bin"),
        ("attachment; filename*=utf-7''%2B2AA-.bin; filename=plain.bin", "plain.bin"),
        ("attachment; filename*=UTF-8''%FF%FE.bin; filename=plain.bin", "plain.bin"),
        ('attachment; filename="%E5%A2%A8%E5%B9%BD_v1030.safetensors"', "墨幽_v1030.safetensors"),
        ('attachment; filename="100%25 %E5.bin"', "100%25 %E5.bin"),  # no UTF-8, as no browser decodes it
        ('attachment; filename="..%2F..%2Fetc%2Fpasswd"', "passwd"),
        ('attachment; filename="=?UTF-8?B?5aKo5bm9LnNhZmV0ZW5zb3Jz?="', "墨幽.safetensors"),
        (
            'attachment; filename="=?utf-7?B?5aKo5bm9LnNhZmV0ZW5zb3Jz?="',
            "=_utf-7_B_5aKo5bm9LnNhZmV0ZW5zb3Jz_=",
        ),
        ('attachment; filename="sd:v1.safetensors"', "sd_v1.safetensors"),
        ('attachment; filename="C:\\\\models\\\\vae.safetensors"', "vae.safetensors"),
        ('attachment; filename="' + "n" * 300 + '.safetensors"', "n" * 228 + ".safetensors"),
        ('attachment; filename=".hidden"', ""),
        *(
            (f"attachment; filename*={charset}''a.bin", "")
            for charset in ("idna", "hex", "zlib", "undefined", "utf-16")
        ),
        ("; ".join(["attachment", *(f'filename*{n}="x"' for n in range(3000))]), ""),
        ('attachment; filename="' + "a;" * 4000, ""),
        ("attachment" + "; filename=" * 5000, ""),
    ],
)
def test_a_name_is_read_as_the_standard_has_it_and_in_its_charsets_only(value: str, name: str) -> None:
    assert name_from_disposition(value) == name


@given(st.text(max_size=60), st.sampled_from(["utf-8", "ISO-8859-1", "utf-7", "x"]))
def test_an_extended_name_is_safe_or_nothing(text: str, charset: str) -> None:
    for value in (
        f"attachment; filename*={charset}''{text}",
        f"a;filename*={charset}'{text}",
        f";filename={text}",
    ):
        name = name_from_disposition(value)
        assert name == "" or is_safe_component(name)
