"""What InvokeAI's records say comes along without what opens something."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelkeep.exceptions import InvalidModelConfigException
from modelkeep_install.invokeai.cleaning import cleaned

#: No service's form of a token: it is known by where it stands alone.
SECRET = "hunter22hunter22"
URL = f"https://models.example.com/1?token={SECRET}"
SHOWN = "https://models.example.com/1?token=REDACTED"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (URL, SHOWN),
        (f"https://u:{SECRET}@models.example.com/1", "https://models.example.com/1"),
        (f"Get it at <{URL}>, or [here]({URL}) ...", f"Get it at <{SHOWN}>, or [here]({SHOWN} ..."),
        ({"access_token": SECRET}, {"access_token": "REDACTED"}),
        ({"headers": {"Authorization": f"Bearer {SECRET}"}}, {"headers": {"Authorization": "REDACTED"}}),
        ({"apiKey": [SECRET]}, {"apiKey": "REDACTED"}),
        ([{URL: [URL]}], [{SHOWN: [SHOWN]}]),
        (json.dumps({"a": [URL], "token": SECRET}), json.dumps({"a": [SHOWN], "token": "REDACTED"})),
        ("hf_abcdefghijklmnop", "REDACTED"),
    ],
)
def test_what_opens_something_stays_behind(value: Any, kept: Any) -> None:
    assert cleaned({"field": value}) == {"field": kept}
    assert cleaned({"field": kept}) == {"field": kept}


@pytest.mark.parametrize(
    "value",
    [
        "(token:1.2) Bearer of light, key: minor",
        "https://example.com/a b",
        {"bos_token": "<s>", "tokenizer": "tokenizer/", "num_tokens": 3, "token": None, "password": ""},
        {"expires": "2026-01-01", "hash": "blake3:00", "key": "c minor"},
        '{"not json',
        [1, 2.5, None, True],
    ],
)
def test_all_else_is_kept_as_it_is(value: Any) -> None:
    assert cleaned({"field": value}) == {"field": value}


def test_a_path_stays_what_it_is_so_that_the_model_is_found() -> None:
    path = "hf_abcdefghijklmnop/model.safetensors"
    assert cleaned({"path": path, "name": path}) == {"path": path, "name": "REDACTED/model.safetensors"}
    assert cleaned({"path": URL}) == {"path": SHOWN}


def test_half_characters_become_whole_ones() -> None:
    assert cleaned({"k\udc00": ["é\ud83d"]}) == {"k?": ["é?"]}


def test_what_is_nested_too_deeply_is_told() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(InvalidModelConfigException, match="more deeply than can be kept"):
        cleaned({"field": value})
