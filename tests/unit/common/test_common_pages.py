"""Addresses of pages: refused at once, with what to give in their place."""

from __future__ import annotations

import pytest

from modelkeep.exceptions import FieldInvalidException, NotAModelFileException
from modelkeep.hubs import Repository, hub_of
from modelkeep_common.pages import no_repository, refuse_page
from modelkeep_common.urls import parse_url

HUB, CIVITAI = "https://huggingface.co", "https://civitai.com"


@pytest.mark.parametrize(
    ("page", "given"),
    [
        (f"{HUB}/datasets/owner/name", f"{HUB}/datasets/owner/name/resolve/main/FILE"),
        (f"{HUB}/gpt2/blob/main/a.safetensors", f"{HUB}/gpt2/resolve/main/a.safetensors"),
        (f"{HUB}/", f"{HUB}/OWNER/NAME/resolve/main/FILE"),
        (
            f"{HUB}/owner/name/blob/fp16/vae/model.safetensors",
            f"{HUB}/owner/name/resolve/fp16/vae/model.safetensors",
        ),
        (
            "https://github.com/o/r/blob/main/a.safetensors",
            "https://github.com/o/r/raw/main/a.safetensors",
        ),
    ],
)
def test_a_page_is_refused_with_the_address_of_the_file_as_far_as_it_tells(page: str, given: str) -> None:
    with pytest.raises(NotAModelFileException) as refused:
        refuse_page(parse_url(page).url)
    assert refused.value.remedy.endswith(f" {given}")
    assert refused.value.remedy in refused.value.message
    refuse_page(given)


def test_the_page_of_an_owner_is_refused_with_how_a_repository_is_named() -> None:
    with pytest.raises(NotAModelFileException, match="page of an owner") as refused:
        refuse_page(f"{HUB}/owner")
    assert "owner/NAME" in refused.value.remedy
    given = refused.value.remedy.rpartition(" ")[2]
    assert hub_of(given) == Repository("owner")


@pytest.mark.parametrize(
    "page",
    [
        f"{HUB}/owner/name",
        f"{HUB}/owner/name/tree/main/vae",
        "https://hf.co/owner/name?library=diffusers",
        f"{CIVITAI}/models/46846",
        f"{CIVITAI}/models/46846/name?modelVersionId=51",
        "https://civitai.green/models/1",
        "https://civitai.red/models/1",
        "https://www.hf.co/owner/name",
    ],
)
def test_the_page_of_a_hubs_model_is_to_be_given_as_a_remote_source(page: str) -> None:
    with pytest.raises(NotAModelFileException) as refused:
        refuse_page(parse_url(page).url)
    assert refused.value.remedy == "Give it as source.remote, which looks up what to fetch."
    assert hub_of(page) is not None


@pytest.mark.parametrize(
    "file",
    [
        f"{HUB}/owner/name/resolve/main/model.safetensors?download=true",
        f"{HUB}/datasets/owner/name/resolve/main/a.safetensors",
        f"{HUB}/api/models/owner/name",
        f"{CIVITAI}/api/download/models/130072?type=Model",
        "https://github.com/o/r/releases/download/v1/a.safetensors",
        "https://example.com/owner/name",
        "https://huggingface.co.example.com/owner/name",
    ],
)
def test_the_address_of_a_file_or_of_another_site_is_taken(file: str) -> None:
    refuse_page(parse_url(file).url)


@pytest.mark.parametrize(
    "name",
    ["owner/name", "hf:owner/name", "hf://owner/name", "owner/name:vae", "o/n@v1", "civitai:1@2", "hf:"],
)
def test_the_name_of_a_repository_is_told_as_one(name: str) -> None:
    with pytest.raises(FieldInvalidException) as refused:
        no_repository(name, "source.url")
    assert "this names a model of a hub" in str(refused.value)
    assert "source.remote" in refused.value.remedy


@pytest.mark.parametrize("text", ["http://h/x", "owner/name/x", "m.safetensors", ""])
def test_what_names_no_repository_is_left_to_others(text: str) -> None:
    no_repository(text, "source.url")
