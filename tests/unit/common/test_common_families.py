"""The table of families agrees with the vocabulary, and with what can be lent."""

from __future__ import annotations

import re

import pytest

from modelkeep.taxonomy import BaseModelType, ModelVariantType, SubModelType
from modelkeep.worker.classconfig import known_keys
from modelkeep.worker.classes import ALLOWED
from modelkeep_common.families import BY_BASE, FAMILIES, VARIANT_BY_CHANNELS, Family, bases_by

BY_NAME = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.base))


@BY_NAME
def test_a_family_is_told_in_the_words_of_the_vocabulary(family: Family) -> None:
    assert family.base in set(BaseModelType)
    assert {part.name for part in family.components} <= set(SubModelType)
    assert set(VARIANT_BY_CHANNELS.values()) == set(ModelVariantType)


@BY_NAME
def test_what_a_family_has_can_be_lent(family: Family) -> None:
    assert {(part.library, part.class_name) for part in family.components} <= ALLOWED.keys()
    assert family.vae.keys() <= known_keys("AutoencoderKL")
    assert bool(family.vae) == bool(family.latent_channels) == ("scaling_factor" in family.vae)


def test_every_base_stands_once_and_is_told_apart_by_what_its_denoiser_takes() -> None:
    assert len(BY_BASE) == len(FAMILIES)
    widths = bases_by(lambda family: [family.context_width] if family.context_width else [])
    assert all(len(bases) == 1 for bases in widths.values())


def test_bases_that_share_a_value_are_listed_with_the_likelier_first() -> None:
    assert bases_by(lambda family: family.text_widths) == {
        768: ("sd-1", "sdxl"),
        1024: ("sd-2",),
        1280: ("sdxl", "sdxl-refiner"),
    }


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("sd15-anime", ["sd-1"]),
        ("v1-5-pruned", ["sd-1"]),
        ("stable-diffusion-2-1", ["sd-2"]),
        ("juggernaut_xl", ["sdxl"]),
        ("sd_xl_refiner_1.0", ["sdxl", "sdxl-refiner"]),
        ("flux-dev", []),
        ("pixel", []),
    ],
)
def test_names_speak_of_families(name: str, bases: list[str]) -> None:
    assert [f.base for f in FAMILIES if f.words and re.search(f.words, name)] == bases
