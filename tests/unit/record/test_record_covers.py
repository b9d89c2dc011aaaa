"""Pictures that stand for models, by the rules of records: told by their bytes, and told of in the record."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import EtagMismatchException, FieldInvalidException, UnknownModelException
from modelkeep.record.v1.exports_pb2 import (
    IMPORT_CONFLICT_REPLACE,
    IMPORT_OUTCOME_CREATED,
    IMPORT_OUTCOME_REFUSED,
    IMPORT_OUTCOME_REPLACED,
    IMPORT_OUTCOME_UNCHANGED,
    ExportedModel,
)
from modelkeep_common.at_once import run_at_once
from modelkeep_common.pictures import MAX_PICTURE_BYTES
from modelkeep_common.sqlite import Connection
from modelkeep_record.domain import imports, rules
from modelkeep_record.domain.covers import Cover
from modelkeep_record.domain.query import Order, Query
from modelkeep_record.stores.sqlite import SqliteRecordStore, Transaction, reads
from support.pictures import GIF, JPEG, WEBP, png
from support.recordshelf import Shelf, change, vae

PICTURES = {"image/png": png(), "image/jpeg": JPEG, "image/gif": GIF, "image/webp": WEBP}


@pytest.mark.parametrize("media_type", sorted(PICTURES))
def test_a_picture_is_what_its_bytes_are(media_type: str) -> None:
    image = PICTURES[media_type]
    cover = Cover.of(image)
    assert (cover.media_type, cover.image) == (media_type, image)
    facts = cover.facts
    assert (facts.media_type, facts.size_bytes) == (media_type, len(image))
    assert facts.sha256 == hashlib.sha256(image).hexdigest()


@pytest.mark.parametrize(
    "image",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b"<!DOCTYPE html><html></html>",
        b"<?xml version='1.0'?><svg/>",
        b"GIF",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n<svg/>",
        b"RIFF\x1a\x00\x00\x00WAVEfmt ",
        b"RIFF\x1a\x00\x00\x00WEBPhtml",
        b"BM6\x00",
        b"PK\x03\x04",
        b" " + png(),
        b"\xff\xd8",
    ],
    ids=lambda image: ascii(image[:20]),
)
def test_what_is_no_picture_is_refused(image: bytes) -> None:
    with pytest.raises(FieldInvalidException, match="image must be a PNG, JPEG, WebP or GIF"):
        Cover.of(image)


def test_a_picture_has_a_largest_size() -> None:
    rest = MAX_PICTURE_BYTES - len(png(extra_bytes=1)) + 1
    assert len(Cover.of(png(extra_bytes=rest)).image) == MAX_PICTURE_BYTES
    with pytest.raises(FieldInvalidException, match="image must have at most 1,048,576 bytes, not 1,048,577"):
        Cover.of(png(extra_bytes=rest + 1))


async def test_a_record_tells_of_its_picture_and_the_same_again_changes_nothing() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(), [], 5.0)
    cover = Cover.of(png())
    told = await rules.set_cover(shelf, made.key, made.etag, cover, 9.0)
    assert (told.cover_image, told.revision, told.update_time.seconds) == (cover.facts, 2, 9)
    assert (shelf.covers, told.etag != made.etag) == ({made.key: cover}, True)
    for etag in ("", made.etag, told.etag):
        assert await rules.set_cover(shelf, made.key, etag, cover, 11.0) == told
    with pytest.raises(EtagMismatchException):
        await rules.set_cover(shelf, made.key, made.etag, Cover.of(JPEG), 11.0)
    with pytest.raises(EtagMismatchException):
        await rules.set_cover(shelf, made.key, made.etag, None, 11.0)
    renamed, _ = await change(shelf, made.key, name="other")
    assert renamed.cover_image == cover.facts
    gone = await rules.set_cover(shelf, made.key, renamed.etag, None, 13.0)
    assert (gone.HasField("cover_image"), shelf.covers) == (False, {})
    assert await rules.set_cover(shelf, made.key, made.etag, None, 15.0) == gone
    with pytest.raises(UnknownModelException):
        await rules.set_cover(shelf, "f" * 32, "", None, 15.0)


async def test_an_import_takes_pictures_over_and_believes_no_word_about_them() -> None:
    shelf = Shelf()
    said = {"media_type": "text/html", "size_bytes": 7}

    async def imported(image: bytes, **fields: Any) -> int:
        model = vae(key="a" * 32, cover_image=said, **fields)
        model.create_time.seconds = model.update_time.seconds = 3
        entry = imports.Entry(ExportedModel(model=model, cover_image=image))
        rehearsal = imports.Rehearsal(shelf)
        [rehearsed] = await imports.import_models(rehearsal, [entry], IMPORT_CONFLICT_REPLACE, 9.0)
        [result] = await imports.import_models(shelf, [entry], IMPORT_CONFLICT_REPLACE, 9.0)
        assert result == rehearsed
        kept = await shelf.cover("a" * 32)
        assert await rehearsal.cover("a" * 32) == kept
        [stored] = shelf.models.values()
        facts = stored.cover_image if stored.HasField("cover_image") else None
        assert facts == (None if kept is None else kept.facts)
        return result.outcome

    assert await imported(b"") == IMPORT_OUTCOME_CREATED
    assert await imported(b"") == IMPORT_OUTCOME_UNCHANGED
    assert await imported(png()) == IMPORT_OUTCOME_REPLACED
    assert await imported(png()) == IMPORT_OUTCOME_UNCHANGED
    assert await imported(b"") == IMPORT_OUTCOME_UNCHANGED, "it keeps its own"
    assert await imported(b"", name="other") == IMPORT_OUTCOME_REPLACED
    assert await imported(b"<svg/>", name="third") == IMPORT_OUTCOME_REFUSED
    assert shelf.covers == {"a" * 32: Cover.of(png())}
    assert shelf.models["a" * 32].name == "other"


def test_only_who_asks_for_a_picture_reads_one(tmp_path: Path) -> None:
    async def make() -> None:
        await (await SqliteRecordStore.open(tmp_path / "record.db")).close()

    asyncio.run(make())
    connection = sqlite3.connect(tmp_path / "record.db", factory=Connection)
    connection.execute("PRAGMA foreign_keys = ON")
    records = Transaction(connection)
    made = run_at_once(rules.create(records, vae(tags=["t"], description="ink"), [], 5.0))
    run_at_once(rules.set_cover(records, made.key, "", Cover.of(png()), 9.0))
    read: list[str] = []

    def note(action: int, table: str | None, *others: str | None) -> int:
        if action == sqlite3.SQLITE_READ and table is not None:
            read.append(table)
        return sqlite3.SQLITE_OK

    connection.set_authorizer(note)
    for query in (Query(), Query(words=("ink",)), Query(tags=frozenset("t")), Query(related_to=made.key)):
        reads.page(connection, query, Order.NAME, False, (), 10, 1 << 20)
    reads.get_many(connection, [made.key, "f" * 32])
    reads.find(connection, made.name, made.base, made.type)
    reads.files(connection, made.key, "", 10, 1 << 20)
    reads.tags(connection, "", "", 10)
    assert [model.cover_image.media_type for _, model in reads.every(connection)] == ["image/png"]
    run_at_once(change(records, made.key, name="other"))
    assert "models" in read
    assert "model_covers" not in read
    assert reads.cover(connection, made.key) == Cover.of(png())
    assert "model_covers" in read
    run_at_once(rules.delete(records, made.key, "", 9.0))
    assert connection.execute("SELECT count(*) FROM model_covers").fetchone() == (0,)
    connection.set_authorizer(None)
    connection.close()
