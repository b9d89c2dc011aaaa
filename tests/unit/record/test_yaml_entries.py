"""Entries of a YAML file: a record comes back as it was, and what a person wrote stays when it changes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.configs.wire import arm_of_type
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_record.stores.yaml import editing
from modelkeep_record.stores.yaml.editing import aliases_of, edit
from modelkeep_record.stores.yaml.loading import load
from modelkeep_record.stores.yaml.names import COMMON, arm_fields, arms, names_of
from modelkeep_record.stores.yaml.problems import Problem
from modelkeep_record.stores.yaml.reading import check_by_hand, key_of, read_entry
from modelkeep_record.stores.yaml.state import Entry, rewritten
from modelkeep_record.stores.yaml.text import entry_text, single
from modelkeep_record.stores.yaml.tree import tree_of

KEY = "0123456789abcdef0123456789abcdef"
#: As YAML's readers of either version take them for something else than texts, or end them early.
ODD = [
    *(
        "no",
        "ON",
        "null",
        "~",
        "1",
        "1.5",
        "0x1f",
        "1e3",
        ".inf",
        "2026-01-31",
        "12:30:45",
        "=",
        "<<",
        "-",
        "?",
    ),
    *(
        "a: b",
        "a #b",
        " a",
        "a ",
        "- a",
        "# a",
        "&a",
        "*a",
        "!a",
        "%a",
        "@a",
        "`a",
        "'",
        '"',
        "{a}",
        "[a]",
        "a,b",
    ),
    *(
        "\n",
        "a\n",
        "a\nb",
        "a\nb\n",
        "a\n\nb\n\n",
        " a\nb",
        "a\n b",
        "a\r\nb",
        "a\tb\nc",
        "a\x00b",
        "\x85",
        "\u2028",
    ),
    *("\ufeff", "é", "\U0001f600", "\\", "a\\nb", "x" * 200, "a\n# b\n", "---\na", "...\n", "# a\n---"),
]
TEXT = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAME = TEXT.filter(str.strip).map(lambda text: text[:500])
TIME: st.SearchStrategy[dict[str, int]] = st.builds(
    dict, seconds=st.integers(-(10**9), 10**10), nanos=st.integers(0, 10**9 - 1)
)


def models() -> st.SearchStrategy[Model]:
    fields: dict[str, Any] = {
        "key": st.just(KEY),
        "name": NAME,
        "path": NAME.filter(lambda path: "\0" not in path).map(lambda path: f"/{path}"),
        "base": st.just("sd-1"),
        "description": TEXT,
        "tags": st.lists(NAME.map(lambda tag: tag[:250]), max_size=3),
        "trigger_phrases": st.lists(TEXT, max_size=2),
        "labels": st.dictionaries(
            st.sampled_from(["a", "b/c", "0"]), TEXT.map(lambda text: text[:50]), max_size=2
        ),
        "license": TEXT,
        "size_bytes": st.integers(0, 1 << 53),
        "revision": st.integers(0, 1 << 40),
        "create_time": TIME,
        "missing_time": st.none() | TIME,
        "extra_fields": st.dictionaries(
            TEXT.filter(bool), st.sampled_from(['"x"', "[1, 2.50]", "null"]), max_size=2
        ),
    }
    main: dict[str, Any] = {
        "vae": TEXT,
        "prediction_type": st.integers(0, 2),
        "upcast_attention": st.none() | st.booleans(),
        "submodels": st.lists(st.builds(dict, type=st.integers(1, 3), class_name=TEXT), max_size=2),
    }
    return st.builds(
        lambda fields, main: Model(
            type=taxonomy_pb2.MODEL_TYPE_MAIN,
            format=taxonomy_pb2.MODEL_FORMAT_DIFFUSERS,
            main=main,
            **{name: value for name, value in fields.items() if value is not None},
        ),
        st.fixed_dictionaries(fields),
        st.fixed_dictionaries(main),
    )


FILES = st.lists(
    st.builds(
        ModelFile,
        path=st.sampled_from(["a", "b/c", "no", "1"]),
        size_bytes=st.integers(0, 9),
        modify_time=TIME,
    ),
    max_size=2,
    unique_by=lambda file: file.path,
).map(lambda files: sorted(files, key=lambda file: file.path))


@pytest.mark.timeout(120)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(models(), FILES)
def test_a_record_comes_back_from_its_entry(model: Model, files: list[ModelFile]) -> None:
    body = entry_text(KEY, tree_of(model, files, KEY))
    read = read_entry(body)
    assert (read.name, read.model, read.files) == (KEY, model, tuple(files))


@pytest.mark.timeout(120)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(models(), models(), FILES, FILES)
def test_an_entry_with_a_comment_says_what_it_shall_after_a_change(
    before: Model, after: Model, files: list[ModelFile], new_files: list[ModelFile]
) -> None:
    body = entry_text(KEY, tree_of(before, files, KEY)).replace("\n", "  # a comment\n", 1)
    old = Entry(KEY, body, before, before.SerializeToString(), tuple(files))
    read = read_entry(rewritten(KEY, old, after, new_files).body)
    assert (read.name, read.model, read.files) == (KEY, after, tuple(new_files))


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_other_readers_of_yaml_take_a_text_for_that_text(text: str) -> None:
    assert yaml.safe_load(f"a: {single(text)}") == {"a": text}


def test_what_a_newer_version_wrote_comes_back() -> None:
    new = b"\xc2\xbb\x01\x03new"
    model = Model(key=KEY, name="n", path="/p", base="sd-1", revision=4)
    model.type = model.format = 999  # type: ignore[assignment]  # as a newer version may have them
    model.main.vae = "v"
    model.main.MergeFromString(new)
    model.MergeFromString(new)
    file = ModelFile(path="a")
    file.MergeFromString(new)
    read = read_entry(entry_text(KEY, tree_of(model, [file], KEY)))
    assert (read.model, read.files) == (model, (file,))
    assert read.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_no_two_fields_of_an_entry_share_a_name() -> None:
    for number in taxonomy_pb2.ModelType.values():
        fields = [*COMMON, *arm_fields(number)]
        names = [name for field in fields for name in names_of(field)]
        assert len(names) == len(set(names)), arm_of_type(number)
    assert {field.name for field in COMMON} | arms().keys() | {"etag"} == set(Model.DESCRIPTOR.fields_by_name)


BY_HAND = """\
my-lora:
    # where from
    name:   Fancy  LoRA   # the name
    path: /models/x.safetensors
    type: lora
    format: 'lycoris'

    base: sd-1
    tags:  # words
    - a      # first
    - "b"
    description: >
      folded

      end
    size_bytes: 1_000
    create_time: 2024-01-01 00:00:00.123456
    author: somebody
    # the end
