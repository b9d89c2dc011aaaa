"""The client's export and import: lines out of one store, and into another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import AsyncClient, Client, ImportedRecord
from modelkeep.exceptions import (
    DuplicateModelException,
    DuplicatePathException,
    FieldInvalidException,
    InvalidRequestException,
)
from modelkeep.model.v1.model_pb2 import ModelFile
from modelkeep.record.v1.exports_pb2 import ExportedModel
from modelkeep.records.lines import from_line, to_line
from support import randomrecords
from support.records import record_server, vae

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
async def address(data_dir: Path) -> AsyncIterator[str]:
    async with record_server(data_dir) as server:
        yield server


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(record=address) as connected:
        yield connected


async def brought(client: AsyncClient, source: Any, **options: Any) -> list[ImportedRecord]:
    return [record async for record in client.model_record_store.import_(source, **options)]


async def taken(client: AsyncClient, **wanted: Any) -> list[str]:
    return [line async for line in client.model_record_store.export(**wanted)]


def plain(lines: list[str]) -> list[bytes]:
    """What lines say but for what each store makes itself."""
    found = []
    for line in lines[1:-1]:
        part = from_line(line)
        assert isinstance(part, ExportedModel)
        part.model.ClearField("etag")
        part.model.ClearField("revision")
        found.append(part.SerializeToString(deterministic=True))
    return found


def line(number: int, **fields: Any) -> str:
    values = {"name": f"m{number}", "key": f"{number:032x}", **fields}
    return to_line(ExportedModel(model=vae(**values)))


@pytest.mark.long
async def test_what_is_exported_and_imported_is_exported_again_just_so(
    client: AsyncClient, tmp_path: Path
) -> None:
    records = [to_line(record) for record in randomrecords.exported(300, seed=4)]
    assert {record.outcome for record in await brought(client, records)} == {"created"}
    lines = await taken(client)
    path = tmp_path / "export.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    async with (
        record_server(tmp_path / "other") as server,
        AsyncClient(record=server) as other,
    ):
        assert {record.outcome for record in await brought(other, path)} == {"created"}
        assert plain(await taken(other)) == plain(lines)
        assert {record.outcome for record in await brought(other, path)} == {"unchanged"}


async def test_a_filter_leaves_a_part(client: AsyncClient) -> None:
    await brought(client, [line(1, tags=["a"]), line(2)])
    assert len(await taken(client)) == 4
    assert len(await taken(client, tags="a")) == 3
    assert len(await taken(client, type="lora")) == 2  # the first and the last alone


async def test_what_becomes_of_each_is_told_with_its_line(client: AsyncClient) -> None:
    await brought(client, [line(1), line(2)])
    lines = [line(1), line(2, name="other"), line(3), line(4, name="")]
    found = await brought(client, lines, validate_only=True)
    assert found == await brought(client, lines)
    assert [(one.line, one.outcome, one.reason) for one in found] == [
        (1, "unchanged", ""),
        (2, "skipped", "DUPLICATE_MODEL"),
        (3, "created", ""),
        (4, "refused", "FIELD_INVALID"),
    ]
    replaced = await brought(client, [line(2, name="other")], on_conflict="replace")
    assert [(one.name, one.outcome) for one in replaced] == [("other", "replaced")]


@pytest.mark.parametrize(
    ("broken", "error", "words"),
    [
        ("{", FieldInvalidException, "line 151 is no JSON"),
        (line(0, name="other"), DuplicateModelException, f"^Line 151: .*{0:032x}"),
        (line(500, path="/models/m0"), DuplicatePathException, "^Line 151: .*/models/m0"),
        (line(500, base="BAD base"), FieldInvalidException, "line 151: base must be"),
        (line(500, lora={}), InvalidRequestException, "line 151: lora"),
    ],
)
async def test_a_line_that_makes_an_import_fail_is_named_and_nothing_is_half_done(
    client: AsyncClient, broken: str, error: type[Exception], words: str
) -> None:
    await brought(client, [line(0)])
    with pytest.raises(error, match=words):
        await brought(client, [*map(line, range(1, 151)), broken], on_conflict="fail")
    assert len(await client.model_record_store.all_models()) == 1


@pytest.mark.long
async def test_a_record_in_parts_is_told_once(client: AsyncClient) -> None:
    def large(name: str, **more: Any) -> str:
        files = [ModelFile(path=f"{number:05}" + "p" * 100, **more) for number in range(20_000)]
        return to_line(ExportedModel(model=vae(name, key=f"{1:032x}"), files=files))

    async def outcome(text: str, **options: Any) -> list[str]:
        return [record.outcome for record in await brought(client, [text, line(2)], **options)]

    assert await outcome(large("a")) == ["created", "created"]
    assert len(await client.model_record_store.list_files(f"{1:032x}")) == 20_000
    assert await outcome(large("a")) == ["unchanged", "unchanged"]
    assert await outcome(large("b", sha256="ab" * 32)) == ["skipped", "unchanged"]
    files = await client.model_record_store.list_files(f"{1:032x}")
    assert {file.sha256 for file in files} == {None}
    lines = await taken(client)
    assert len(lines) > 5
    assert [one.outcome for one in await brought(client, lines)] == ["unchanged", "unchanged"]
    assert await outcome(large("b", sha256="ab" * 32), on_conflict="replace") == ["replaced", "unchanged"]


async def test_the_blocking_client_does_it_too(address: str) -> None:
    def work() -> tuple[list[str], int]:
        with Client(record=address) as client:
            store = client.model_record_store
            outcomes: list[str] = [record.outcome for record in store.import_([line(1), line(2)])]
            return outcomes, len(list(store.export()))

    assert await asyncio.to_thread(work) == (["created", "created"], 4)
