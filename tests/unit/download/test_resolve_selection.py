"""Which files of a repository are taken, where diffusers has no rule of its own."""

from __future__ import annotations

import pytest

from modelkeep.exceptions import (
    AmbiguousSourceException,
    SourceNotFoundException,
    UnknownVariantException,
    UnsafeFormatException,
)
from modelkeep_download.resolve.listing import Entry, size_of
from modelkeep_download.resolve.selection import Repo, Selection
from support.hublistings import Listing, listings

SDXL = listings()["stabilityai/stable-diffusion-xl-base-1.0"]
SD15 = listings()["runwayml/stable-diffusion-v1-5"]


def names(selection: Selection) -> list[str]:
    """The paths that are taken."""
    return [entry.path for entry in selection.files]


def of(files: dict[str, int], *, verdicts: dict[str, str] | None = None) -> Repo:
    """A repository of one's own."""
    found = [Entry(path, size, verdict=(verdicts or {}).get(path, "")) for path, size in files.items()]
    return Repo.of(found, lambda path: f"o/n:{path}" if path else "o/n")


@pytest.mark.parametrize(
    ("repo", "path"),
    [
        ("latent-consistency/lcm-lora-sdxl", "pytorch_lora_weights.safetensors"),
        ("sayakpaul/sd-model-finetuned-lora", "pytorch_lora_weights.safetensors"),
        ("sd-concepts-library/cat-toy", "learned_embeds.bin"),
        ("example/one-checkpoint", "dreamshaper_8.safetensors"),
        ("example/one-checkpoint-two-precisions", "juggernaut.safetensors"),
        ("XLabs-AI/flux-controlnet-canny", "controlnet.safetensors"),
    ],
)
def test_the_one_model_of_a_repository_of_single_files_is_that_file(repo: str, path: str) -> None:
    chosen = listings()[repo].select()
    assert (names(chosen), chosen.is_folder) == ([path], False)


def test_a_variant_of_a_single_file() -> None:
    chosen = listings()["example/one-checkpoint-two-precisions"].select(variant="fp16")
    assert (names(chosen), chosen.variant) == (["juggernaut.fp16.safetensors"], "fp16")
    assert [(c.value, c.chosen) for c in chosen.choices] == [("default", False), ("fp16", True)]
    chosen = listings()["example/one-checkpoint"].select(variant="fp16")
    assert any("no fp16" in reason for reason in chosen.reasons)


@pytest.mark.parametrize(
    ("repo", "some"),
    [
        ("h94/IP-Adapter", ["models/image_encoder", "models/ip-adapter_sd15.safetensors"]),
        ("lllyasviel/ControlNet-v1-1", ["control_v11p_sd15_canny.pth"]),
        ("Comfy-Org/Wan_2.1_ComfyUI_repackaged", ["split_files/vae/wan_2.1_vae.safetensors"]),
    ],
)
def test_several_models_are_for_the_caller_to_choose_from(repo: str, some: list[str]) -> None:
    with pytest.raises(AmbiguousSourceException) as raised:
        listings()[repo].select()
    told = raised.value.metadata["choices"].split("; ")
    written = {choice.partition(" (")[0]: choice for choice in told}
    for path in some:
        assert f"{repo}:{path}" in written
    assert all(" GB)" in choice or " MB)" in choice for choice in told)
    first = next(iter(written))
    assert first in raised.value.metadata["remedy"]
    assert listings()[repo].select(first.partition(":")[2]).files


def test_quantisations_are_chosen_by_variant() -> None:
    listing = listings()["city96/FLUX.1-dev-gguf"]
    with pytest.raises(AmbiguousSourceException, match="variants of one model") as raised:
        listing.select()
    assert "Q4_K_S (6.8 GB)" in raised.value.metadata["choices"]
    chosen = listing.select(variant="q4_k_s")
    assert (names(chosen), chosen.variant) == (["flux1-dev-Q4_K_S.gguf"], "Q4_K_S")
    assert len(chosen.choices) == 10
    with pytest.raises(UnknownVariantException) as unknown:
        listing.select(variant="Q7_K")
    assert "Q8_0" in unknown.value.metadata["available"]


def test_an_adapter_of_peft_is_a_folder_without_its_training() -> None:
    chosen = listings()["example/peft-adapter"].select()
    assert names(chosen) == ["adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"]


def test_an_ip_adapter_that_names_its_image_encoder_brings_the_name() -> None:
    chosen = listings()["InvokeAI/ip_adapter_sd15"].select()
    assert (sorted(names(chosen)), chosen.is_folder) == (["image_encoder.txt", "ip_adapter.bin"], True)


