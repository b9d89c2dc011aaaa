"""The rules for what a record says besides: pages, default settings, fields of other programs, pictures."""

from __future__ import annotations

import pytest

from modelkeep.exceptions import FieldInvalidException
from modelkeep.model.v1.taxonomy_pb2 import ModelFormat, ModelType
from modelkeep_record.domain import rules
from support.recordshelf import Shelf, change, vae


async def test_an_address_of_a_page_is_one_of_the_web_and_is_kept_without_secrets() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(source_url="https://u:p@host/m?token=abcdef"), [], 5.0)
    assert made.source_url == "https://host/m?token=REDACTED"
    for bad in ("page", "ftp://host/m", "https://", "https://ho st/m", "javascript:alert(1)"):
        with pytest.raises(FieldInvalidException, match="source_url") as caught:
            await change(shelf, made.key, source_url=bad)
        assert [violation.field for violation in caught.value.violations] == ["model.source_url"]
    changed, _ = await change(shelf, made.key, "source_url", source_url="http://host/n?sig=abcdef")
    assert changed.source_url == "http://host/n?sig=REDACTED"
    assert not (await change(shelf, made.key, "source_url"))[0].source_url


async def test_fields_of_another_program_are_values_of_json() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(extra_fields={"a": '{"b": [1, null]}', "c": '"x"'}), [], 5.0)
    for bad, why in (
        ("", "is no JSON"),
        ("{'a': 1}", "is no JSON"),
        ("NaN", "finite number"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('"\\ud800"', "half of a character"),
        ("[" * 33 + "]" * 33, "nested deeper than 32 levels"),
        ("[" * 100_000, "nested deeper than 32 levels"),
        ("1" * 41, "a number of 41 digits"),
    ):
        with pytest.raises(FieldInvalidException, match=why) as caught:
            await change(shelf, made.key, extra_fields={"a": bad, "c": '"x"'})
        assert [violation.field for violation in caught.value.violations] == ['model.extra_fields["a"]']
    changed, _ = await change(shelf, made.key, extra_fields={"c": "1"})
    assert dict(changed.extra_fields) == {"c": "1"}, "all of them are replaced"


async def test_one_of_the_default_settings_changes_by_itself_and_stays_whatever_the_type() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(default_settings={"weight": 0.5, "steps": 20}), [], 5.0)
    changed, _ = await change(shelf, made.key, "default_settings.steps", default_settings={"steps": 30})
    assert (changed.default_settings.steps, changed.default_settings.weight) == (30, 0.5)
    changed, _ = await change(shelf, made.key, default_settings={"cfg_scale": 7})
    assert (changed.default_settings.steps, changed.default_settings.cfg_scale) == (30, 7)
    lora = {"type": ModelType.MODEL_TYPE_LORA, "format": ModelFormat.MODEL_FORMAT_LYCORIS}
    changed, lost = await change(shelf, made.key, *lora, "default_settings.steps", **lora)
    assert (changed.default_settings.HasField("steps"), changed.default_settings.weight) == (False, 0.5)
    assert lost == []
    assert not (await change(shelf, made.key, "default_settings"))[0].HasField("default_settings")


async def test_what_is_known_about_a_picture_is_not_said_by_callers() -> None:
    shelf = Shelf()
    made = await rules.create(shelf, vae(cover_image={"media_type": "image/png"}), [], 5.0)
    assert not made.HasField("cover_image")
    with pytest.raises(FieldInvalidException, match="cover_image"):
        await change(shelf, made.key, "cover_image", cover_image={"media_type": "image/png"})
