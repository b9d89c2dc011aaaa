"""What helpers leave beside a model's file: read where it is as it should be, and never an error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelkeep_install.domain.draft import draft_of
from modelkeep_install.domain.roots import ModelRoots
from modelkeep_install.probe import ProbeResult, Strength, probe
from modelkeep_install.probe.readers.sidecars import MAX_BYTES
from support.installs import small_lora
from support.modelshapes import table, write_safetensors, write_vae_folder

#: As the helpers of stable-diffusion-webui write it, with what nobody here needs.
VERSION: dict[str, Any] = {
    "id": 10638,
    "modelId": 8765,
    "name": "v1.0",
    "baseModel": "SD 1.5",
    "trainedWords": ["inkpaper, ink style", "(thin, lines:1.2)"],
    "description": "<p>The <b>first</b> version.</p>",
    "model": {
        "name": "Ink",
        "type": "LORA",
        "nsfw": False,
        "description": "<p>Ink on paper.</p>",
        "tags": ["style", "ink"],
        "allowCommercialUse": ["Image"],
        "allowDerivatives": True,
    },
    "files": [{"name": "ink.safetensors", "hashes": {"SHA256": "00"}}],
    "images": [{"url": "https://images.example/1.jpeg", "nsfwLevel": 1}],
    "extensions": {"sd_civitai_helper": {"version": "1.8.5"}},
}
NOTES: dict[str, Any] = {
    "description": "My own words.",
    "sd version": "SD1",
    "activation text": "brush, wet paper",
    "preferred weight": 0.8,
    "negative text": "",
    "notes": "Good for letters.",
}


def lora(folder: Path) -> Path:
    return small_lora(folder / "ink.safetensors", base="sd-1")


def beside(file: Path, ending: str, content: object) -> Path:
    car = file.with_name(file.stem + ending)
    car.write_text(content if isinstance(content, str) else json.dumps(content))
    return car


def lines(found: ProbeResult) -> list[tuple[str, str]]:
    return [(e.finding, e.observation) for e in found.match.evidence if e.finding.endswith("side car")]


def test_a_version_of_civitai_gives_description_licence_tags_and_trigger_phrases(tmp_path: Path) -> None:
    file = lora(tmp_path)
    beside(file, ".civitai.info", VERSION)
    found = probe(file)
    assert found.description == "Ink on paper.\n\nThe first version."
    assert found.said == {
        "license": "allowCommercialUse=Image;allowDerivatives=true",
        "tags": ["style", "ink"],
        "trigger_phrases": ["inkpaper", "ink style", "(thin, lines:1.2)"],
        "source_url": "https://civitai.com/models/8765?modelVersionId=10638",
    }
    assert (found.name, list(found.files)) == ("ink", ["ink.safetensors"])
    told = "description, licence, tags, trigger phrases, source url, base 'SD 1.5', type 'LORA'"
    assert lines(found) == [("side car", f"ink.civitai.info tells {told}")]
    assert {e.strength for e in found.match.evidence if e.finding == "side car"} == {Strength.WEAK}
    model, _ = draft_of(found, {"trigger_phrases": ["mine"]})
    assert (model.description, list(model.trigger_phrases)) == (found.description, ["mine"])
    assert list(model.tags) == ["style", "ink"]


def test_what_a_user_noted_in_the_webui_fills_in_what_civitai_leaves_open(tmp_path: Path) -> None:
    file = lora(tmp_path)
    beside(file, ".json", NOTES)
    alone = probe(file)
    assert alone.description == "My own words.\n\nGood for letters."
    assert alone.said == {"trigger_phrases": ["brush", "wet paper"], "default_settings": {"weight": 0.8}}
    assert draft_of(alone, {})[0].default_settings.weight == 0.8
    beside(file, ".civitai.info", VERSION | {"trainedWords": []})
    both = probe(file)
    assert both.description.startswith("Ink on paper.")
    assert both.said["trigger_phrases"] == ["brush", "wet paper"]
    assert [line.split()[0] for _, line in lines(both)] == ["ink.civitai.info", "ink.json"]


@pytest.mark.parametrize(
    ("ending", "content"),
    [(".civitai.info", {"baseModel": "SDXL 1.0"}), (".json", {"sd version": "SDXL"})],
)
def test_the_base_chooses_among_those_that_the_files_leave_open_and_never_against_tensors(
    tmp_path: Path, ending: str, content: dict[str, str]
) -> None:
    vae = write_safetensors(tmp_path / "ae-sd1.safetensors", table("vae.ldm"))
    beside(vae, ending, content)
    found = probe(vae)
    assert found.base == "sdxl"  # before the name of the file
    [seen] = [e for e in found.match.evidence if e.finding == "base=sdxl"]
    [word] = content.values()
    assert (seen.strength, seen.observation) == (Strength.WEAK, f"ae-sd1{ending} says {word!r}")
    assert probe(vae, said_base="SD 1.5").base == "sd-1"  # what a hub says of this very download comes first
    file = lora(tmp_path)
    beside(file, ending, content)
    assert probe(file).base == "sd-1"


def test_a_base_that_nobody_knows_and_a_type_that_the_tensors_deny_change_nothing(tmp_path: Path) -> None:
    vae = write_safetensors(tmp_path / "ae.safetensors", table("vae.ldm"))
    beside(vae, ".civitai.info", {"baseModel": "Flux.1 D", "model": {"type": "Checkpoint"}})
    found = probe(vae)
    assert (found.type, found.base, found.said) == ("vae", "unknown", {})
    assert lines(found) == [("side car", "ae.civitai.info tells base 'Flux.1 D', type 'Checkpoint'")]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no JSON"),
        ("not JSON", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"description": "\\ud800"}', "half of a character"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested deeper"),
        ("[" * 200_000, "nested deeper"),
        ('{"description": "a", "description": "b"}', "there twice"),
        (json.dumps({"description": "x" * MAX_BYTES}), "longer than 1,048,576 bytes"),
    ],
)
@pytest.mark.parametrize("ending", [".civitai.info", ".json"])
def test_what_cannot_be_read_is_left_out_and_said(
    tmp_path: Path, ending: str, content: str, why: str
) -> None:
    file = lora(tmp_path)
    plain = probe(file)
    beside(file, ending, content)
    found = probe(file)
    assert (found.description, found.said, found.base) == (plain.description, {}, plain.base)
    [(finding, observation)] = lines(found)
    assert finding == "no side car"
    assert observation.startswith(f"ink{ending} is not read: ")
    assert why in observation
    assert len(observation) < 300


@pytest.mark.parametrize("wrong", [None, 7, -0.5, True, {}, [], [[["a"]]], {"name": ["a"]}, "\x00\x1b\n"])
def test_wrong_types_tell_nothing(tmp_path: Path, wrong: object) -> None:
    file = lora(tmp_path)
    plain = probe(file)
    beside(file, ".civitai.info", {name: wrong for name in VERSION if name != "model"})
    beside(file, ".json", dict.fromkeys(NOTES, wrong))
    for model in (wrong, dict.fromkeys(VERSION["model"], wrong)):
        beside(file, ".civitai.info", dict.fromkeys(VERSION, wrong) | {"model": model})
        found = probe(file)
        assert found.description == plain.description
        right = {"7": {"source_url", "default_settings"}, "-0.5": {"default_settings"}}.get(
            repr(wrong), set()
        )
        assert set(found.said) <= {"license"} | right  # a plain `true` is a term of use
        assert [line for _, line in lines(found) if "not read" in line] == []


@pytest.mark.parametrize("weight", [0, 0.0, 100, -1e300, 10**400, "1", True, None])
def test_a_weight_that_nobody_can_mean_is_none(tmp_path: Path, weight: object) -> None:
    file = lora(tmp_path)
    beside(file, ".json", {"preferred weight": weight})
    assert probe(file).said == {}


def test_pipes_folders_and_links_out_of_the_roots_are_left_out_and_said(tmp_path: Path) -> None:
    inside, outside = tmp_path / "import", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    roots = ModelRoots(tmp_path / "models", "root", [inside], data_dir=tmp_path / "data")
    file = lora(inside)
    (outside / "x.json").write_text(json.dumps(NOTES))
    os.symlink(outside / "x.json", inside / "ink.json")
    os.mkfifo(inside / "ink.civitai.info")
    found = probe(file, opener=roots.open, check=roots.readable)
    assert found.said == {}
    assert "My own words" not in found.description
    pipe, link = [observation for _, observation in lines(found)]
    assert "is not a regular file" in pipe
    assert link.startswith("ink.json is not read: ")
    (inside / "ink.json").unlink()
    (inside / "ink.json").mkdir()
    (inside / "ink.civitai.info").unlink()
    os.symlink("nothing", inside / "ink.civitai.info")
    found = probe(file, opener=roots.open, check=roots.readable)
    [folder] = [observation for _, observation in lines(found)]
    assert "is not a regular file" in folder
    (inside / "ink.json").rmdir()
    (inside / "notes.json").write_text(json.dumps(NOTES))
    os.symlink("notes.json", inside / "ink.json")  # links inside the roots are followed
    assert probe(file, opener=roots.open, check=roots.readable).said["trigger_phrases"]


def test_a_file_whose_side_cars_would_have_too_long_a_name_has_none(tmp_path: Path) -> None:
    file = small_lora(tmp_path / f"{'n' * 243}.safetensors")
    assert lines(probe(file)) == []


def test_a_copy_has_those_of_the_file_that_it_was_made_of_and_a_folder_has_none(tmp_path: Path) -> None:
    file = lora(tmp_path)
    beside(file, ".json", NOTES)
    (tmp_path / "staged").mkdir()
    copy = lora(tmp_path / "staged")
    assert probe(copy).said == {}
    assert probe(copy, named=file).said["trigger_phrases"] == ["brush", "wet paper"]
    folder = write_vae_folder(tmp_path / "vae")
    (tmp_path / "vae.json").write_text(json.dumps(NOTES))
    assert lines(probe(folder)) == []