def test_a_pickle_is_named_as_one() -> None:
    chosen = listings()["sd-concepts-library/cat-toy"].select()
    assert any("learned_embeds.bin is a pickle" in reason for reason in chosen.reasons)
    assert not any("pickle" in reason for reason in SDXL.select().reasons)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("vae", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]),
        ("scheduler", ["scheduler/scheduler_config.json"]),
        ("tokenizer", [f"tokenizer/{n}" for n in ("merges.txt", "special_tokens_map.json")]),
        ("vae_1_0", ["vae_1_0/config.json", "vae_1_0/diffusion_pytorch_model.safetensors"]),
    ],
)
def test_a_folder_of_a_pipeline(path: str, there: list[str]) -> None:
    chosen = SDXL.select(path)
    assert names(chosen)[: len(there)] == there
    assert (chosen.base, chosen.is_folder) == (path, True)
    assert all(name.startswith(f"{path}/") for name in names(chosen))


def test_a_path_that_is_one_file_and_one_that_is_nothing() -> None:
    chosen = SDXL.select("sd_xl_base_1.0.safetensors", "fp16")
    assert (names(chosen), chosen.is_folder) == (["sd_xl_base_1.0.safetensors"], False)
    with pytest.raises(SourceNotFoundException, match=r"no file or folder 'nothing'.*unet"):
        SDXL.select("nothing")


def test_a_pipeline_tells_what_else_could_be_chosen() -> None:
    chosen = SD15.select()
    assert not [name for name in names(chosen) if "non_ema" in name or name.endswith((".ckpt", ".bin"))]
    variants = {choice.value: choice for choice in chosen.choices if choice.kind == "variant"}
    assert list(variants) == ["default", "fp16", "non_ema"]
    assert variants["default"].chosen
    assert (variants["fp16"].size or 0) < (variants["default"].size or 0)
    files = {choice.source for choice in chosen.choices if choice.kind == "file"}
    assert "runwayml/stable-diffusion-v1-5:v1-5-pruned-emaonly.safetensors" in files
    assert any("single files beside it left out" in reason for reason in chosen.reasons)
    assert size_of(chosen.files) < sum(SD15.files.values()) / 5


@pytest.mark.parametrize("variant", ["onnx", "openvino"])
def test_other_runtimes_are_variants(variant: str) -> None:
    found = [name for name in names(SDXL.select(variant=variant)) if name.startswith("unet/")]
    onnx = ["unet/config.json", "unet/model.onnx", "unet/model.onnx_data"]
    openvino = ["unet/config.json", "unet/openvino_model.bin", "unet/openvino_model.xml"]
    assert found == (onnx if variant == "onnx" else openvino)
    with pytest.raises(UnknownVariantException) as raised:
        SD15.select(variant=variant)
    assert raised.value.metadata["available"] == "default; fp16; non_ema"


def test_a_component_without_the_variant_is_named() -> None:
    chosen = listings()["example/vae-without-fp16"].select(variant="fp16")
    assert "vae/diffusion_pytorch_model.safetensors" in names(chosen)
    assert any(reason.startswith("vae taken in full precision") for reason in chosen.reasons)


def test_what_is_there_in_one_precision_alone_is_taken_in_that() -> None:
    chosen = listings()["example/fp16-only"].select()
    assert chosen.variant == "fp16"
    assert any("no other precision" in reason for reason in chosen.reasons)


def test_code_is_named_and_not_fetched() -> None:
    chosen = listings()["Kwai-Kolors/Kolors-diffusers"].select()
    assert "tokenizer/tokenization_chatglm.py" in chosen.code_files
    assert not [name for name in names(chosen) if name.endswith(".py")]
    assert listings()["example/trained-at-home"].select().code_files == ["pipeline.py"]


def test_one_folder_with_the_model_is_found() -> None:
    chosen = of({"README.md": 1, "deep/in/config.json": 1, "deep/in/model.safetensors": 5}).select(
        "", "", None
    )
    assert (chosen.base, names(chosen)) == (
        "deep/in",
        ["deep/in/config.json", "deep/in/model.safetensors"],
    )


def test_one_whole_file_is_taken_before_the_same_in_parts() -> None:
    files = {"config.json": 1, "model.safetensors": 9, "model.safetensors.index.json": 1}
    parts = {f"model-0000{part}-of-00002.safetensors": 5 for part in (1, 2)}
    assert names(of({**files, **parts}).select("", "", None)) == ["config.json", "model.safetensors"]


