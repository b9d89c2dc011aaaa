"""Records as lines of JSON: whatever a record has comes back, and what is wrong with a line is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.record.v1.exports_pb2 import ExportedModel
from modelkeep.records.lines import MAX_PART_BYTES, Mark, end, from_line, header, in_parts, to_line
from support import randomrecords

KEY = "a" * 32
NEW = b"\xc2\xbb\x01\x03new"


def said(part: ExportedModel) -> dict[str, Any]:
    """What a line says."""
    line: dict[str, Any] = json.loads(to_line(part))
    return line


def same(one: ExportedModel | Mark, other: ExportedModel) -> bool:
    return isinstance(one, ExportedModel) and one.SerializeToString(
        deterministic=True
    ) == other.SerializeToString(deterministic=True)


def test_every_record_comes_back_as_it_was() -> None:
    for record in randomrecords.exported(500, seed=3):
        line = to_line(record)
        assert line.isprintable()
        assert same(from_line(line), record), line


def test_fields_of_a_newer_version_stand_beside_by_where_they_belong_and_survive_a_hand_edit() -> None:
    record = ExportedModel(model={"key": KEY, "name": "old", "main": {"submodels": [{}, {"type": 1}]}})
    record.files.add(path="a")
    for place in (record, record.model, record.model.main.submodels[1], record.files[0]):
        place.MergeFromString(NEW)
    line = said(record)
    assert sorted(line["unknown_fields"]) == ["", "files[0]", "model", "model.main.submodels[1]"]
    assert same(from_line(json.dumps(line)), record)
    line["model"]["name"] = "new"
    edited = from_line(json.dumps(line))
    record.model.name = "new"
    assert same(edited, record)


def test_a_field_that_a_newer_version_knows_is_whole_there() -> None:
    record = ExportedModel(model={"key": KEY, "description": "d"})
    line = said(record)
    del line["model"]["description"]
    line["unknown_fields"] = {"model": "agFk"}  # field 13, as a version without it would have written it
    assert same(from_line(json.dumps(line)), record)


def test_a_line_steers_no_terminal_and_is_readable() -> None:
    name = "日本 \x1b[31m \x7f \x9b \u202e \u2028 end"
    line = to_line(ExportedModel(model={"key": KEY, "name": name}))
    assert line.isprintable()
    assert "日本" in line
    found = from_line(line)
    assert isinstance(found, ExportedModel)
    assert found.model.name == name


def test_only_what_has_no_words_in_json_stands_as_bytes() -> None:
    assert "unknown_fields" not in said(ExportedModel(model={"key": KEY, "type": 999}))
    impossible = ExportedModel(model={"key": KEY, "create_time": {"seconds": 10**15}})
    assert list(said(impossible)) == ["wire"]
    assert same(from_line(to_line(impossible)), impossible)


def test_the_first_and_the_last_line_are_no_records_and_one_of_another_kind_is_told() -> None:
    assert (from_line(header("id", 7)), from_line(end())) == (Mark.BEGINNING, Mark.END)
    for line, words in (
        ({"format": "other"}, 'no line of an export, but of "other"'),
        ({**json.loads(header("id", 7)), "version": 2}, "of version 2 of the format, .* program knows 1"),
        ({"format": "modelkeep-export"}, "of version null of the format"),
    ):
        with pytest.raises(ValueError, match=words):
            from_line(json.dumps(line))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON: "),
        ("[]", "no JSON object"),
        ('{"model": {"title": "x"}}', 'no record: .*has no field named "title"'),
        ('{"model": {"size_bytes": "many"}}', "no record: "),
        ('{"model": {"name": "a", "name": "b"}}', "'name' is there twice"),
        ('{"unknown_fields": {"model.nothing": ""}}', "path 'model.nothing', which leads to nothing"),
        ('{"unknown_fields": {"files[0]": ""}}', r"path 'files\[0\]', which leads to nothing"),
        ('{"unknown_fields": {"model.labels[0]": ""}}', "which leads to nothing"),
        ('{"unknown_fields": {"files": ""}}', "path 'files', which leads to nothing"),
        ('{"unknown_fields": {"model": "%"}}', "bytes are no base64"),
        ('{"unknown_fields": {"model": 3}}', "bytes must be base64 in a text"),
        ('{"unknown_fields": []}', "unknown_fields is no JSON object"),
        ('{"wire": "//8="}', "no record: "),
        ('{"model": {"name": "\\ud800"}}', "half of a character"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_line(line)


def test_a_large_record_is_cut_where_files_end_and_nothing_is_lost() -> None:
    def file(number: int, size: int = 100) -> ModelFile:
        return ModelFile(path=f"{number:06}" + "p" * size)

    small = ExportedModel(model={"key": KEY}, files=[file(1)])
    assert list(in_parts(small)) == [small]
    model: dict[str, Any] = {"key": KEY, "description": "d" * (MAX_PART_BYTES - 20_000)}
    whole = ExportedModel(model=model, files=[file(number) for number in range(20_000)])
    first, *others = parts = list(in_parts(whole))
    assert all(part.ByteSize() < MAX_PART_BYTES + 1000 for part in parts)
    assert first.model == whole.model
    assert [part.is_continued for part in parts] == [True] * len(others) + [False]
    assert [part.is_continuation for part in parts] == [False] + [True] * len(others)
    assert all(part.model == Model(key=KEY) for part in others)
    assert [one for part in parts for one in part.files] == list(whole.files)


def test_a_record_is_the_same_line_whatever_order_its_fields_came_in() -> None:
    names = [f"field {number}" for number in range(20)]
    lines = {
        to_line(
            ExportedModel(
                model={"extra_fields": dict.fromkeys(order, "1"), "labels": dict.fromkeys(order, "")}
            )
        )
        for order in (names, names[::-1], names[7:] + names[:7])
    }
    assert len(lines) == 1
