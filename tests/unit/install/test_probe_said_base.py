"""The base that a hub names, as weak evidence beside what the files show."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep_install.probe import Strength, probe
from support.installs import small_lora
from support.modelshapes import table, write_safetensors


@pytest.mark.parametrize(
    ("said", "base"),
    [
        ("SDXL 1.0", "sdxl"),
        ("SD 1.5", "sd-1"),
        ("SD 2.1 768", "sd-2"),
        ("Pony", "sdxl"),
        ("Illustrious", "sdxl"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
    ],
)
def test_a_base_that_the_files_leave_open_is_the_one_that_the_source_names(
    tmp_path: Path, said: str, base: str
) -> None:
    file = write_safetensors(tmp_path / "ae.safetensors", table("vae.ldm"))
    assert probe(file).base == "unknown"
    found = probe(file, said_base=said)
    assert found.base == base
    [evidence] = [e for e in found.match.evidence if e.finding == f"base={base}"]
    assert evidence.strength is Strength.WEAK
    assert said in evidence.observation


@pytest.mark.parametrize("said", ["", "Flux.1 D", "Other", "SD 3.5"])
def test_a_base_that_the_files_rule_out_or_nobody_knows_chooses_nothing(tmp_path: Path, said: str) -> None:
    file = write_safetensors(tmp_path / "ae.safetensors", table("vae.ldm"))
    assert probe(file, said_base=said).base == "unknown"


def test_the_source_is_believed_before_the_name_of_a_file_and_never_against_the_tensors(
    tmp_path: Path,
) -> None:
    file = write_safetensors(tmp_path / "sd1-vae.safetensors", table("vae.ldm"))
    assert (probe(file).base, probe(file, said_base="SDXL 1.0").base) == ("sd-1", "sdxl")
    lora = small_lora(tmp_path / "style.safetensors", base="sd-1")
    assert probe(lora, said_base="SDXL 1.0").base == "sd-1"
