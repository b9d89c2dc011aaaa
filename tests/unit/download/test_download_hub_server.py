"""The hub of the tests is told from the real one by nothing that its own client looks at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import httpx2
import pytest
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils._http import parse_ratelimit_headers

from support.httpserver import Cut, Hang, Status, pattern
from support.hub import File, Hub, Repository, Sparse, files_of

CARD = b"""---
license: apache-2.0
pipeline_tag: text-to-image
base_model: org/base
tags: [art]
---
# A model
"""
WEIGHTS = pattern(300_000, 1)
INDEX = json.dumps({"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}).encode()
VOCABULARY = json.dumps({f"word{n}": n for n in range(2000)}).encode()
FILES: dict[str, bytes] = {
    "README.md": CARD,
    "model_index.json": INDEX,
    "tokenizer/vocab.json": VOCABULARY,
    "vae/config.json": b'{"_class_name": "AutoencoderKL"}',
    "vae/diffusion_pytorch_model.safetensors": WEIGHTS,
    "a folder/with ümlaut.txt": b"text",
}
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _plain_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(page_size=4) as started:
        yield started


@pytest.fixture
def model(hub: Hub) -> Repository:
    return hub.repository("org/model", FILES)


def api(hub: Hub, token: str = "") -> HfApi:
    return HfApi(hub.url, token=token or False)


def metadata(hub: Hub, name: str, path: str, **options: Any) -> Any:
    return get_hf_file_metadata(
        hf_hub_url(name, path, endpoint=hub.url), token=False, endpoint=hub.url, **options
    )


def test_a_whole_repository_arrives_byte_for_byte(hub: Hub, model: Repository, tmp_path: Path) -> None:
    token = hub.token("alice")
    got = api(hub, token).snapshot_download("org/model", local_dir=tmp_path / "got", cache_dir=tmp_path)
    for path, content in FILES.items():
        assert (Path(got) / path).read_bytes() == content
    assert (Path(got) / ".gitattributes").is_file()
    assert {r.headers["authorization"] for r in hub.site.requests} == {f"Bearer {token}"}
    # The large file came from the other host, which no token reached.
    assert sum(r.bytes_sent for r in hub.storage.requests) == len(WEIGHTS)
    assert not any("authorization" in r.headers for r in hub.storage.requests)


def test_a_model_is_told_with_its_card_and_its_files(hub: Hub, model: Repository) -> None:
    info = api(hub).model_info("org/model", files_metadata=True, securityStatus=True)
    assert (info.sha, info.author, info.gated, info.private) == (model.sha, "org", False, False)
    assert (info.disabled, info.pipeline_tag, info.library_name) == (False, "text-to-image", "diffusers")
    assert info.card_data is not None
    assert (info.card_data.license, info.card_data.base_model) == ("apache-2.0", "org/base")
    assert {"art", "safetensors", "license:apache-2.0", "base_model:org/base"} <= set(info.tags or ())
    assert info.last_modified is not None
    assert info.security_repo_status == {"scansDone": True, "filesWithIssues": []}
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    large, small = siblings[VAE], siblings["README.md"]
    assert large.lfs is not None
    assert (large.size, large.lfs.size) == (len(WEIGHTS), len(WEIGHTS))
    assert large.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (small.lfs, small.size) == (None, len(CARD))
    assert small.blob_id == hashlib.sha1(b"blob %d\0" % len(CARD) + CARD).hexdigest()
    bare = api(hub).model_info("org/model", expand=["sha", "gated"])
    assert (bare.sha, bare.gated, bare.siblings) == (model.sha, False, None)


def test_a_tree_comes_in_pages_with_folders_digests_and_scans(hub: Hub, model: Repository) -> None:
    hub.repository("org/scanned", {"a.bin": File(b"pickle", scan="unsafe"), "b/c.json": b"{}"})
    entries = list(api(hub).list_repo_tree("org/model", recursive=True))
    assert len([r for r in hub.site.requests if "/tree/" in r.path]) == 3
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    assert set(files) == {*FILES, ".gitattributes"}
    assert {entry.path for entry in entries if isinstance(entry, RepoFolder)} == {
        "a folder",
        "tokenizer",
        "vae",
    }
    large = files[VAE]
    assert large.lfs is not None
    assert large.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert len(large.xet_hash or "") == 64
    assert [e.path for e in api(hub).list_repo_tree("org/model", "vae")] == ["vae/config.json", VAE]
    scanned = {e.path: e for e in api(hub).list_repo_tree("org/scanned", expand=True)}
    unsafe = scanned["a.bin"]
    assert isinstance(unsafe, RepoFile)
    assert unsafe.security is not None
    assert (unsafe.security.safe, unsafe.security.status) == (False, "unsafe")
    assert unsafe.last_commit is not None
    info = api(hub).model_info("org/scanned", securityStatus=True)
    assert info.security_repo_status == {
        "scansDone": True,
        "filesWithIssues": [{"path": "a.bin", "level": "unsafe"}],
    }
    with pytest.raises(RemoteEntryNotFoundError):
        list(api(hub).list_repo_tree("org/model", "nowhere"))


def test_paths_are_told_one_by_one(hub: Hub, model: Repository) -> None:
    found = api(hub).get_paths_info("org/model", [VAE, "vae", "nowhere"], expand=True)
    assert [(type(entry), entry.path) for entry in found] == [(RepoFile, VAE), (RepoFolder, "vae")]


def test_metadata_of_files_names_commit_digest_size_and_place(hub: Hub, model: Repository) -> None:
    large, small = metadata(hub, "org/model", VAE), metadata(hub, "org/model", "tokenizer/vocab.json")
    assert (large.commit_hash, small.commit_hash) == (model.sha, model.sha)
    assert large.etag == hashlib.sha256(WEIGHTS).hexdigest()
    assert small.etag == hashlib.sha1(b"blob %d\0" % len(VOCABULARY) + VOCABULARY).hexdigest()
    assert (large.size, small.size) == (len(WEIGHTS), len(VOCABULARY))
    assert urlsplit(large.location).hostname == "localhost"
    assert urlsplit(small.location).hostname == "127.0.0.1"
    assert large.xet_file_data is not None
    assert len(large.xet_file_data.file_hash) == 64
    assert small.xet_file_data is None
    told = httpx.get(large.xet_file_data.refresh_route, trust_env=False)
    assert told.json()["casUrl"] == told.headers["x-xet-cas-url"]


def test_small_text_comes_packed_without_a_length_and_raw_shows_what_git_holds(
    hub: Hub, model: Repository
) -> None:
    with httpx.Client(base_url=hub.url, trust_env=False, follow_redirects=True) as client:
        packed = client.get("/org/model/resolve/main/tokenizer/vocab.json")
        assert packed.content == VOCABULARY
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-length" not in packed.headers
        plain = client.get(
            "/org/model/resolve/main/tokenizer/vocab.json", headers={"Accept-Encoding": "identity"}
        )
        assert plain.headers["content-length"] == str(len(VOCABULARY))
        pointer = client.get(f"/org/model/raw/main/{VAE}").text
        assert pointer.splitlines()[1] == f"oid sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
        shown = client.get("/org/model")
        assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_signed_addresses_serve_ranges_until_they_expire_and_take_no_token(
    hub: Hub, model: Repository
) -> None:
    address = metadata(hub, "org/model", VAE).location
    with httpx.Client(trust_env=False) as client:
        whole = client.get(address)
        assert whole.content == WEIGHTS
        part = client.get(address, headers={"Range": "bytes=5-9", "If-Range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, WEIGHTS[5:10])
        changed = client.get(address, headers={"Range": "bytes=5-9", "If-Range": '"other"'})
        assert (changed.status_code, changed.content) == (200, WEIGHTS)
        assert client.get(address, headers={"Authorization": "Bearer x"}).status_code == 400
        assert client.get(address.replace("Expires=1", "Expires=2")).status_code == 403
        hub.expire_addresses()
        assert client.get(address).status_code == 403
        assert client.get(metadata(hub, "org/model", VAE).location).content == WEIGHTS


def test_each_branch_tag_and_commit_has_its_own_content(hub: Hub, tmp_path: Path) -> None:
    repository = hub.repository("org/model", {"m.safetensors": b"first", "old.txt": b"old"})
    first = repository.sha
    repository.tag("v1")
    second = repository.commit({"m.safetensors": b"second"})
    pull = repository.commit({"m.safetensors": b"pull"}, branch="refs/pr/1")
    half = repository.commit({"m.safetensors": b"half"}, branch="exp/fp16")

    def content(revision: str | None) -> bytes:
        got = api(hub).hf_hub_download("org/model", "m.safetensors", revision=revision, cache_dir=tmp_path)
        return Path(got).read_bytes()

    assert [content(r) for r in (None, "v1", first, first[:7])] == [b"second", b"first", b"first", b"first"]
    assert [content(r) for r in ("exp/fp16", "refs/pr/1")] == [b"half", b"pull"]
    assert api(hub).model_info("org/model", revision="exp/fp16").sha == half
    with pytest.raises(RemoteEntryNotFoundError):
        api(hub).hf_hub_download("org/model", "old.txt", cache_dir=tmp_path)
    refs = api(hub).list_repo_refs("org/model", include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "exp/fp16": half}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", first)]
    assert [ref.target_commit for ref in refs.pull_requests or ()] == [pull]
    assert [c.commit_id for c in api(hub).list_repo_commits("org/model")] == [second, first]


Refused = Callable[[HfApi, Path], object]


def download(name: str, path: str = "m.safetensors", revision: str = "main") -> Refused:
    return lambda api, tmp: api.hf_hub_download(name, path, revision=revision, cache_dir=tmp)


@pytest.mark.parametrize(
    ("user", "call", "error", "status"),
    [
        ("", download("org/gated"), GatedRepoError, 401),
        ("bob", download("org/gated"), GatedRepoError, 403),
        ("", lambda api, tmp: api.auth_check("org/gated"), GatedRepoError, 401),
        ("", download("org/private"), RepositoryNotFoundError, 401),
        ("bob", lambda api, tmp: api.model_info("org/private"), RepositoryNotFoundError, 404),
        ("", lambda api, tmp: api.model_info("org/missing"), RepositoryNotFoundError, 401),
        ("bob", download("org/missing"), RepositoryNotFoundError, 404),
        ("bob", lambda api, tmp: api.model_info("org/disabled"), DisabledRepoError, 403),
        ("", download("org/open", revision="nope"), RevisionNotFoundError, 404),
        ("", lambda api, tmp: api.model_info("org/open", revision="nope"), RevisionNotFoundError, 404),
        ("", download("org/open", "nope"), RemoteEntryNotFoundError, 404),
        ("nobody", lambda api, tmp: api.model_info("org/open"), HfHubHTTPError, 401),
    ],
)
def test_refusals_are_the_errors_of_the_client(
    hub: Hub, tmp_path: Path, user: str, call: Refused, error: type[HfHubHTTPError], status: int
) -> None:
    files = {"m.safetensors": b"weights"}
    hub.repository("org/open", files)
    hub.repository("org/gated", files, gated="manual").grant("alice")
    hub.repository("org/private", files, private=True).grant("alice")
    hub.repository("org/disabled", files, disabled=True)
    hub.token("bob")
    with pytest.raises(error) as caught:
        call(api(hub, f"hf_read_{user}" if user else ""), tmp_path)
    assert type(caught.value) is error
    assert caught.value.response.status_code == status
    if user == "nobody":
        assert caught.value.response.headers["x-error-message"].startswith("Invalid credentials")


def test_whom_it_was_granted_to_reads_what_is_gated_or_private(hub: Hub, tmp_path: Path) -> None:
    for name, options in (("org/gated", {"gated": "auto"}), ("org/private", {"private": True})):
        hub.repository(name, {"m.safetensors": WEIGHTS}, **options).grant("alice")
        got = api(hub, hub.token("alice")).hf_hub_download(name, "m.safetensors", cache_dir=tmp_path)
        assert Path(got).read_bytes() == WEIGHTS
    # What a gated repository has, everybody may see, but for what would let them fetch it.
    (entry,) = api(hub).get_paths_info("org/gated", "m.safetensors")
    assert isinstance(entry, RepoFile)
    assert entry.xet_hash == "*" * 64
    fine = api(hub, hub.token("alice", fine_grained=True))
    with pytest.raises(HfHubHTTPError, match="fine-grained token settings"):
        fine.auth_check("org/gated")


def test_a_token_has_a_name(hub: Hub) -> None:
    assert api(hub, hub.token("alice")).whoami()["name"] == "alice"
    with pytest.raises(HfHubHTTPError) as caught:
        api(hub, "hf_unknown").whoami()
    assert caught.value.response.status_code == 401


def test_a_renamed_repository_is_found_by_its_old_name(hub: Hub, model: Repository, tmp_path: Path) -> None:
    hub.repository("gpt2", {"config.json": b"{}"})
    assert api(hub).model_info("gpt2").author is None
    assert Path(api(hub).hf_hub_download("gpt2", "config.json", cache_dir=tmp_path)).read_bytes() == b"{}"
    hub.rename("gpt2", "openai/gpt2")
    hub.rename("org/model", "neworg/name")
    assert api(hub).model_info("gpt2").id == "openai/gpt2"
    assert api(hub).model_info("org/model", files_metadata=True).id == "neworg/name"
    got = api(hub).hf_hub_download("org/model", VAE, cache_dir=tmp_path)
    assert Path(got).read_bytes() == WEIGHTS
    moved = {r.status for r in hub.site.requests if r.path.startswith("/org/model/resolve")}
    assert moved == {307}


def test_beyond_its_limit_a_kind_of_requests_is_refused_until_the_window_ends(
    hub: Hub, model: Repository
) -> None:
    hub.limit("resolvers", left=1, resets_s=55)
    metadata(hub, "org/model", VAE)
    with pytest.raises(HfHubHTTPError, match="429 Too Many Requests") as caught:
        metadata(hub, "org/model", VAE)
    told = parse_ratelimit_headers(caught.value.response.headers)
    assert told is not None
    assert (told.resource_type, told.remaining, told.limit, told.window_seconds) == (
        "resolvers",
        0,
        3000,
        300,
    )
    assert 50 <= told.reset_in_seconds <= 55
    assert "retry-after" not in caught.value.response.headers
    assert api(hub).model_info("org/model").sha == model.sha
    hub.limit("resolvers", left=0, resets_s=0)
    metadata(hub, "org/model", VAE)


def test_faults_come_at_both_hosts(hub: Hub, model: Repository, tmp_path: Path) -> None:
    hub.fail("/api/models/org/model", Status(503))
    hub.fail("/resolve/main/vae/", Hang(after=-1, seconds=5))
    hub.fail_storage("diffusion_pytorch_model.safetensors", Cut(after=1000))
    with pytest.raises(HfHubHTTPError, match="503"):
        api(hub).model_info("org/model")
    with pytest.raises(httpx2.ReadTimeout):
        metadata(hub, "org/model", VAE, timeout=0.2)
    got = api(hub).hf_hub_download("org/model", VAE, cache_dir=tmp_path)
    assert Path(got).read_bytes() == WEIGHTS
    assert [r.bytes_sent for r in hub.storage.requests] == [1000, len(WEIGHTS)]


def test_files_of_gigabytes_take_no_memory_and_beyond_50_gb_only_xet_has_them(
    hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder" / "disk.safetensors").open("wb") as file:
        file.write(b"head")
        file.truncate(5 << 30)
    hub.repository(
        "org/large",
        {"7b.safetensors": Sparse(7 << 30, b"head"), "60.gguf": Sparse(60 * 1000**3, b"GGUF")}
        | dict(files_of(tmp_path / "folder")),
    )
    sizes = {e.path: e.size for e in api(hub).list_repo_tree("org/large") if isinstance(e, RepoFile)}
    assert (sizes["7b.safetensors"], sizes["disk.safetensors"]) == (7 << 30, 5 << 30)
    with httpx.Client(trust_env=False) as client:
        for name in ("7b.safetensors", "disk.safetensors"):
            address = metadata(hub, "org/large", name).location
            for asked, expected in (("0-7", b"head\0\0\0\0"), (f"{(4 << 30) - 2}-{4 << 30}", b"\0\0\0")):
                assert client.get(address, headers={"Range": f"bytes={asked}"}).content == expected
        huge = metadata(hub, "org/large", "60.gguf")
        assert huge.xet_file_data is not None
        assert client.get(huge.location, headers={"Range": "bytes=0-7"}).status_code == 400
    with pytest.raises(ValueError, match="too large"):
        api(hub).hf_hub_download("org/large", "60.gguf", cache_dir=tmp_path)
