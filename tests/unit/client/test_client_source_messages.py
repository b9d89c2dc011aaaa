"""What the texts and objects that callers give as sources become on the wire."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import AnyHttpUrl, TypeAdapter

from modelkeep.client._install_jobs import source_of
from modelkeep.client._install_requests import source_message
from modelkeep.download.v1.resolve_pb2 import RemoteSource


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "runwayml/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5:vae",
        "owner/name:file.safetensors",
        "hf:gpt2",
        "hf://owner/name",
        "https://civitai.com/api/download/models/63006",
        "https://civitai.com/models/8765?modelVersionId=10638",
        "https://huggingface.co/owner/name/blob/main/a.safetensors",
        "file:///srv/a",
        r"C:\models\a.safetensors",
    ],
)
def test_what_a_hub_has_and_what_only_the_service_can_tell_is_sent_as_it_was_written(text: str) -> None:
    assert source_message(text).remote == RemoteSource(source=text)


@pytest.mark.parametrize(
    "url", ["https://s3.amazon.com/fjacks/sd-3.safetensors", "HTTP://host/a", "https://huggingface.co/api"]
)
def test_any_other_address_is_an_address(url: str) -> None:
    assert source_message(url).url == url
    parsed = TypeAdapter(AnyHttpUrl).validate_python(url)
    assert source_message(parsed).url == str(parsed)


@pytest.mark.parametrize("text", ["a/b/c", "name", "./owner/name", "/srv/x", "~/x", "folder/a.safetensors"])
def test_any_other_text_is_a_path_made_absolute(text: str, here: Path) -> None:
    expected = Path(text).expanduser()
    assert source_message(text).local_path == str(here / expected)


def test_a_path_that_exists_beats_a_repository_of_the_same_spelling(here: Path) -> None:
    assert source_message("owner/name").HasField("remote")
    assert source_message(Path("owner/name")).local_path == str(here / "owner/name")
    (here / "owner/name").mkdir(parents=True)
    assert source_message("owner/name").local_path == str(here / "owner/name")
    assert source_message("hf:owner/name").HasField("remote")


def test_variant_subfolder_and_revision_go_with_the_source_whatever_it_is(here: Path) -> None:
    sent = source_message("owner/name", variant="fp16", subfolder="vae", revision="v1").remote
    assert sent == RemoteSource(source="owner/name", variant="fp16", subfolder="vae", revision="v1")
    # the service says that these have no variants
    assert source_message(Path("x"), variant="fp16").remote.source == str(here / "x")
    assert source_message("https://host/a", variant="fp16").remote.source == "https://host/a"


@pytest.mark.parametrize(
    ("remote", "spelled"),
    [
        (RemoteSource(source="owner/name", subfolder="vae", revision="v1"), "owner/name@v1:vae"),
        (RemoteSource(source="hf:gpt2"), "hf:gpt2"),
        (RemoteSource(source="https://huggingface.co/owner/name"), "owner/name"),
        (RemoteSource(source="https://civitai.com/models/1"), "https://civitai.com/models/1"),
        (RemoteSource(source="https://huggingface.co/api"), "https://huggingface.co/api"),
    ],
)
def test_a_hubs_source_is_spelled_as_a_caller_would(remote: RemoteSource, spelled: str) -> None:
    message = source_message("x")
    message.remote.CopyFrom(remote)
    assert source_of(message) == spelled
