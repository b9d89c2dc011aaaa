"""Components of main models: which there are, which can be lent, and what a wrong name is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    InvalidModelException,
    SubmodelRequiredException,
    UnknownSubmodelException,
    UnsafeFormatException,
)
from modelkeep_loader.domain.plan import Planner
from support.plans import KEY, WEIGHTS, Shelf, pipeline, plan, record, weights


@pytest.fixture
def folder(shelf: Shelf, tmp_path: Path) -> Path:
    """A pipeline whose safety checker alone is a pickle, as in many older repositories."""
    place = pipeline(tmp_path / "models" / "one")
    index = json.loads((place / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (place / "model_index.json").write_text(json.dumps(index))
    checker = place / "safety_checker"
    checker.mkdir()
    (checker / "config.json").write_text('{"architectures": ["StableDiffusionSafetyChecker"]}')
    # Of the format before torch 1.6: a bare pickle, which nobody here follows.
    (checker / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nabort\n)R.")
    shelf.records[KEY] = record("one")
    return place


async def test_a_pickle_among_the_components_is_never_run_and_keeps_no_other_from_being_lent(
    planner: Planner, folder: Path
) -> None:
    assert (await plan(planner, "vae")).class_name == "AutoencoderKL"
    assert (await plan(planner, "unet")).class_name == "UNet2DConditionModel"
    with pytest.raises(UnsafeFormatException) as raised:
        await plan(planner, "safety_checker")
    assert raised.value.metadata["path"] == str(folder / "safety_checker" / "pytorch_model.bin")


async def test_without_a_component_the_answer_says_which_can_be_lent_and_why_others_cannot(
    planner: Planner, folder: Path
) -> None:
    with pytest.raises(SubmodelRequiredException) as raised:
        await plan(planner, "")
    assert raised.value.metadata["available"] == "safety_checker,scheduler,unet,vae"
    assert raised.value.metadata["loadable"] == "unet,vae"
    assert "It can lend unet, vae." in raised.value.message
    assert "safety_checker (UNSAFE_FORMAT)" in raised.value.message


async def test_a_component_that_is_not_there_is_unknown_and_the_answer_names_those_that_can_be_lent(
    planner: Planner, folder: Path
) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    with pytest.raises(UnknownSubmodelException) as raised:
        await plan(planner, "text_encoder_2")
    assert raised.value.remedy == "Name one of the components that can be lent: vae."
    said = raised.value.metadata
    assert (said["key"], said["submodel"], said["loadable"]) == (KEY, "text_encoder_2", "vae")
    assert "unet (MODEL_NOT_FOUND_ON_DISK)" in raised.value.message


async def test_the_vae_that_a_record_names_is_among_what_can_be_lent(
    planner: Planner, shelf: Shelf, folder: Path
) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": [None, None]}))
    shelf.records[KEY] = record("one", vae="one/vae")
    with pytest.raises(SubmodelRequiredException) as raised:
        await plan(planner, "")
    assert raised.value.metadata["loadable"] == "unet,vae"


async def test_a_file_that_is_no_main_model_is_refused_at_once_and_not_asked_for_a_component(
    planner: Planner, shelf: Shelf, tmp_path: Path
) -> None:
    weights(tmp_path / "models" / "main.safetensors")
    shelf.records[KEY] = record("main.safetensors")
    with pytest.raises(InvalidModelException, match="holds no component of a Stable Diffusion 1"):
        await plan(planner, "")