def test_a_cut_single_file_comes_with_its_parts() -> None:
    parts = {f"big-Q8_0-0000{part}-of-00002.gguf": 5 for part in (1, 2)}
    chosen = of(parts).select("", "", None)
    assert (names(chosen), chosen.is_folder) == (sorted(parts), True)


def test_what_the_scanners_call_unsafe_is_not_taken() -> None:
    files = {"config.json": 1, "diffusion_pytorch_model.bin": 9, "diffusion_pytorch_model.safetensors": 9}
    repo = of(files, verdicts={"diffusion_pytorch_model.safetensors": "unsafe"})
    chosen = repo.select("", "", None)
    assert names(chosen) == ["config.json", "diffusion_pytorch_model.bin"]
    assert any("safetensors unsafe: left out" in reason for reason in chosen.reasons)
    with pytest.raises(UnsafeFormatException):
        repo.select("diffusion_pytorch_model.safetensors", "", None)
    with pytest.raises(UnsafeFormatException):
        of({"x.ckpt": 9}, verdicts={"x.ckpt": "unsafe"}).select("", "", None)
    chosen = of({"x.ckpt": 9}, verdicts={"x.ckpt": "suspicious"}).select("", "", None)
    assert any("suspicious" in reason for reason in chosen.reasons)


@pytest.mark.parametrize(
    "path",
    [
        *("../x.safetensors", "/x.safetensors", "a/../../x.safetensors", "C:\\x.safetensors", "C:/x.sft"),
        *("a\x1b[2J.safetensors", "a\u202e.safetensors", "CON.safetensors", "a//x.safetensors", "x" * 2000),
        *("a /x.safetensors", "a\ud800.safetensors"),
    ],
)
def test_hostile_paths_are_left_out(path: str) -> None:
    with pytest.raises(SourceNotFoundException, match="1 file left out"):
        of({path: 9}).select("", "", None)
    chosen = of({path: 9, "good.safetensors": 9}).select("", "", None)
    assert names(chosen) == ["good.safetensors"]
    assert any("1 file left out" in reason for reason in chosen.reasons)


@pytest.mark.parametrize(
    "paths", [("A.safetensors", "a.safetensors"), ("e\u0301.bin", "é.bin"), ("a.bin", "A.bin/x.txt")]
)
def test_names_that_clash_are_left_out(paths: tuple[str, str]) -> None:
    chosen = of({**dict.fromkeys(paths, 9), "good.safetensors": 9}).select("", "", None)
    assert "good.safetensors" in names(chosen)
    assert len(set(names(chosen))) == len(chosen.files)
    assert any("case or accents" in reason for reason in chosen.reasons)


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"_class_name": ["x", "Y"], "unet": "unet"},
        {"../..": ["a", "b"], "unet": [], "vae": [None, None], "_ignore_files": "x"},
        {"unet": {"a": 1}, "x" * 5000: ["a", "b"]},
    ],
)
def test_an_index_that_is_odd_names_nothing(index: dict[str, object]) -> None:
    with pytest.raises(SourceNotFoundException, match="no weights"):
        Repo.of(SDXL.entries, lambda path: path).select("", "", index)


def test_a_repository_without_weights_says_so() -> None:
    for listing in (listings()["example/no-weights"], Listing("a/b", {}), Listing("a/b", {"README.md": 1})):
        with pytest.raises(SourceNotFoundException, match="no weights"):
            listing.select()


@pytest.mark.timeout(120)
def test_the_largest_listings_with_the_largest_indexes_take_no_time_to_speak_of() -> None:
    files = {f"part{at}/config.json": 1 for at in range(2000)}
    files |= {f"part{at}/diffusion_pytorch_model.safetensors": 9 for at in range(2000)}
    with pytest.raises(AmbiguousSourceException):
        of(files).select("", "", None)
    index = {f"part{at}": ["diffusers", "X"] for at in range(20_000)}
    chosen = of({**files, "model_index.json": 9}).select("", "", index)
    assert len(chosen.files) == 4001
    assert len(chosen.choices) <= 100


def test_thousands_of_choices_are_cut() -> None:
    with pytest.raises(AmbiguousSourceException) as raised:
        of({f"some/where/model-{at}.safetensors": 9 for at in range(4000)}).select("", "", None)
    assert len(raised.value.metadata["choices"]) < 3000
    assert "others" in raised.value.metadata["choices"]