"""


def test_an_entry_by_hand_is_a_record() -> None:
    model = read_entry(BY_HAND).model
    assert model.key == key_of("my-lora") == key_of("my-lora")
    assert (model.type, model.format) == (taxonomy_pb2.MODEL_TYPE_LORA, taxonomy_pb2.MODEL_FORMAT_LYCORIS)
    assert (model.name, model.description, model.size_bytes) == ("Fancy  LoRA", "folded\nend\n", 1000)
    assert model.create_time.ToJsonString() == "2024-01-01T00:00:00.123456Z"
    assert dict(model.extra_fields) == {"author": '"somebody"'}


def test_the_example_of_the_documentation_is_a_file_of_records() -> None:
    text = (Path(__file__).parents[3] / "docs" / "records.md").read_text()
    lines = text.split("## The file\n\n")[1].split("\n\nThe first entry")[0]
    state, _ = load(textwrap.dedent(lines) + "\n", None, 0)
    (entry,) = state.entries.values()
    assert (entry.name, entry.model.name, list(entry.model.tags)) == (
        "my-lora",
        "Watercolour",
        ["style", "painting"],
    )


def test_a_change_leaves_comments_order_and_style_alone() -> None:
    before = read_entry(BY_HAND)
    after = Model()
    after.CopyFrom(before.model)
    after.name, after.lora.rank, after.tags[1:] = "new: name", 4, ["no", "c"]
    after.ClearField("description")
    old, new = (tree_of(model, [], "my-lora") for model in (before.model, after))
    assert (
        edit(BY_HAND, old, new, aliases_of([after.type]))
        == """\
my-lora:
    # where from
    name: "new: name"     # the name
    path: /models/x.safetensors
    type: lora
    format: 'lycoris'

    base: sd-1
    tags:  # words
    - a      # first
    - "no"
    - c
    size_bytes: 1_000
    create_time: 2024-01-01 00:00:00.123456
    author: somebody
    # the end
    rank: 4
