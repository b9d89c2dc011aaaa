"""The pure rules for Civitai's versions and files, beyond what the site itself answers."""

from __future__ import annotations

from typing import Any

import pytest

from modelkeep.exceptions import SourceDisabledException, TokenRequiredException
from modelkeep_download.config import DownloadSettings
from modelkeep_download.resolve.civitai_files import choose, files_of
from modelkeep_download.resolve.civitai_versions import (
    deadline_of,
    early_access,
    refuse_disabled,
    versions_of,
)


def version(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": 1, "name": name, "publishedAt": "2025-01-01T00:00:00Z", **fields}


def test_drafts_are_no_versions_though_an_answer_lists_them() -> None:
    told = [
        version("old", publishedAt="2024-01-01T00:00:00Z", status="Published"),
        version("draft", status="Draft"),
        version("unpublished", publishedAt=None),
        version("planned", publishedAt="2999-01-01T00:00:00Z"),
        version("new"),
        {"id": 5, "name": "of an old answer", "createdAt": "2023-01-01T00:00:00Z"},
    ]
    names = [one["name"] for one in versions_of({"modelVersions": told})]
    assert names == ["new", "old", "of an old answer"]


@pytest.mark.parametrize(
    ("told", "is_early"),
    [
        ({"availability": "EarlyAccess"}, True),
        ({"availability": "EarlyAccess", "earlyAccessEndsAt": "2024-01-01T00:00:00Z"}, False),
        ({"earlyAccessDeadline": "2999-01-01T00:00:00Z"}, True),
        ({"earlyAccessEndsAt": "2999-01-01T00:00:00Z", "availability": "Public"}, True),
        ({"availability": "Public", "earlyAccessEndsAt": None}, False),
    ],
)
def test_early_access_counts_until_its_date(told: dict[str, Any], is_early: bool) -> None:
    assert (deadline_of(told) is not None) is is_early


def test_a_refusal_of_what_is_in_no_early_access_stays_what_it_is() -> None:
    error = TokenRequiredException("log in", metadata={"host": "h"})
    assert early_access(error, version("v"), "h") is error


def test_a_file_that_versions_share_is_fetched_from_the_one_that_has_it() -> None:
    address = "https://elsewhere.example/api/download/models/77?type=VAE"
    [file] = files_of({"files": [{"id": 3, "name": "v.pt", "type": "VAE", "downloadUrl": address}]}, 5)
    assert file.path() == "/api/download/models/77?type=VAE&fileId=3"


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["x.ckpt", "x.safetensors"], "x.safetensors"),
        (["x.ckpt", "x.gguf"], "x.gguf"),
        (["x.zip", "x.ckpt"], "x.ckpt"),
    ],
)
def test_where_no_format_is_told_the_name_decides(files: list[str], chosen: str) -> None:
    told = {"files": [{"name": name, "type": "Model", "id": n + 1} for n, name in enumerate(files)]}
    assert choose(files_of(told, 5), (), "", "v1 at h", "h").file.name == chosen


def test_a_full_file_comes_before_a_pruned_one_where_none_is_primary() -> None:
    told = [
        {"name": f"{size}.safetensors", "type": "Model", "metadata": {"format": "SafeTensor", "size": size}}
        for size in ("pruned", "full")
    ]
    assert choose(files_of({"files": told}, 5), (), "", "v1 at h", "h").file.name == "full.safetensors"
    assert choose(files_of({"files": told}, 5), (), "pruned", "v1 at h", "h").file.size == "pruned"


def test_downloads_that_their_maker_disabled_are_refused() -> None:
    refuse_disabled({"name": "m", "type": "LORA"}, {"usageControl": "Download"}, "h")
    with pytest.raises(SourceDisabledException, match="for InternalGeneration there alone"):
        refuse_disabled({"name": "m"}, {"usageControl": "InternalGeneration"}, "h")


@pytest.mark.parametrize(
    "endpoint", ["civitai.com", "ftp://h", "https://h/path", "https://u:p@h", "https://", "https://h?x=1"]
)
def test_an_endpoint_is_an_origin(tmp_path: Any, endpoint: str) -> None:
    with pytest.raises(ValueError, match="civitai_endpoint"):
        DownloadSettings.for_test(tmp_path, civitai_endpoint=endpoint)
    settings = DownloadSettings.for_test(tmp_path, civitai_endpoint="https://mirror.example:8443/")
    assert settings.civitai_endpoint == "https://mirror.example:8443"
