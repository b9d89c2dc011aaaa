"""Which kind of source a request names, by its text alone."""

from __future__ import annotations

import pytest

from modelkeep.exceptions import FieldInvalidException
from modelkeep_install.domain.jobs import SourceKind
from modelkeep_install.domain.plans import Remote
from modelkeep_install.domain.requests import ImportRequest
from modelkeep_install.domain.sources import Named, named

MIRRORS = frozenset({"mirror.example:8443"})


def of(text: str, **parts: str) -> Named:
    return named(ImportRequest(remote=Remote(text, **parts)), MIRRORS)


@pytest.mark.parametrize(
    ("text", "parts", "shown", "remote"),
    [
        ("owner/name", {}, "owner/name", Remote("owner/name")),
        ("hf://owner/name", {}, "owner/name", Remote("owner/name")),
        ("hf:gpt2", {}, "hf:gpt2", Remote("hf:gpt2")),
        ("owner/name:vae", {"subfolder": "unet"}, "owner/name:vae", Remote("owner/name", "vae")),
        ("owner/name", {"subfolder": "vae/"}, "owner/name:vae", Remote("owner/name", "vae")),
        (
            "owner/name",
            {"revision": "v1", "variant": "fp16"},
            "owner/name@v1",
            Remote("owner/name", variant="fp16", revision="v1"),
        ),
        (
            "https://huggingface.co/owner/name/resolve/main/a%20b.safetensors?download=true",
            {},
            "owner/name:a b.safetensors",
            Remote("owner/name", "a b.safetensors", revision="main"),
        ),
        ("https://mirror.example:8443/owner/name", {}, "owner/name", Remote("owner/name")),
        (
            "https://civitai.com/models/8765?modelVersionId=10638",
            {},
            "https://civitai.com/models/8765?modelVersionId=10638",
            Remote("https://civitai.com/models/8765?modelVersionId=10638"),
        ),
    ],
)
def test_what_a_hub_has_is_named_in_its_parts(
    text: str, parts: dict[str, str], shown: str, remote: Remote
) -> None:
    found = of(text, **parts)
    assert (found.kind, found.text, found.remote) == (SourceKind.HUB, shown, remote)
    again = of(remote.source, subfolder=remote.subfolder, revision=remote.revision, variant=remote.variant)
    assert again == found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "https://civitai.com/api/download/models/63006?type=Model&fp=fp16&token=s3cr3t",
            "https://civitai.com/api/download/models/63006?type=Model&fp=fp16",
        ),
        ("https://u:s3cr3t@huggingface.co/owner/name", "owner/name"),
    ],
)
def test_a_credential_in_an_address_of_a_hub_is_its_token_and_part_of_nothing_else(
    text: str, shown: str
) -> None:
    found = of(text)
    assert (found.kind, found.text, found.access_token) == (SourceKind.HUB, shown, "s3cr3t")
    assert "s3cr3t" not in f"{found!r} {found.remote!r}"


@pytest.mark.parametrize("url", ["https://huggingface.co/owner/name", "https://civitai.com/models/1"])
def test_the_address_of_a_hubs_page_as_a_url_is_what_it_names(url: str) -> None:
    assert named(ImportRequest(url=url), MIRRORS).kind is SourceKind.HUB


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("https://host.example/a.safetensors?x=1", SourceKind.URL, "https://host.example/a.safetensors?x=1"),
        ("/srv/models/a", SourceKind.PATH, "/srv/models/a"),
        ("file:///srv/a%20b", SourceKind.PATH, "/srv/a b"),
    ],
)
def test_any_other_source_is_as_it_always_was(text: str, kind: SourceKind, shown: str) -> None:
    assert of(text) == Named(kind, shown)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (r"C:\models\a.safetensors", "is a path of Windows"),
        (r"\\server\models\a", "is a path of Windows"),
        ("file://other/srv/a", "of this host alone"),
        ("a.safetensors", "no address, no repository"),
        ("https://huggingface.co/datasets/owner/name", "datasets hold no models"),
        ("https://civitai.com/user/somebody", "no page of a model"),
        ("hf:../x", "a repository is written"),
    ],
)
def test_what_names_nothing_says_why(text: str, says: str) -> None:
    with pytest.raises(FieldInvalidException, match=says) as caught:
        of(text)
    assert [violation.field for violation in caught.value.violations] == ["source.remote.source"]


@pytest.mark.parametrize("part", ["subfolder", "variant", "revision"])
@pytest.mark.parametrize("text", ["/srv/a", "https://host.example/a.safetensors"])
def test_the_parts_of_a_hubs_source_are_refused_beside_any_other(text: str, part: str) -> None:
    with pytest.raises(FieldInvalidException) as caught:
        of(text, **{part: "x"})
    assert [violation.field for violation in caught.value.violations] == [f"source.remote.{part}"]
