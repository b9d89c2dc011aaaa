"""What is taken of a pipeline is what diffusers would fetch; the differences are named, one by one."""

from __future__ import annotations

import fnmatch
import os
import warnings
from typing import Any

import pytest

from support.hublistings import Listing, listings

pytestmark = pytest.mark.timeout(120)

PIPELINES = [listing for listing in listings().values() if listing.index is not None]
FLAT = [
    "stabilityai/sdxl-vae",
    "madebyollin/sdxl-vae-fp16-fix",
    "openai/clip-vit-large-patch14",
    "lllyasviel/control_v11p_sd15_canny",
    "diffusers/controlnet-canny-sdxl-1.0",
    "google/t5-v1_1-xxl-sharded",
    "Wan-AI/Wan2.1-T2V-14B",
]


@pytest.fixture(scope="module")
def rules() -> Any:
    """diffusers' own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines import pipeline_loading_utils
    return pipeline_loading_utils


def chosen_by_diffusers(rules: Any, listing: Listing, variant: str | None) -> set[str]:
    """As `DiffusionPipeline.download` puts its patterns together."""
    index = dict(listing.index or {})
    filenames = set(listing.files) - set(index.pop("_ignore_files", []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        custom, folders = rules._get_custom_components_and_folders(
            listing.repo, _without_modules(index), filenames, variant
        )
        heavy = {
            os.path.split(name)[0]
            for name in rules.filter_model_files(filenames)
            if os.path.split(name)[0] in folders
        }
        onnx = str(index.get("_class_name")).startswith("Onnx")
        ignored = rules._get_ignore_patterns([], heavy, filenames, True, True, None, onnx, False, variant)
        weights, _ = rules.variant_compatible_siblings(filenames, variant=variant, ignore_patterns=ignored)
    allowed = [
        *weights,
        *(f"{folder}/*" for folder in folders if folder not in heavy),
        *(f"{folder}/{name}.py" for folder, name in custom.items()),
        *(f"{folder}/config.json" for folder in heavy),
        *("scheduler_config.json", "config.json", "model_index.json", "pipeline.py"),
        *("chat_template.jinja", "generation_config.json", "preprocessor_config.json"),
        *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    ]
    ignored += [f"{pattern}.index.*json" for pattern in ignored]
    return {
        name
        for name in filenames
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
    }


def _without_modules(index: dict[str, Any]) -> dict[str, Any]:
    """With diffusers in place of its modules: some are only there with packages that are not installed."""
    return {
        name: ["diffusers", made_of[1]] if isinstance(made_of, list) and made_of[0] == "kolors" else made_of
        for name, made_of in index.items()
    }


def expected(rules: Any, listing: Listing, variant: str | None) -> set[str]:
    """The same, without what is never fetched here: code, and what no component of the pipeline is."""
    own = {name for name, made_of in (listing.index or {}).items() if made_of != [None, None]}
    return {
        name
        for name in chosen_by_diffusers(rules, listing, variant)
        if not name.endswith(".py") and ("/" not in name or name.split("/")[0] in own)
    }


def taken(listing: Listing, variant: str = "") -> set[str]:
    """The paths that are taken here."""
    return {entry.path for entry in listing.select(variant=variant).files}


def has(listing: Listing, variant: str) -> bool:
    """Whether there are files of a variant."""
    return any(f".{variant}." in name or f".{variant}-" in name for name in listing.files)


def test_there_are_enough_listings_to_compare() -> None:
    assert len(PIPELINES) + len(FLAT) >= 30


@pytest.mark.parametrize("listing", PIPELINES, ids=lambda listing: str(listing.repo))
def test_a_pipeline_in_full_precision(rules: Any, listing: Listing) -> None:
    found = expected(rules, listing, None)
    if listing.mixed:
        # diffusers drops every safetensors file then, and would fetch more in .bin.
        assert taken(listing) - found == {"unet/diffusion_pytorch_model.safetensors"}
        assert found - taken(listing) == {"unet/diffusion_pytorch_model.bin"}
    elif listing.repo == "example/fp16-only":
        # diffusers fetches no weights at all then.
        assert found == {name for name in taken(listing) if ".fp16." not in name}
        assert taken(listing) == taken(listing, "fp16")
    else:
        assert taken(listing) == found


@pytest.mark.parametrize("listing", PIPELINES, ids=lambda listing: str(listing.repo))
def test_a_pipeline_in_fp16_which_falls_back_to_full_precision(rules: Any, listing: Listing) -> None:
    chosen = listing.select(variant="fp16")
    assert {entry.path for entry in chosen.files} == (
        expected(rules, listing, "fp16") if has(listing, "fp16") else taken(listing)
    )
    if not has(listing, "fp16"):
        assert any("no fp16 files" in reason for reason in chosen.reasons)


@pytest.mark.parametrize(
    ("repo", "variant"),
    [("runwayml/stable-diffusion-v1-5", "non_ema"), ("stabilityai/stable-cascade", "bf16")],
)
def test_a_pipeline_in_another_variant(rules: Any, repo: str, variant: str) -> None:
    listing = listings()[repo]
    assert taken(listing, variant) == expected(rules, listing, variant)


@pytest.mark.parametrize("repo", FLAT)
@pytest.mark.parametrize("variant", ["", "fp16"])
def test_the_weights_of_one_component(rules: Any, repo: str, variant: str) -> None:
    listing = listings()[repo]
    names = set(listing.files)
    wanted = variant if variant and has(listing, variant) else None
    ignored = rules._get_ignore_patterns([], [], names, True, True, None, False, False, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights, _ = rules.variant_compatible_siblings(names, variant=wanted, ignore_patterns=ignored)
    chosen = listing.select(variant=variant)
    heavy = {entry.path for entry in chosen.files if entry.sha256 and entry.suffix != "model"}
    index = {entry.path for entry in chosen.files if ".index." in entry.path}
    assert heavy | index == weights
    assert "config.json" in {entry.path for entry in chosen.files}
