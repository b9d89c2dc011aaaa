"""Exports that are read: a line that is no good is named before anything is imported."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import FieldInvalidException
from modelkeep.model.v1.model_pb2 import ModelFile
from modelkeep.record.v1.exports_pb2 import ExportedModel
from modelkeep.records import reading
from modelkeep.records.lines import end, header, to_line
from support import randomrecords


def lines(*parts: ExportedModel) -> list[str]:
    return [header("store", 7), *map(to_line, parts), end()]


def part(key: str = "a", path: str = "", **more: Any) -> ExportedModel:
    return ExportedModel(model={"key": key * 32, "path": path}, **more)


def read(source: Any) -> list[tuple[int, ExportedModel]]:
    opened = reading.opener(source)
    reading.check(opened)
    return [(line.number, line.part) for batch in reading.batches(opened) for line in batch]


@pytest.fixture(params=["lines", "file", "gzip", "buffer"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Turns lines into each kind of source."""

    def write(texts: list[str]) -> Any:
        data = "".join(f"{text}\n" for text in texts).encode()
        if request.param == "file":
            (tmp_path / "e.jsonl").write_bytes(data)
            return tmp_path / "e.jsonl"
        if request.param == "gzip":
            (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(data))
            return str(tmp_path / "e.jsonl.gz")
        return io.BytesIO(data) if request.param == "buffer" else iter(texts)

    return write


def test_records_come_out_of_every_kind_of_source_with_the_numbers_of_their_lines(written: Any) -> None:
    records = list(randomrecords.exported(250, seed=5))
    texts = lines(*records)
    texts.insert(3, "")
    numbers = [number for number in range(2, 253) if number != 4]
    assert read(written(texts)) == list(zip(numbers, records, strict=True))


def test_two_exports_in_one_file_are_one_and_the_first_line_may_be_missing() -> None:
    texts = [*lines(part("a")), *lines(part("b"))[1:], *lines(part("c"))]
    assert [number for number, _ in read(texts)] == [2, 4, 7]
    assert len(read([to_line(part())])) == 1
    assert read([]) == []


def test_batches_are_what_a_call_takes() -> None:
    many = [ExportedModel(model={"key": f"{number:032x}"}) for number in range(250)]
    opened = reading.opener(lines(*many))
    assert [len(batch) for batch in reading.batches(opened)] == [100, 100, 50]
    heavy = [
        ExportedModel(model={"key": f"{number:032x}", "description": "d" * 65_000}) for number in range(100)
    ]
    sizes = [
        sum(line.part.ByteSize() for line in batch)
        for batch in reading.batches(reading.opener(lines(*heavy)))
    ]
    assert len(sizes) == 3
    assert max(sizes) < 3 << 20


def test_a_line_that_is_too_large_for_a_call_is_sent_in_parts() -> None:
    whole = part("a", files=[ModelFile(path=f"{number:06}" + "p" * 100) for number in range(20_000)])
    found = read(lines(whole))
    assert len(found) > 1
    assert {number for number, _ in found} == {2}
    assert [file for _, one in found for file in one.files] == list(whole.files)


def bad() -> Iterator[Any]:
    good = to_line(part("a", "/p"))
    more: dict[str, Any] = {"is_continued": True}
    rest: dict[str, Any] = {"is_continuation": True}
    yield pytest.param([good, "{"], "line 2 is no JSON", id="no JSON")
    yield pytest.param([header("a", 1), good], "line 2 is the last, and the export has no end", id="no end")
    yield pytest.param(
        [header("a", 1), header("b", 1)], "line 2 .* that of line 1 has no end", id="two begun"
    )
    yield pytest.param([good, good], "line 2 has the key that line 1 has", id="key twice")
    yield pytest.param(
        [good, "", to_line(part("b", "/p"))], "line 3 has the path that line 1 has", id="path twice"
    )
    yield pytest.param(["x" * (16 << 20) + "y"], "line 1 is longer than 16,777,216 bytes", id="too long")
    yield pytest.param([b"\xff\xfe"], "line 1 is no UTF-8", id="no UTF-8")
    yield pytest.param([to_line(part(**more))], "line 1 is the last, and says that", id="cut off")
    yield pytest.param([good, to_line(part(**rest))], "line 2 belongs to a record that", id="begun nowhere")
    yield pytest.param(
        [to_line(part(**more)), to_line(part("b", **rest))],
        "line 2 belongs to a record that",
        id="of another",
    )
    yield pytest.param(
        [to_line(part(**more)), to_line(part("b"))], "line 2 is no part of the record", id="not gone on"
    )


@pytest.mark.parametrize(("texts", "words"), list(bad()))
def test_what_is_no_good_is_named_by_its_line(texts: list[Any], words: str) -> None:
    with pytest.raises(FieldInvalidException, match=words):
        reading.check(reading.opener(texts))


def test_a_compressed_file_that_ends_early_or_is_none_is_told(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(lines(*randomrecords.exported(50, seed=1))).encode())
    for name, data in (
        ("cut", whole[:-200]),
        ("broken", whole[:100] + b"x" + whole[101:]),
    ):
        path = tmp_path / f"{name}.gz"
        path.write_bytes(data)
        with pytest.raises(FieldInvalidException, match=r"line \d+ (cannot be uncompressed|is )"):
            reading.check(reading.opener(path))
