"""What InvokeAI says of a model has a place here, or is kept as an extra field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.configs import UnknownConfig
from modelkeep.configs.wire import from_model, kind_violations
from modelkeep_common.calls.validation import collector
from modelkeep_install.domain.ports import RecordFile
from modelkeep_install.invokeai.looking import Place
from modelkeep_install.invokeai.mapping import Mapped, mapped
from modelkeep_install.invokeai.root import Root
from modelkeep_install.invokeai.source import Source, key_of
from support.invokeai_records import RECORDS, returned, said

ROOT = Path("/invokeai")


def taken(record: dict[str, Any], **fields: Any) -> Mapped:
    """A record as an import takes it, whose model is one file."""
    config = {**record, **fields}
    key = config.pop("key")
    path = config.get("path", "")
    shown = path if "://" in path else str(ROOT / "models" / path)
    place = Place(shown, shown, "", (RecordFile("weights.safetensors", 7, 0.0),), is_file=True)
    return mapped(Source(key, config), place, Root(ROOT, ROOT / "models", ROOT / "configs", None, None))


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_no_field_of_any_class_is_lost(name: str) -> None:
    record = RECORDS[name]
    model = taken(record).model
    assert returned(model, ROOT) == said(record)


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_record_of_any_class_can_be_stored_and_read(name: str) -> None:
    one = taken(RECORDS[name])
    assert collector()(one.model) == []
    assert kind_violations(one.model) == []
    config = from_model(one.model)
    unknown = name == "Unknown_Config"
    assert (one.is_unknown, isinstance(config, UnknownConfig)) == (unknown, unknown)
    assert config.name == RECORDS[name]["name"]


def test_most_fields_have_a_place_of_their_own() -> None:
    kept = {field for record in RECORDS.values() for field in taken(record).model.extra_fields}
    assert kept == {
        *(
            "key",
            "hash",
            "file_size",
            "source_api_response",
            "cover_image",
            "repo_variant",
            "submodels",
            "config_path",
        ),
        *("variant", "expert", "has_dual_expert", "latent_channels", "boundary_ratio", "cond_in_channels"),
        *(
            "default_settings",
            "is_default",
            "panel_schema",
            "capabilities",
            "provider_id",
            "provider_model_id",
        ),
    }


@pytest.mark.parametrize(
    ("key", "here"),
    [
        ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
        ("01234567-89ab-cdef-0123-456789ABCDEF", "0123456789abcdef0123456789abcdef"),
        ("openai-gpt-image", "1b4f8b5b0f"),
        ("\ud800", ""),
    ],
)
def test_a_key_follows_from_the_key_there(key: str, here: str) -> None:
    assert len(key_of(key)) == 32
    assert key_of(key) == key_of(key)
    if len(here) == 32:
        assert key_of(key) == here


def test_names_before_3_4_are_told_apart_by_their_place() -> None:
    assert key_of("sd-1/main/x", "/a") != key_of("sd-1/main/x", "/b")


def test_flux_of_5_has_its_variant_where_others_have_a_configuration() -> None:
    record = RECORDS["Main_Checkpoint_FLUX_Config"]
    one = taken(record, variant="inpaint", config_path="flux-dev-fill")
    assert (one.model.main.family_variant, one.model.main.checkpoint_config) == ("dev_fill", "")
    assert one.model.extra_fields["config_path"] == '"flux-dev-fill"'


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)


@given(
    name=st.sampled_from(sorted(RECORDS)),
    odd=st.dictionaries(
        st.sampled_from(sorted({field for record in RECORDS.values() for field in record} - {"key", "path"})),
        _JSON,
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=300, deadline=None)
def test_whatever_a_field_holds_it_can_be_stored_and_is_kept(name: str, odd: dict[str, Any]) -> None:
    one = taken(RECORDS[name], **odd)
    assert collector()(one.model) == []
    assert kind_violations(one.model) == []
    kept = {field: json.loads(text) for field, text in one.model.extra_fields.items()}
    back = returned(one.model, ROOT)
    if "cpu_only" in odd and one.model.default_settings.HasField("cpu_only"):
        back.setdefault("cpu_only", one.model.default_settings.cpu_only)
    for field, value in odd.items():
        if value in (None, "", {}, []) or (field in kept and kept[field] == value):
            continue
        if field == "source" or (isinstance(value, str) and "://" in value):
            continue  # an address does without what opens something
        if field == "default_settings" and isinstance(value, dict):
            value = {name: item for name, item in value.items() if item is not None}
            assert value.items() <= back.get(field, {}).items()
        elif field in ("tags", "trigger_phrases") and isinstance(value, list):
            assert set(back[field]) == set(value)
        else:
            assert back.get(field) == value, field
