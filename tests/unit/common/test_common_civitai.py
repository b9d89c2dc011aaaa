"""What Civitai's answers say, in modelkeep's words; text for people out of HTML."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.taxonomy import BaseModelType, ModelType
from modelkeep_common import civitai
from modelkeep_common.plain_text import plain_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("SD 1.4", "sd-1"),
        ("SD 1.5", "sd-1"),
        ("SD 1.5 Hyper", "sd-1"),
        ("SD 2.1 768", "sd-2"),
        ("SDXL 1.0", "sdxl"),
        ("SDXL Lightning", "sdxl"),
        ("Pony", "sdxl"),
        ("Pony V7", ""),  # made of another family than the Pony before it
        ("Illustrious", "sdxl"),
        ("NoobAI", "sdxl"),
        ("Flux.1 D", "flux"),
        ("Flux.1 Kontext", "flux"),
        ("Flux.2 Klein 9B", "flux2"),
        ("SD 3", "sd-3"),
        ("SD 3.5 Large", "sd-3"),
        ("ZImageTurbo", "z-image"),
        ("Qwen", "qwen-image"),
        ("Wan Video 2.2 I2V-A14B", "wan"),
        ("Hunyuan 1", ""),
        ("Other", ""),
        ("", ""),
    ],
)
def test_bases_are_ours_where_there_is_one(theirs: str, ours: str) -> None:
    assert civitai.base_of(theirs) == ours
    assert not ours or ours in set(BaseModelType)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Checkpoint", "main"),
        ("LORA", "lora"),
        ("LoCon", "lora"),
        ("DoRA", "lora"),
        ("TextualInversion", "embedding"),
        ("Controlnet", "controlnet"),
        ("VAE", "vae"),
        ("Upscaler", "spandrel_image_to_image"),
        ("MotionModule", ""),
        ("Hypernetwork", ""),
        ("Workflows", ""),
        ("Other", ""),
    ],
)
def test_types_are_ours_where_there_is_one(theirs: str, ours: str) -> None:
    assert civitai.type_of(theirs) == ours
    assert not ours or ours in set(ModelType)


@pytest.mark.parametrize(
    ("told", "terms"),
    [
        ({"allowCommercialUse": "Sell"}, "allowCommercialUse=Sell"),
        (
            {"allowCommercialUse": "{Image,RentCivit}"},
            "allowCommercialUse=Image;allowCommercialUse=RentCivit",
        ),
        ({"allowCommercialUse": []}, ""),
        ({"allowDerivatives": False, "allowNoCredit": True}, "allowDerivatives=false;allowNoCredit=true"),
        ({"allowDerivatives": "yes"}, ""),
    ],
)
def test_the_terms_have_the_form_that_records_keep(told: dict[str, Any], terms: str) -> None:
    assert civitai.license_of(told) == terms


@pytest.mark.parametrize(
    ("told", "phrases"),
    [
        (["one, two,", "two", " three "], ("one", "two", "three")),
        ("one\ntwo, (three, four:1.2)", ("one", "two", "(three, four:1.2)")),
        (["<lora:x:1>, [a|b, c]"], ("<lora:x:1>", "[a|b, c]")),
        (["(open, and", "next, one"], ("(open, and", "next", "one")),
        (["x" * 2000, "y"], ("y",)),
        (None, ()),
    ],
)
def test_trigger_phrases_are_taken_apart_at_commas(told: object, phrases: tuple[str, ...]) -> None:
    assert civitai.trigger_phrases_of(told) == phrases


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (
            [{"url": "https://x/1", "nsfwLevel": 8}, {"url": "https://x/2", "nsfwLevel": 1}],
            ("https://x/2", 1),
        ),
        ([{"url": "https://x/1", "nsfwLevel": 8}], ("https://x/1", 8)),
        ([{"url": "https://x/1", "nsfw": "X"}, {"url": "https://x/2", "nsfw": "None"}], ("https://x/2", 1)),
        ([{"url": "https://x/1", "nsfwLevel": 1, "type": "video"}], ("", 0)),
        ([{"url": "file:///etc/passwd"}], ("", 0)),
        ("none", ("", 0)),
    ],
)
def test_the_picture_is_the_first_that_is_fit_for_all(images: object, told: tuple[str, int]) -> None:
    assert civitai.picture_of(images) == told


@given(JSON)
def test_nothing_that_is_answered_is_an_error(value: object) -> None:
    civitai.text(value), civitai.items(value), civitai.number(value), civitai.time_of(value)
    civitai.license_of(civitai.mapping(value))
    civitai.license_of({"allowCommercialUse": value})
    assert all(civitai.tags_of(value))
    assert all(civitai.trigger_phrases_of(value))
    assert len(civitai.description_of(value, value).encode()) <= civitai.MAX_DESCRIPTION
    civitai.picture_of([value])
    civitai.picture_of([{"url": "https://x/1", "nsfwLevel": value}])


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One</p><p>Two<br/>Three</p>", "One\n\nTwo\nThree"),
        ("<ul><li>a</li><li><p>b</p></li></ul>", "- a\n-\nb"),
        ("3 &lt; 4 &amp; <em>so</em>", "3 < 4 & so"),
        ("a < b, and c > d", "a < b, and c > d"),
        ("<script>alert(1)</script><style>p{}</style>shown", "shown"),
        ("plain\n\n\n\ntext\x1b[0m\u202e", "plain\n\ntext[0m"),
        ("<p title='unclosed", ""),
        ("seen <!-- never <b>closed", "seen"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
        ("", ""),
    ],
)
def test_html_reads_as_people_read_it(markup: str, text: str) -> None:
    assert plain_text(markup, 10_000) == text


@pytest.mark.parametrize("piece", ["<!--", "<a ", "&#", "<p>", "<script>", "</", "<!", "<a b='", "<", "&"])
def test_mark_up_that_is_left_open_again_and_again_is_read_at_once(piece: str) -> None:
    """A reader that goes to the end for each of them does not end within the time that a test has."""
    assert len(plain_text(piece * (300_000 // len(piece)), 4096).encode()) <= 4096


def test_a_long_text_is_cut_between_characters() -> None:
    cut = plain_text("é" * 5000, 4096)
    assert len(cut.encode()) <= 4096
    assert cut.endswith("é…")
