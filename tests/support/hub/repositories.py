"""Repositories: commits, branches, tags, who may read them, and what their cards say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import yaml

from support.hub.contents import GIT_ATTRIBUTES, Blob, Contents, blob_of, git_name

_BEGAN = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Commit:
    """A tree of files, as of one moment."""

    sha: str
    title: str
    date: datetime
    files: Mapping[str, Blob]
    #: Folder → git's name of its tree; the root is "".
    folders: Mapping[str, str]
    parent: Commit | None


@dataclass(frozen=True)
class Card:
    """What the README.md and the configs of a commit say of the model."""

    data: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    library: str | None = None
    pipeline: str | None = None


class Repository:
    """A model repository of the hub.

    Attributes:
        name: `owner/name`, or `name` alone as the oldest have it.
        gated: False, "auto" or "manual": whose files only those read to whom they were granted.
        private: Only those know of it to whom it was granted.
        disabled: Nobody reads it.
        branches: Name → commit; `main` at least.
        tags: Name → commit.
    """

    def __init__(
        self,
        name: str,
        files: Contents,
        *,
        gated: Literal[False, "auto", "manual"] = False,
        private: bool = False,
        disabled: bool = False,
        xet: bool = True,
    ) -> None:
        self.name = name
        self.gated, self.private, self.disabled = gated, private, disabled
        self.branches: dict[str, Commit] = {}
        self.tags: dict[str, Commit] = {}
        self._xet = xet
        self._readers: set[str] = set()
        self._commits: dict[str, Commit] = {}
        self.commit(files)

    @property
    def author(self) -> str | None:
        """Owner."""
        return self.name.partition("/")[0] if "/" in self.name else None

    @property
    def number(self) -> str:
        """The hub's own name of it."""
        return git_name("repository", self.name.encode())[:24]

    @property
    def sha(self) -> str:
        """Newest commit of main."""
        return self.branches["main"].sha

    def grant(self, *users: str) -> Repository:
        """Let these read what is gated or private; returns the repository."""
        self._readers.update(users)
        return self

    def is_granted(self, user: str | None) -> bool:
        """Whether one of those is asking."""
        return user in self._readers

    def commit(self, files: Contents, *, branch: str = "main", title: str = "Upload files") -> str:
        """Make these all the files of a branch, beside a .gitattributes; returns the commit's SHA-1."""
        parent = self.branches.get(branch) or self.branches.get("main")
        blobs = {
            path: blob_of(path, content, xet=self._xet)
            for path, content in sorted({".gitattributes": GIT_ATTRIBUTES, **files}.items())
        }
        folders = _folders(blobs)
        date = _BEGAN + timedelta(minutes=len(self._commits))
        told = f"tree {folders['']}\n" + (f"parent {parent.sha}\n" if parent else "")
        told += f"author {self.author} {date.timestamp():.0f} +0000\n\n{title}\n"
        commit = Commit(git_name("commit", told.encode()), title, date, blobs, folders, parent)
        self._commits[commit.sha] = self.branches[branch] = commit
        return commit.sha

    def tag(self, name: str, revision: str = "main") -> None:
        """Name a commit."""
        self.tags[name] = self.at(revision)

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a reference or the first digits of a SHA-1 mean; else KeyError."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        found = self.branches.get(name) or self.tags.get(name)
        if found is None and len(name) >= 7:
            found = next((commit for sha, commit in self._commits.items() if sha.startswith(name)), None)
        if found is None:
            raise KeyError(revision)
        return found


def card_of(commit: Commit) -> Card:
    """What a commit says of the model: its card's front matter and its configs."""
    data: dict[str, Any] = {}
    if readme := commit.files.get("README.md"):
        parts = readme.in_git.decode().split("---\n", 2)
        if len(parts) == 3 and not parts[0]:
            data = yaml.safe_load(parts[1]) or {}
    config: dict[str, Any] = {}
    library = data.get("library_name")
    tags = [*data.get("tags", [])]
    if index := commit.files.get("model_index.json"):
        kind = json.loads(index.in_git)["_class_name"]
        config["diffusers"] = {"_class_name": kind}
        tags += ["diffusers", f"diffusers:{kind}"]
        library = library or "diffusers"
    elif told := commit.files.get("config.json"):
        read = json.loads(told.in_git)
        config = {key: read[key] for key in ("architectures", "model_type") if key in read}
        if config:
            library = library or "transformers"
            tags.append("transformers")
    if any(path.endswith(".safetensors") for path in commit.files):
        tags.append("safetensors")
    tags += [f"license:{data['license']}"] if "license" in data else []
    bases = data.get("base_model", [])
    tags += [f"base_model:{base}" for base in ([bases] if isinstance(bases, str) else bases)]
    return Card(data, config, tuple(dict.fromkeys([*tags, "region:us"])), library, data.get("pipeline_tag"))


def _folders(blobs: Mapping[str, Blob]) -> dict[str, str]:
    """Each folder's git name, from the deepest on."""
    names = {""}
    for path in blobs:
        parts = path.split("/")
        names.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    found: dict[str, str] = {}
    for folder in sorted(names, key=lambda name: (name.count("/") + bool(name), name), reverse=True):
        inside = {
            **{path: ("100644", blob.oid) for path, blob in blobs.items()},
            **{path: ("40000", oid) for path, oid in found.items()},
        }
        # Git sorts folders as if their names ended in a slash.
        entries = sorted(
            (path.rpartition("/")[2] + "/" * (mode == "40000"), mode, oid)
            for path, (mode, oid) in inside.items()
            if path and path.rpartition("/")[0] == folder
        )
        body = b"".join(
            f"{mode} {name.removesuffix('/')}\0".encode() + bytes.fromhex(oid) for name, mode, oid in entries
        )
        found[folder] = git_name("tree", body)
    return found
