"""What people write in place of an address."""

from __future__ import annotations

import pytest

from modelkeep.hubs import CIVITAI_RED, CivitaiModel, Repository, hub_of

COMMIT = "462165984030d82259a11f4367a4eed129e94a7b"
HUGGING_FACE = (
    ("stabilityai/sdxl-vae", Repository("stabilityai/sdxl-vae")),
    (" stabilityai/sdxl-vae ", Repository("stabilityai/sdxl-vae")),
    ("runwayml/stable-diffusion-v1-5:vae", Repository("runwayml/stable-diffusion-v1-5", "vae")),
    ("org/repo:sub/folder/", Repository("org/repo", "sub/folder")),
    ("org/repo@refs/pr/3:vae", Repository("org/repo", "vae", "refs/pr/3")),
    ("org/repo@v1.0", Repository("org/repo", "", "v1.0")),
    ("hf:org/repo", Repository("org/repo")),
    ("hf:org/repo:vae", Repository("org/repo", "vae")),
    ("hf://org/repo@main/vae/config.json", Repository("org/repo", "vae/config.json", "main")),
    ("hf:gpt2", Repository("gpt2")),
    ("https://huggingface.co/org/repo", Repository("org/repo")),
    ("http://www.huggingface.co/org/repo/?not-for-all-audiences=true#x", Repository("org/repo")),
    ("https://hf.co/org/repo/tree/main/vae", Repository("org/repo", "vae", "main")),
    ("https://huggingface.co/org/repo/tree/refs%2Fpr%2F3", Repository("org/repo", "", "refs/pr/3")),
    ("https://huggingface.co/org/repo/tree/refs/pr/3", Repository("org/repo", "", "refs/pr/3")),
    ("https://huggingface.co/org/repo/tree/refs/pr/13/vae", Repository("org/repo", "vae", "refs/pr/13")),
    (
        "https://huggingface.co/org/repo/blob/refs/convert/parquet/a/b.bin",
        Repository("org/repo", "a/b.bin", "refs/convert/parquet", is_file=True),
    ),
    ("https://huggingface.co/gpt2/resolve/refs/pr/3", Repository("gpt2", "", "refs/pr/3")),
    ("https://huggingface.co/org/repo/tree/refs/notes/x", Repository("org/repo", "notes/x", "refs")),
    ("hf://org/repo@refs/pr/3/vae", Repository("org/repo", "vae", "refs/pr/3")),
    ("hf:org/repo@refs/pr/3:vae", Repository("org/repo", "vae", "refs/pr/3")),
    ("hf:org/repo@refs/pr/3", Repository("org/repo", "", "refs/pr/3")),
    (
        f"https://huggingface.co/org/repo/blob/{COMMIT}/a/b.safetensors",
        Repository("org/repo", "a/b.safetensors", COMMIT, is_file=True),
    ),
    (
        "https://huggingface.co/org/repo/resolve/main/b%20c.safetensors?download=true",
        Repository("org/repo", "b c.safetensors", "main", is_file=True),
    ),
    ("https://huggingface.co/gpt2/resolve/main/x.bin", Repository("gpt2", "x.bin", "main", is_file=True)),
    ("http://127.0.0.1:9999/org/repo", Repository("org/repo")),
)
CIVITAI = (
    ("https://civitai.com/models/8765?modelVersionId=10638", CivitaiModel(8765, 10638)),
    ("http://www.civitai.com/models/8765/some-title", CivitaiModel(8765)),
    ("https://civitai.com/models/8765/x?modelVersionId=abc", CivitaiModel(8765)),
    ("https://civitai.com/api/download/models/63006", CivitaiModel(0, 63006)),
    (
        "https://civitai.com/api/download/models/63006?type=Model&format=SafeTensor&size=full&fp=fp16&token=x",
        CivitaiModel(
            0, 63006, (("type", "Model"), ("format", "SafeTensor"), ("size", "full"), ("fp", "fp16"))
        ),
    ),
    (
        "https://civitai.com/api/download/models/5?fileId=9&quantType=Q8_0",
        CivitaiModel(0, 5, (("quantType", "Q8_0"), ("fileId", "9"))),
    ),
    ("https://civitai.red/models/8765", CivitaiModel(8765, site=CIVITAI_RED)),
    ("http://127.0.0.1:9997/models/8765?modelVersionId=7", CivitaiModel(8765, 7)),
    ("https://civitai.com/api/v1/models/8765", CivitaiModel(8765)),
    ("https://civitai.com/api/v1/model-versions/10638", CivitaiModel(0, 10638)),
    ("https://civitai.com/api/v1/model-versions/by-hash/62efe75048", CivitaiModel(hash="62EFE75048")),
    ("civitai:8765", CivitaiModel(8765)),
    ("civitai:8765@10638", CivitaiModel(8765, 10638)),
    ("air:sdxl:lora:civitai:8765@10638.safetensor", CivitaiModel(8765, 10638, (("format", "safetensor"),))),
    ("urn:air:sdxl:checkpoint:civitai:101055@128078", CivitaiModel(101055, 128078)),
)
NOTHING = (
    "https://example.com/org/repo",
    "https://huggingface.co.evil.example/org/repo",
    "http://127.0.0.1:9998/org/repo",
    "./org/repo",
    "/models/file.safetensors",
    "~/x/y",
    "model.safetensors",
    "a/b/c",
    "C:\\models\\x",
    "",
    "ftp://huggingface.co/org/repo",
)
NO_MODELS = (
    "https://huggingface.co/datasets/org/repo",
    "https://huggingface.co/spaces/org/repo",
    "https://huggingface.co/docs/hub",
    "https://huggingface.co/org",
    "https://huggingface.co/org/repo/discussions/3",
    "https://civitai.com/images/1",
    "https://civitai.com/models/abc",
    "https://civitai.com/models/0",
    "https://civitai.com/models/99999999999999999999",
    "https://civitai.com/api/download/training-data/5",
    "https://civitai.com/",
    "hf:",
    "hf:a/b c",
    "hf:datasets/org/repo",
)


@pytest.mark.parametrize(("text", "named"), HUGGING_FACE + CIVITAI)
def test_what_names_a_model_at_a_hub(text: str, named: Repository | CivitaiModel) -> None:
    assert hub_of(text, {"127.0.0.1:9999"}, {"127.0.0.1:9997"}) == named


@pytest.mark.parametrize("text", NOTHING)
def test_what_names_nothing_at_a_hub(text: str) -> None:
    assert hub_of(text, {"127.0.0.1:9999"}) is None


@pytest.mark.parametrize("text", NO_MODELS)
def test_what_names_something_else_at_a_hub_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"no page|hold no models|no files|page of an owner|is written"):
        hub_of(text)


@pytest.mark.parametrize(
    ("repository", "shown"),
    [
        (Repository("a/b"), "a/b"),
        (Repository("a/b", "vae", "main"), "a/b:vae"),
        (Repository("a/b", "vae", "v2"), "a/b@v2:vae"),
    ],
)
def test_a_repository_in_its_shortest_spelling_names_the_same(repository: Repository, shown: str) -> None:
    assert repository.shown == shown
    again = hub_of(shown)
    assert isinstance(again, Repository)
    assert again.shown == shown
