"""What a card says of its model: as plain text, however it was written."""

from __future__ import annotations

import pytest

from modelkeep_download.resolve import card


def address(path: str) -> str:
    return f"https://hub.example/o/n/resolve/c0ffee/{path}"


SDXL = """---
license: openrail++
tags:
- text-to-image
---
# SD-XL 1.0-base Model Card
![row01](01.png)

## Model

![pipeline](pipeline.png)

[SDXL](https://arxiv.org/abs/2307.01952) consists of an [ensemble of experts](https://a.example) pipeline:
In a first step, the base model is used to generate (noisy) latents.

- **Developed by:** Stability AI
"""

LORA = """---
instance_prompt: null
---
<Gallery />

<!-- Provide a quick summary of what the model is/does. -->

[![Open](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/x)
<img src="https://img.shields.io/badge/a-b.png">
<p align="center"><img width="10" src='./images/one.webp'/></p>

These are LoRA&nbsp;weights for &quot;things&quot; <b>that</b> were `trained`
<script>alert("no")</script>at home.

You should use `a photo of TOK dog` to trigger the image generation.

**Trigger words:** ohwx, sks style

| a | b |
|---|---|

```python
print("code is not text")
```
"""


def test_a_description_is_the_first_paragraphs_as_plain_text() -> None:
    assert card.description(SDXL) == (
        "SDXL consists of an ensemble of experts pipeline: In a first step, the base model is used to"
        " generate (noisy) latents.\n\nDeveloped by: Stability AI"
    )
    told = card.description(LORA)
    assert told.startswith('These are LoRA weights for "things" that were trained at home.')
    for left_out in ("<", "alert", "code is not", "colab", "quick summary", "|"):
        assert left_out not in told


def test_a_long_description_is_cut_between_characters() -> None:
    told = card.description("\n\n".join("é" * 5000 for _ in range(3)))
    assert len(told.encode()) <= card.MAX_DESCRIPTION
    assert told.endswith("é…")


@pytest.mark.parametrize(
    "readme",
    [
        "",
        "---\nlicense: mit\n---\n",
        "# Only a heading",
        "## Model Details\n\n- **Developed by:** [More Information Needed]\n",
        "![a](b.png)",
        "\x00\x1b[31m",
    ],
)
def test_a_card_that_says_nothing_describes_nothing(readme: str) -> None:
    assert card.description(readme) == ""


@pytest.mark.parametrize(
    "hostile",
    [
        *("[" * 200_000, "![" * 100_000, "<" * 200_000, "<img src=" * 30_000, "*" * 200_000, "a*" * 100_000),
        *("[a](" * 60_000, "---\n" * 60_000, "`" * 200_000 + "a", "<!--" * 60_000, "<script" * 30_000),
        *("trigger word:" * 20_000, "You should use " * 15_000, "| " * 100_000, "**a" * 80_000),
        *("_" * 200_000, "=\n" * 100_000, "*a`" * 70_000, "trigger word" + " " * 200_000, "![a]( " * 40_000),
    ],
    ids=range(20),
)
@pytest.mark.timeout(20)
def test_no_card_takes_for_ever(hostile: str) -> None:
    assert len(card.description(hostile).encode()) <= card.MAX_DESCRIPTION
    assert len(card.trigger_phrases({}, hostile)) <= 16
    assert card.preview({}, hostile, address) == ""


def test_trigger_phrases_are_those_that_are_called_so() -> None:
    assert card.trigger_phrases({}, LORA) == ["a photo of TOK dog", "ohwx", "sks style"]
    assert card.trigger_phrases({"instance_prompt": "a photo of sks dog"}, "") == ["a photo of sks dog"]
    for nothing in (None, "None", "", 5, {"a": 1}, [None]):
        assert card.trigger_phrases({"instance_prompt": nothing}, "text") == []
    assert card.trigger_phrases({"widget": [{"text": "a dog"}]}, "") == []


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"license": "mit"}, "mit"),
        ({"license": ["mit", "apache-2.0"]}, "mit, apache-2.0"),
        ({"license": "other", "license_name": "flux", "license_link": "LICENSE.md"}, "flux (%s)"),
        (
            {"license": "other", "license_name": "x", "license_link": "https://a.example/l"},
            "x (https://a.example/l)",
        ),
        ({"license": "other"}, "other"),
        ({"license_link": "./LICENSE.md"}, "%s"),
        ({"license": {"a": 1}}, ""),
        ({}, ""),
    ],
)
def test_licences(told: dict[str, object], shown: str) -> None:
    assert card.license_of(told, address) == shown.replace("%s", address("LICENSE.md"))


def test_tags_without_what_the_hub_adds() -> None:
    told = [
        "diffusers",
        "lora",
        "license:mit",
        "arxiv:1",
        "region:us",
        "base_model:adapter:x",
        "diffusers:X",
        "lora",
    ]
    assert card.tags(told) == ["diffusers", "lora"]
    assert len(card.tags(map(str, range(1000)))) == 64


def test_a_base_in_the_cards_own_words() -> None:
    assert card.base_of({"base_model": "a/b"}) == "a/b"
    assert card.base_of({"base_model": ["a/b", "c/d", 5]}) == "a/b, c/d"
    assert card.base_of({"base_model": {}}) == ""


def test_a_preview_is_the_first_picture_that_is_none_of_a_badge() -> None:
    assert card.preview({}, SDXL, address) == address("01.png")
    assert card.preview({}, LORA, address) == address("images/one.webp")
    widget = [{"text": "a"}, {"output": {"url": "images/two.png"}}]
    assert card.preview({"widget": widget}, SDXL, address) == address("images/two.png")
    for odd in (
        "../../x.png",
        "/x.png",
        "http://plain.example/x.png",
        "javascript:x.png",
        "//h/x.png",
        "x.svg",
        5,
    ):
        assert card.preview({"widget": [{"output": {"url": odd}}]}, "", address) == ""
    away = "https://cdn.example/a b.png".replace(" ", "%20")
    assert card.preview({"thumbnail": away}, "", address) == away


def test_lines_are_clean_and_short() -> None:
    assert card.line("a\n\x1b[2Jb\u202e  c") == "a [2Jb c"
    assert len(card.line("x" * 5000)) == 300
