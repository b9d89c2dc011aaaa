"""The table of families agrees with the vocabulary, and with what can be lent."""

from __future__ import annotations

import re

import pytest

from modelkeep.taxonomy import BaseModelType, ModelVariantType, SubModelType
from modelkeep.worker.classconfig import known_keys
from modelkeep.worker.classes import ALLOWED
from modelkeep_common.families import BY_BASE, FAMILIES, VARIANT_BY_CHANNELS, Family, bases_by
from modelkeep_common.families.networks import Autoencoder, Layout, TextEncoder
from support.modelshapes import Table, table

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


def layers_of(tensors: Table) -> dict[str, tuple[int, ...]]:
    weights = {name.removesuffix(".weight"): shape for name, shape in tensors.items() if "weight" in name}
    return {name: tuple(shape[:2]) for name, shape in weights.items()}


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("base", [family.base for family in FAMILIES if family.unet])
def test_the_layers_of_a_unet_are_those_of_the_libraries(base: str, layout: Layout) -> None:
    unet = BY_BASE[base].unet
    assert unet is not None
    assert unet.layers(layout) == layers_of(table(f"unet.{base}.{layout}"))


@pytest.mark.parametrize(("file", "width", "depth"), [("clip-l", 768, 12), ("openclip-g", 1280, 32)])
def test_the_layers_of_a_text_encoder_are_those_of_the_library(file: str, width: int, depth: int) -> None:
    layers = layers_of(table(f"text.{file}.transformers"))
    assert TextEncoder(width, depth).layers() == {"text_projection": (width, width)} | layers


@pytest.mark.parametrize(
    ("file", "latents", "layout"), [("vae.ldm", 4, "ldm"), ("vae.flux.diffusers", 16, "diffusers")]
)
def test_the_layers_of_an_autoencoder_are_those_of_the_libraries(
    file: str, latents: int, layout: Layout
) -> None:
    layers = layers_of(table(file))
    found = Autoencoder(latents).layers(layout)
    assert layers.items() <= found.items()
    assert {name.rpartition(".")[2] for name in found.keys() - layers.keys()} <= {
        "quant_conv",
        "post_quant_conv",
    }


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
