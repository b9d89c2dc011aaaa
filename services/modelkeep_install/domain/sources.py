"""Which kind of source a caller names, and what of it is a secret. Asks nobody."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.hubs import CivitaiModel, Repository, hub_of
from modelkeep_common.named_paths import named_path
from modelkeep_common.urls import is_address, is_secret_name, parse_url, unescaped

from .jobs import SourceKind
from .plans import Remote
from .requests import ImportRequest


@dataclass(frozen=True, slots=True)
class Named:
    """A source as it was understood. Its repr shows no secrets."""

    kind: SourceKind
    #: A path or an address as it came; of a hub's source the shortest spelling.
    text: str = field(repr=False)
    remote: Remote | None = None
    #: What the address of a hub's source had in it as a credential.
    access_token: str = field(default="", repr=False)


def named(request: ImportRequest, mirrors: Collection[str]) -> Named:
    """What a request names.

    Args:
        request: As it came.
        mirrors: Hosts that serve what Hugging Face does; see `modelkeep.hubs.hub_of`.

    Raises:
        FieldInvalidException: It names nothing that can be installed.
    """
    if request.remote is None:
        if not request.url:
            return Named(SourceKind.PATH, request.local_path)
        return _at_hub(Remote(request.url), "source.url", mirrors) or Named(SourceKind.URL, request.url)
    asked, name = request.remote, "source.remote.source"
    path = named_path(asked.source, name)
    if path is None and (found := _at_hub(asked, name, mirrors)) is not None:
        return found
    if path is None and not is_address(asked.source):
        raise _bad(name, "is no address, no repository (owner/name) and no absolute path")
    for part in ("subfolder", "variant", "revision"):
        if getattr(asked, part):
            raise _bad(f"source.remote.{part}", "is for a source at a hub")
    return Named(SourceKind.URL, asked.source) if path is None else Named(SourceKind.PATH, path)


def _at_hub(asked: Remote, name: str, mirrors: Collection[str]) -> Named | None:
    try:
        found = hub_of(asked.source, mirrors)
    except ValueError as error:
        raise _bad(name, str(error)) from None
    if found is None:
        return None
    if isinstance(found, CivitaiModel):
        text, token = _without_token(asked.source, name)
        return Named(SourceKind.HUB, text, replace(asked, source=text), token)
    is_page = is_address(asked.source) and not asked.source.lower().startswith("hf:")
    token = parse_url(asked.source, name).userinfo.rpartition(":")[2] if is_page else ""
    # one of the oldest repositories has no owner, and is told from a path by the prefix alone
    source = found.id if "/" in found.id else f"hf:{found.id}"
    subfolder, revision = found.path or asked.subfolder.strip("/"), found.revision or asked.revision
    text = Repository(source, subfolder, revision).shown
    return Named(SourceKind.HUB, text, Remote(source, subfolder, asked.variant, revision), token)


def _without_token(text: str, name: str) -> tuple[str, str]:
    """What names a model of Civitai, and the token that its address has in it, if any."""
    if not is_address(text):
        return text, ""
    parsed = parse_url(text, name)
    way, _, query = parsed.url.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    kept = [pair for pair in pairs if not is_secret_name(pair.partition("=")[0])]
    tokens = [unescaped(pair.partition("=")[2]) for pair in pairs if pair.startswith("token=")]
    return f"{way}?{'&'.join(kept)}" if kept else way, next(iter(tokens), "")


def _bad(name: str, description: str) -> FieldInvalidException:
    return FieldInvalidException(
        f"the source cannot be used: {description}", violations=[FieldViolation(name, description)]
    )
