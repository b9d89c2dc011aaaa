"""What people write in place of an address: repositories of Hugging Face, models of Civitai. Asks nobody."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

HUGGING_FACE: Final = "https://huggingface.co"
CIVITAI: Final = "https://civitai.com"
HUGGING_FACE_HOSTS: Final = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"})
#: Civitai's site with what is for adults alone, which the other one may not show.
CIVITAI_RED: Final = "https://civitai.red"
_RED_HOSTS: Final = frozenset({"civitai.red", "www.civitai.red"})
CIVITAI_HOSTS: Final = _RED_HOSTS | {
    *("civitai.com", "www.civitai.com", "civitai.green", "www.civitai.green")
}
#: Parameters of its download links that choose a file.
_CHOOSE: Final = ("type", "format", "size", "fp", "quantType", "fileId")

_PART: Final = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
#: Names of pull requests and of what the hub has converted, the only revisions that its addresses have with
#: plain slashes.
_REFERENCE: Final = r"refs/(?:pr/\d+|convert/[\w.-]+)(?![^:/\s])"
#: `owner/name`, with a revision and a subfolder if need be.
_REPOSITORY: Final = re.compile(rf"({_PART}/{_PART})(?:@([^:\s]+))?(?::(\S*))?", re.ASCII)
#: The same after "hf:": `name` alone is one of the hub's oldest, and a path may follow after a slash.
_AFTER_PREFIX: Final = re.compile(
    rf"({_PART}(?:/{_PART})?)(?:@({_REFERENCE}|[^:/\s]+))?(?:[:/](\S*))?", re.ASCII
)
_PREFIX: Final = re.compile(r"hf:(?://)?", re.IGNORECASE)
_CIVITAI_TEXT: Final = re.compile(
    r"(?:(?:urn:)?air:[\w.-]*:[\w.-]*:)?civitai:(\d{1,10})(?:@(\d{1,10}))?(?:\.([a-z]\w*))?",
    re.IGNORECASE | re.ASCII,
)
_NUMBER: Final = re.compile(r"0*[1-9][0-9]{0,9}")
#: What a repository of another kind than models is listed under.
OTHER_REPOSITORIES: Final = frozenset({"datasets", "spaces"})
#: First parts of the hub's addresses that are no owners.
_NO_OWNERS: Final = frozenset(
    {"api", "docs", "models", "collections", "papers", "blog", "settings", "login", "join", "pricing"}
)
_WAYS: Final = frozenset({"blob", "resolve", "raw", "tree"})


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository of Hugging Face, or a part of one."""

    #: `owner/name`; of the oldest ones `name`.
    id: str
    #: Folder or file in it; empty for all of it.
    path: str = ""
    #: Branch, tag or commit; empty where none is named.
    revision: str = ""
    #: Whether it is the address of a single file.
    is_file: bool = False

    @property
    def shown(self) -> str:
        """In its shortest spelling."""
        at = f"@{self.revision}" if self.revision and self.revision != "main" else ""
        return f"{self.id}{at}{f':{self.path}' if self.path else ''}"


@dataclass(frozen=True, slots=True)
class CivitaiModel:
    """A model of Civitai, a version of it, or a file of a version."""

    #: Number of the model; 0 where only the version is named.
    model: int = 0
    #: Number of the version; 0 for the newest that is published.
    version: int = 0
    #: What chooses among a version's files: type, format, size, fp, quantType, fileId, as its download links
    #: name them.
    wanted: tuple[tuple[str, str], ...] = ()
    #: Hash of one of the version's files, where the version is named by it alone.
    hash: str = ""
    #: Origin of the site that it was named at, where that is another one than civitai.com.
    site: str = ""


def hub_of(
    text: str, mirrors: Collection[str] = (), civitai: Collection[str] = ()
) -> Repository | CivitaiModel | None:
    """What a text names at a hub; None where it names nothing there, as an address of a file elsewhere.

    Args:
        text: As it was written.
        mirrors: Hosts, with their ports if those are not the scheme's own, that serve what Hugging Face does.
        civitai: The same for Civitai.

    Raises:
        ValueError: It is an address at a hub of something that is no model; the text says what.
    """
    text = text.strip()
    if (model := civitai_of(text, civitai)) is not None:
        return model
    if prefix := _PREFIX.match(text):
        return _written(text[prefix.end() :], _AFTER_PREFIX)
    if "://" not in text:
        return _written(text, _REPOSITORY) if _REPOSITORY.fullmatch(text) else None
    address = _address(text)
    if address is not None and (address.host in HUGGING_FACE_HOSTS or address.authority in mirrors):
        return _hugging_face(address.way)
    return None


