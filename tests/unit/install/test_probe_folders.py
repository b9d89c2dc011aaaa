"""Folders and files as they lie about: under other names, with other things, one folder too deep."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.exceptions import InvalidModelException, UnsafeFormatException
from modelkeep_install.domain.draft import check_known
from modelkeep_install.probe import Hints, Strength, probe
from support.modelshapes import table, write_pipeline, write_safetensors, write_vae_folder


def refusal(path: Path) -> str:
    """What an install of it says."""
    with pytest.raises(InvalidModelException) as caught:
        check_known(probe(path), path)
    return caught.value.message


def write_lora(path: Path) -> Path:
    return write_safetensors(path, table("lora.sd-1.peft"))


# ---- bytes decide, not the suffix -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("ae.sft", "ae"),
        ("130072", "130072"),
        ("vae (1).safetensors", "vae (1)"),
        ("VAE.SAFETENSORS", "VAE"),
        ("vae.safetensors.part", "vae"),
        ("vae.safetensors.txt", "vae"),
        ("vae.ckpt", "vae"),
        ("[FLX] style v1.5", "[FLX] style v1.5"),
        ("style.v2", "style.v2"),
        (".safetensors", ".safetensors"),
    ],
)
def test_a_safetensors_file_is_taken_under_any_name(tmp_path: Path, name: str, called: str) -> None:
    result = probe(write_safetensors(tmp_path / name, table("vae.ldm")))
    assert (result.type, result.format, result.name) == ("vae", "checkpoint", called)


@pytest.mark.parametrize("name", ["model.safetensors", "model", "model.txt", "model.sft", "model.pt"])
def test_a_pickle_is_unsafe_under_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsafeFormatException, match=f"{name} is a pickle"):
        probe(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("model.gguf", b"GGUF\3\0\0\0" + bytes(40), "a GGUF file"),
        (
            "old.ckpt",
            b"version https://git-lfs.github.com/spec/v1\nsize 9\n",
            "Git LFS pointer to a file of 9",
        ),
        ("old.bin", b"Entry not found", '"Entry not found"'),
        ("readme.md", b"# About\nNothing", "It is text"),
        ("weights.dat", b"\7\1\2\3", "of no format that is known"),
        ("empty.pt", b"", "it is empty"),
    ],
)
def test_what_is_no_model_file_is_told_as_what_it_is(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert what in refusal(tmp_path / name)


def test_a_pointer_in_place_of_a_components_weights_is_told_as_one(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 334643268\n"
    )
    assert "Git LFS pointer to a file of 334,643,268 bytes" in refusal(folder)


# ---- folders that hold a model, and are none --------------------------------------------------------------
def test_of_a_folder_with_one_model_file_the_file_is_named(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "pixel" / "pixel-art-xl.safetensors")
    (tmp_path / "pixel" / "README.md").write_text("# readme")
    text = refusal(tmp_path / "pixel")
    assert "holds 1 model file" in text
    assert f"Install {path}." in text
    assert "type" not in text


def test_of_a_folder_with_several_loras_each_is_named(tmp_path: Path) -> None:
    paths = [write_lora(tmp_path / "shared" / f"l{n}.safetensors") for n in range(3)]
    (tmp_path / "shared" / "l1.preview.png").touch()
    text = refusal(tmp_path / "shared")
    assert "holds 3 model files" in text
    assert ", ".join(map(str, paths)) in text


def test_a_pipeline_one_folder_deeper_is_named(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "outer" / "inner", "sd-1")
    text = refusal(tmp_path / "outer")
    assert "holds a pipeline in inner/" in text
    assert f"Install {tmp_path / 'outer' / 'inner'}." in text
    assert "given" not in text


def test_what_is_named_in_place_of_a_folder_can_be_installed(tmp_path: Path) -> None:
    inner = tmp_path / "o" / "deep" / "er" / "vae"
    write_vae_folder(inner)
    write_lora(tmp_path / "l" / "x" / "adapter_model.safetensors")
    for outer in ("o", "l"):
        text = refusal(tmp_path / outer)
        named = Path(text.partition("Install ")[2].removesuffix("."))
        check_known(probe(named), named)


def test_a_folder_without_any_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert "no model file" in refusal(tmp_path)


def test_a_folder_of_pickles_alone_names_one(tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"x")
    with pytest.raises(UnsafeFormatException, match=r"old\.ckpt is a pickle"):
        probe(tmp_path)


@pytest.mark.parametrize("base", ["sd-1", "sd-2", "sdxl"])
def test_a_folder_that_peft_saved_is_a_lora(tmp_path: Path, base: str) -> None:
    tensors = {
        f"base_model.model.{name.removeprefix('unet.')}": shape
        for name, shape in table(f"lora.{base}.peft").items()
        if name.startswith("unet.")
    }
    folder = tmp_path / "style"
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')
    result = probe(folder)
    assert (result.type, result.base, result.format, result.name) == ("lora", base, "diffusers", "style")


def test_the_adapter_of_a_language_model_is_none_of_an_image_model(tmp_path: Path) -> None:
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{layer}.lora_A.weight": [8, 4096], f"{layer}.lora_B.weight": [4096, 8]}
    write_safetensors(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "task_type": "CAUSAL_LM"}')
    assert "a LoRA for a language model" in refusal(tmp_path)


@pytest.mark.parametrize("class_name", ["AutoencoderTiny", "AsymmetricAutoencoderKL", "VQModel"])
def test_other_autoencoders_are_told_as_such(tmp_path: Path, class_name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": class_name}))
    assert "an autoencoder of a kind that is not supported yet" in refusal(tmp_path)


# ---- what lies in a model's folder and is no part of it ---------------------------------------------------
def test_pipes_and_sockets_are_listed_and_not_taken(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    os.mkfifo(folder / "vae" / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "sock"))
        result = probe(folder)
    seen = next(e.observation for e in result.match.evidence if e.finding == "no file")
    assert "sock (a socket)" in seen
    assert "vae/pipe (a pipe)" in seen
    assert not {"sock", "vae/pipe"} & result.files.keys()


def test_a_linked_folder_in_the_place_of_a_component_is_the_reason(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    shutil.move(folder / "vae", tmp_path / "shared-vae")
    (folder / "vae").symlink_to("../shared-vae")
    assert "vae is a link to a folder" in refusal(folder)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "inner").symlink_to("../m")
    assert "inner is a link to a folder" in refusal(tmp_path / "outer")


# ---- pickles inside ---------------------------------------------------------------------------------------
def with_safety_checker(folder: Path, file: str) -> Path:
    part = folder / "safety_checker"
    part.mkdir()
    (part / "config.json").write_text('{"architectures": ["StableDiffusionSafetyChecker"]}')
    (part / file).write_bytes(b"PK\x03\x04" + bytes(100))
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_pipeline_whose_safety_checker_alone_is_a_pickle_is_taken_without_it(tmp_path: Path) -> None:
    folder = with_safety_checker(write_pipeline(tmp_path / "m", "sd-1"), "pytorch_model.bin")
    opened: list[Path] = []

    def opener(path: Path) -> object:
        opened.append(path)
        return path.open("rb", buffering=0)

    result = probe(folder, opener=opener)  # type: ignore[arg-type]
    check_known(result, folder)
    assert "safety_checker" not in {part.type for part in result.match.settings["submodels"]}
    seen = next(e for e in result.match.evidence if e.finding == "no submodel=safety_checker")
    assert "safety_checker/pytorch_model.bin is a pickle" in seen.observation
    assert not [path for path in opened if path.name == "pytorch_model.bin"]


def test_a_pickle_in_the_place_of_another_component_is_named_with_it(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "m", "sd-1")
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(UnsafeFormatException, match=r"text_encoder/pytorch_model\.bin is a pickle"):
        probe(folder)


# ---- names ------------------------------------------------------------------------------------------------
def open_lora(path: Path) -> Path:
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    return write_safetensors(path, {f"{layer}.lora_A.weight": [4, 320], f"{layer}.lora_B.weight": [320, 4]})


WORDS = st.sampled_from(
    ["style", "[FLX]", "QRCode Monster", "名前", "asd1", "relax", "detail-tweaker", "[red] :fire:"]
)
VERSION = st.from_regex(r"\A[vV]?[0-9]{1,2}[._-][0-9]{1,2}([._-]?[0-9])?\Z")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, min_size=1, max_size=3), version=VERSION, separator=st.sampled_from(" _-."))
def test_a_version_of_a_model_is_no_sign_of_its_base(
    tmp_path: Path, words: list[str], version: str, separator: str
) -> None:
    path = open_lora(tmp_path / f"{separator.join([*words, version])}.safetensors")
    result = probe(path)
    assert (result.base, result.match.possible_bases) == ("unknown", ("sd-1", "sd-2"))
    assert not [e for e in result.match.evidence if e.strength is Strength.WEAK]
    path.unlink()


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("QRCode Monster v2 (SD1.5)", "sd-1"),
        ("style v1.5 for SD 2.1", "sd-2"),
        ("v1-5-pruned-emaonly", "sd-1"),
        ("v2-1_768-ema-pruned", "sd-2"),
        ("768-v-ema", "sd-2"),
    ],
)
def test_what_a_name_says_of_a_base_is_weak_evidence(tmp_path: Path, name: str, base: str) -> None:
    assert probe(open_lora(tmp_path / f"{name}.safetensors")).base == base


# ---- advice -----------------------------------------------------------------------------------------------
def test_what_is_of_no_known_kind_installs_with_what_the_message_asks_for(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"emb_params": [8, 768]})
    text = refusal(path)
    assert "a textual inversion, which is not supported yet" in text
    assert "install it again with type and base given" in text
    known = probe(path, Hints(type="embedding", base="sd-1"))
    check_known(known, path)
    assert known.format == "embedding_file"
