"""What bytes are: the one table of what is found in place of a model file."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelkeep.contents import BEGINNING_BYTES, MAX_QUOTE, TEXTS, Kind, content_of, is_in_place_of, said
from modelkeep.exceptions import InvalidModelException
from modelkeep_install.probe import read_header
from support import headers

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 334643268\n"
JSON_ERROR = b'{"error":"Unauthorized","message":"You must be logged in to download this"}'
S3_ERROR = b"<?xml version='1.0'?><Error><Code>Denied</Code><Message>Request has expired</Message></Error>"


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 40)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("vae/config.json"))
    return buffer.getvalue()


def safetensors(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


#: What it is → (bytes, kind, words of it).
CONTENTS: dict[str, tuple[bytes, Kind, str]] = {
    "safetensors": (safetensors(b'{"a":{}}'), Kind.SAFETENSORS, "a safetensors file"),
    "safetensors of no tensor": (safetensors(b"{}"), Kind.SAFETENSORS, "a safetensors file"),
    "LFS pointer": (LFS, Kind.LFS_POINTER, "a Git LFS pointer to a file of 334,643,268 bytes"),
    "LFS pointer without size": (LFS[:60], Kind.LFS_POINTER, "a Git LFS pointer, not the file itself"),
    "error in JSON": (JSON_ERROR, Kind.JSON, 'JSON: "You must be logged in to download this"'),
    "nested error in JSON": (b'{"error":{"code":7,"message":"gone"}}', Kind.JSON, 'JSON: "gone"'),
    "list of errors in JSON": (b'{"errors":[{"detail":"gone"}]}', Kind.JSON, 'JSON: "gone"'),
    "JSON without a message": (b' {"a": [1,\n2]}', Kind.JSON, 'JSON: "{"a": [1, 2]}"'),
    "broken JSON": (b'{"a": ', Kind.JSON, 'JSON: "{"a":"'),
    "JSON nested without end": (b"[" * 3000, Kind.JSON, "JSON"),
    "error in XML": (S3_ERROR, Kind.XML, 'XML: "Request has expired"'),
    "XML without a declaration": (S3_ERROR[21:], Kind.XML, 'XML: "Request has expired"'),
    "text": (b"Entry not found", Kind.TEXT, 'text: "Entry not found"'),
    "text with a byte order mark": (b"\xef\xbb\xbfnot found\r\n", Kind.TEXT, 'text: "not found"'),
    "text in UTF-16": ("not found".encode("utf-16"), Kind.TEXT, 'text: "not found"'),
    "text cut inside a character": (b"th\xc3", Kind.TEXT, 'text: "th"'),
    "short text": (b"no", Kind.TEXT, 'text: "no"'),
    "web page": (b"\n<!DOCTYPE html><title>\nLog in</title>", Kind.WEB_PAGE, 'a web page: "Log in"'),
    "web page that begins with comments": (
        b"<!-- a --> <!--\n<b> -->\n<html><title>Gone</title>",
        Kind.WEB_PAGE,
        'a web page: "Gone"',
    ),
    "web page as XML": (b"<?xml version='1.0'?><html xmlns='x'>", Kind.WEB_PAGE, "a web page"),
    "zip": (zipped("vae/model.safetensors"), Kind.ZIP, "a zip archive"),
    "empty zip": (zipped(), Kind.ZIP, "a zip archive"),
    "torch's archive": (zipped("archive/data.pkl", "archive/data/0"), Kind.PICKLE, "a pickle in the archive"),
    **{f"pickle {n}": (pickle.dumps({"a": 1}, n), Kind.PICKLE, "a pickle") for n in (2, 3, 4, 5)},
    "gzip": (gzip.compress(b"x" * 99), Kind.GZIP, "compressed with gzip"),
    "tar": (tarred(), Kind.OTHER_FORMAT, "a tar archive"),
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 400, Kind.GGUF, "a GGUF file"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0", Kind.OTHER_FORMAT, "a PNG picture"),
    "nothing": (b"", Kind.EMPTY, "empty"),
    "zeros": (b"\0" * 5000, Kind.ZEROS, "nothing but zeros"),
    "a byte of no text": (b"\x07abc", Kind.UNKNOWN, "of no format that is known"),
    "no UTF-8": (b"th\xe9 of old", Kind.UNKNOWN, "of no format that is known"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_each_content_is_told_as_what_it_is(name: str) -> None:
    content, kind, words = CONTENTS[name]
    found = content_of(content, len(content))
    assert found.kind is kind
    assert found.what.startswith(words)
    assert (found.suffix == ".safetensors") == (kind is Kind.SAFETENSORS)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_header_is_read_of_nothing_else_and_the_refusal_says_what_it_is(tmp_path: Path, name: str) -> None:
    content, kind, words = CONTENTS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    if kind in (Kind.SAFETENSORS, Kind.UNKNOWN):
        return
    with pytest.raises(InvalidModelException) as caught:
        read_header(path)
    assert f"it is {words}" in str(caught.value)
    assert caught.value.metadata["detail"].startswith(words)
    assert "the header claims" not in str(caught.value)


def test_every_header_that_the_library_takes_begins_as_one() -> None:
    for text, _ in headers.SOUND.values():
        assert content_of(safetensors(text)).kind is Kind.SAFETENSORS


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("vae.safetensors", {*Kind} - {Kind.SAFETENSORS, Kind.UNKNOWN}),
        ("ae.sft", {*Kind} - {Kind.SAFETENSORS, Kind.UNKNOWN}),
        ("old.ckpt", TEXTS),
        ("130072", TEXTS),
        ("[FLX] style v1.5", TEXTS),
        ("config.json", {Kind.LFS_POINTER, Kind.WEB_PAGE}),
        ("README.md", {Kind.LFS_POINTER, Kind.WEB_PAGE}),
        ("LICENSE", {Kind.LFS_POINTER, Kind.WEB_PAGE}),
        ("archive.zip", {*Kind} - {Kind.ZIP, Kind.PICKLE, Kind.UNKNOWN, Kind.SAFETENSORS}),
    ],
)
def test_what_a_name_promises_tells_a_file_from_what_came_in_its_place(name: str, kinds: set[Kind]) -> None:
    found = {kind for content, kind, _ in CONTENTS.values() if is_in_place_of(content_of(content), name)}
    assert found == kinds


@given(st.binary(max_size=BEGINNING_BYTES + 10))
def test_no_bytes_break_the_look_and_what_is_quoted_fits_one_line(content: bytes) -> None:
    found = content_of(content, len(content))
    assert found.what
    assert len(found.quote) <= MAX_QUOTE
    assert found.quote.isprintable()


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))
)
@example([" "]).via("a message of blanks was quoted as nothing")
@example({"message": "\x00"}).via("likewise")
def test_any_json_is_quoted_in_some_words(value: object) -> None:
    body = json.dumps([value]).encode()
    assert 0 < len(said(body)) <= MAX_QUOTE