def civitai_of(text: str, hosts: Collection[str] = ()) -> CivitaiModel | None:
    """What a text names at Civitai; None where it names nothing there.

    Args:
        text: As it was written.
        hosts: Hosts besides Civitai's own, with their ports if those are not the scheme's own.

    Raises:
        ValueError: It is an address there of something that is no model; the text says so.
    """
    if found := _CIVITAI_TEXT.fullmatch(text.strip()):
        wanted = (("format", found[3]),) if found[3] else ()
        return CivitaiModel(int(found[1]), int(found[2] or 0), wanted)
    address = _address(text.strip())
    if address is None or not (address.host in CIVITAI_HOSTS or address.authority in hosts):
        return None
    site = CIVITAI_RED if address.host in _RED_HOSTS else ""
    return replace(_civitai(address.way, dict(parse_qsl(address.query))), site=site)


class _Address(NamedTuple):
    host: str
    #: The same with its port, if one is written.
    authority: str
    #: The parts of the path.
    way: list[str]
    query: str


def _address(text: str) -> _Address | None:
    """An http or https address taken apart; None for anything else."""
    try:
        parts = urlsplit(text)
        host, authority = (parts.hostname or "").lower(), parts.netloc.rpartition("@")[2].lower()
    except ValueError:
        return None
    if parts.scheme.lower() not in ("http", "https"):
        return None
    way = [unquote(part) for part in parts.path.split("/") if part]
    return _Address(host, authority, way, parts.query)


def _written(text: str, form: re.Pattern[str]) -> Repository:
    found = form.fullmatch(text)
    if found is None:
        raise ValueError("a repository is written owner/name, or owner/name:subfolder")
    if text.split("/")[0] in OTHER_REPOSITORIES:
        raise ValueError(f"{text.split('/')[0]} hold no models")
    return Repository(found[1], _clean(found[3] or ""), found[2] or "")


def _hugging_face(way: list[str]) -> Repository | None:
    if not way or way[0] in _NO_OWNERS:
        raise ValueError("this is no page of a repository")
    if way[0] in OTHER_REPOSITORIES:
        raise ValueError(f"{way[0]} hold no models")
    # The oldest repositories have no owner.
    name, rest = (way[:1], way[1:]) if way[1:2] and way[1] in _WAYS else (way[:2], way[2:])
    if len(name) == 2 and rest and rest[0] not in _WAYS:
        raise ValueError("this page of a repository has no files")
    if len(name) == 1 and not rest:
        raise ValueError(
            "this is the page of an owner, or of a repository without one: write hf:NAME for that"
        )
    revision, path = "".join(rest[1:2]), rest[2:]
    if re.fullmatch(_REFERENCE, "/".join(rest[1:4]), re.ASCII):
        revision, path = "/".join(rest[1:4]), rest[4:]
    return Repository(
        "/".join(name),
        _clean("/".join(path)),
        revision,
        is_file=bool(path) and rest[0] != "tree",
    )


def _civitai(way: list[str], query: dict[str, str]) -> CivitaiModel:
    wanted = tuple((name, query[name]) for name in _CHOOSE if query.get(name))
    match way:
        case ["models", model, *_] if _NUMBER.fullmatch(model):
            version = query.get("modelVersionId", "")
            return CivitaiModel(int(model), int(version) if _NUMBER.fullmatch(version) else 0)
        case ["api", "download", "models", version] if _NUMBER.fullmatch(version):
            return CivitaiModel(0, int(version), wanted)
        case ["model-versions", version] if _NUMBER.fullmatch(version):
            return CivitaiModel(0, int(version))
        case ["api", "v1", "models", model] if _NUMBER.fullmatch(model):
            return CivitaiModel(int(model))
        case ["api", "v1", "model-versions", version] if _NUMBER.fullmatch(version):
            return CivitaiModel(0, int(version))
        case ["api", "v1", "model-versions", "by-hash", hash_] if re.fullmatch("[0-9A-Fa-f]{8,64}", hash_):
            return CivitaiModel(hash=hash_.upper())
    raise ValueError("this is no page of a model")


def _clean(path: str) -> str:
    return "/".join(part for part in path.split("/") if part)