"""
    )


@pytest.mark.parametrize("entry", [BY_HAND, BY_HAND.replace("\n", "\r\n"), BY_HAND.rstrip("\n")])
def test_marks_of_a_program_are_written_without_reading_the_entry_anew(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_entry(entry)
    old = Entry("my-lora", entry, read.model, b"", ())
    after = Model()
    after.CopyFrom(read.model)
    after.size_bytes, after.revision = 7, 12
    after.missing_time.FromJsonString("2026-01-31T12:00:00Z")
    monkeypatch.setattr(editing, "_round_trip", lambda contents: pytest.fail("it is read anew"))
    text = rewritten("my-lora", old, after, ()).body
    assert read_entry(text).model == after
    end = "\r\n" if "\r" in entry else "\n"
    changed = entry.rstrip("\r\n").replace("size_bytes: 1_000", "size_bytes: 7") + end
    assert text == f"{changed}    missing_time: 2026-01-31T12:00:00Z{end}    revision: 12{end}"


def test_an_extra_field_stays_beside_the_others_until_its_value_changes() -> None:
    body = BY_HAND.replace("    author:", "    rating: 5  # of 5\n    author:")
    read = read_entry(body)
    old = Entry("my-lora", body, read.model, b"", ())
    after = Model()
    after.CopyFrom(read.model)
    after.extra_fields["rating"], after.extra_fields["new"] = "4", "[1.50]"
    text = rewritten("my-lora", old, after, ()).body
    assert "    author: somebody\n" in text
    assert "# of 5" not in text
    assert read_entry(text).model == after
    assert text.endswith('    extra_fields:\n        new: "[1.50]"\n        rating: "4"\n')
    del after.extra_fields["author"]
    assert "author" not in rewritten("my-lora", old, after, ()).body


GOOD = {
    "name": "n",
    "path": "/p",
    "model_type": "vae",
    "model_format": "diffusers",
    "base_model": "sd-1",
}


@pytest.mark.parametrize(
    ("lines", "place", "what"),
    [
        ({"name": "'a"}, (1, 8), "unexpected end of stream"),
        ({"name": "a: b"}, (1, 9), "mapping values"),
        ({"tags": "[a, b"}, (6, 8), "expected ',' or ']'"),
        ({"description": "a\n  name: x"}, (7, 2), "name is there already, 6 lines above"),
        ({"type": "vae"}, (6, 2), "type is there already, by the field's other name"),
        ({"model_type": "vea"}, (3, 14), "model_type is 'vea': vae is meant, perhaps"),
        ({"model_format": "lycoris"}, (4, 16), "a model of type vae cannot have the format lycoris"),
        ({"base_model": "SD 1"}, (5, 14), "must be of a-z and 0-9"),
        ({"base_model": "''"}, (5, 14), "base_model must be set"),
        ({"path": ""}, (2, 7), "path must be set"),
        ({"trigger_phrase": "x"}, (6, 2), "there is no field trigger_phrase: trigger_phrases is"),
        ({"tags": "a"}, (6, 8), "tags must be a list"),
        ({"tags": "[a, '']"}, (6, 8), "tags[1] must not be empty"),
        ({"labels": "[a]"}, (6, 10), "labels must have fields with names"),
        ({"size_bytes": "1x"}, (6, 14), "size_bytes must be a whole number of 64 bits, not '1x'"),
        ({"size_bytes": "1_"}, (6, 14), "must be a whole number of 64 bits, not '1_'"),
        ({"size_bytes": "99999999999999999999"}, (6, 14), "must be a whole number of 64 bits"),
        ({"scaling_factor": "big"}, (6, 18), "scaling_factor must be a number, not 'big'"),
        ({"create_time": "yesterday"}, (6, 15), "create_time must be a time such as 2026-01-31T12:00:00Z"),
        ({"key": "zz"}, (6, 7), "key must be 32 characters of 0-9 and a-f"),
        ({"key": KEY, "related_keys": f"[{KEY}]"}, (7, 16), "related_keys has the model's own key"),
        ({"revision": "-1"}, (6, 12), "revision is no revision: leave it out"),
        ({"files": "\n    - path: ../x"}, (7, 6), "must be relative to the model"),
        ({"files": "\n    - path: a\n      sha265: b"}, (8, 6), "a file has no field sha265"),
        ({"default_settings": "{steps: 0}"}, (6, 20), "default_settings.steps"),
        ({"default_settings": "{stepz: 1}"}, (6, 21), "steps is meant, perhaps"),
        ({"default_settings": "{cpu_only: 2}"}, (6, 31), "cpu_only must be true or false, not '2'"),
        ({"a": "1\n  extra_fields: {a: '1'}"}, (6, 2), "a is there already, in extra_fields"),
        ({"extra_fields": "{a: '[1'}"}, (6, 16), 'extra_fields["a"] is'),
        ({"unknown_fields": "zz"}, (6, 18), "must be what a newer version wrote there"),
        ({"a": "*b"}, (6, 5), "is an alias"),
        ({"a": "&b c"}, (6, 5), "has an anchor (&b)"),
        ({"a": "!!int 1"}, (6, 5), "has a tag"),
        ({"a": "[" * 40 + "]" * 40}, (6, 35), "nested deeper than 32 levels"),
        ({"a": "\t\x07"}, (6, 6), "has the character"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    lines: dict[str, str], place: tuple[int, int], what: str
) -> None:
    body = "e:\n" + "".join(f"  {name}: {value}\n" for name, value in (GOOD | lines).items())
    with pytest.raises(Problem) as caught:
        check_by_hand(read_entry(body), None)
    assert what in caught.value.what
    assert (caught.value.line, caught.value.column) == place
