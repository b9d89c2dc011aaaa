"""Versions of a Civitai model: which are published, which only for those who pay, the plan for one. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from modelkeep.exceptions import (
    EarlyAccessException,
    ModelkeepError,
    NotAModelFileException,
    PurchaseRequiredException,
    SourceDisabledException,
    TokenRejectedException,
    TokenRequiredException,
)
from modelkeep_common import civitai
from modelkeep_common.plain_text import cut
from modelkeep_download.domain.names import is_safe_component
from modelkeep_download.domain.refusals import clean
from modelkeep_download.resolve.civitai_files import Chosen, VersionFile, files_of
from modelkeep_download.resolve.looking import Looked
from modelkeep_download.resolve.plans import Choice, Metadata, Plan, PlanKind, PlannedFile

#: Versions and files that a plan names as choices.
_MAX_CHOICES: Final = 100
#: What a site answers about a version in early access to those who may not have it yet.
NOT_YET: Final = (
    EarlyAccessException,
    PurchaseRequiredException,
    TokenRequiredException,
    TokenRejectedException,
)


def versions_of(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The versions that are published, the newest first."""
    now = time.time()

    def published(version: Mapping[str, Any]) -> bool:
        status = version.get("status")
        at = version.get("publishedAt", version.get("createdAt"))
        when = civitai.time_of(at)
        return (status == "Published" if status else at is not None) and (when is None or when <= now)

    found = [version for version in civitai.items(model.get("modelVersions")) if published(version)]
    # sorting is stable: those of one time keep the order that their maker gave them
    return sorted(found, key=lambda version: -(published_at(version) or 0.0))


def published_at(version: Mapping[str, Any]) -> float | None:
    """When a version was published, in seconds since 1970; None where that is not told."""
    return civitai.time_of(version.get("publishedAt") or version.get("createdAt"))


def deadline_of(version: Mapping[str, Any]) -> float | None:
    """Until when a version is in early access; 0 where that is not told, None if it is not."""
    told = (version.get("earlyAccessEndsAt"), version.get("earlyAccessDeadline"))
    ends = next((when for one in told if (when := civitai.time_of(one)) is not None), None)
    if ends is not None:
        return ends if ends > time.time() else None
    return 0.0 if version.get("availability") == "EarlyAccess" else None


def refuse_disabled(model: Mapping[str, Any], version: Mapping[str, Any] | None, host: str) -> None:
    """Refuse what is given to nobody, and what is no model.

    Raises:
        SourceDisabledException: It is archived, taken down, or its maker has disabled downloads.
        NotAModelFileException: Civitai's type for it is none of models.
    """
    name, mode = clean(civitai.text(model.get("name"))) or "The model", civitai.text(model.get("mode"))
    if mode in ("Archived", "TakenDown"):
        what = "archived" if mode == "Archived" else "taken down"
        raise SourceDisabledException(
            f"{name} is {what} at {host}: its files are not given to anybody.",
            metadata={"host": host, "said": mode},
            remedy="Take another model.",
        )
    use = civitai.text((version or {}).get("usageControl"))
    if use not in ("", "Download"):
        raise SourceDisabledException(
            f"The maker of {name} has disabled downloads at {host}: it is for {use} there alone.",
            metadata={"host": host, "said": use},
            remedy="Take another version of the model, or another model.",
        )
    type_ = civitai.text(model.get("type"))
    if type_.lower() in civitai.NO_MODELS:
        raise NotAModelFileException(
            f"{name} at {host} is of type {type_}, which is no model: it cannot be installed.",
            metadata={"host": host, "content_type": "", "detail": type_},
            remedy="Fetch its files as a download of their addresses.",
        )


def early_access(error: ModelkeepError, version: Mapping[str, Any], host: str) -> ModelkeepError:
    """A refusal of a version's file; of one in early access as that, with its date, whatever it was told as.

    To those without an account or with one that has not paid such a version may be refused as one that wants
    another account.
    """
    deadline = deadline_of(version)
    if deadline is None or not isinstance(error, NOT_YET):
        return error
    said = error.metadata.get("said", "")
    facts = {"host": host, "status": error.metadata.get("status", ""), "said": said}
    until = error.metadata.get("deadline") or (date_of(deadline) if deadline else "")
    facts["deadline"] = until
    says = f' {host} says "{said}".' if said else ""
    return EarlyAccessException(
        f"{name_of(version)} is in early access{f' until {until}' if until else ''}.{says}",
        metadata={name: text for name, text in facts.items() if text},
        remedy="Buy access at the source and give that account's access token, or wait until it is free.",
    )


def plan_of(
    model: Mapping[str, Any],
    version: Mapping[str, Any],
    chosen: Chosen,
    looked: Looked | None,
    site: str,
    shown: str,
) -> Plan:
    """The plan for one file of a version.

    Args:
        model, version: As the API answers them.
        chosen: The file.
        looked: What its address serves, where that was asked.
        site: Origin of the site that serves it.
        shown: Origin of the site that people know it by.
    """
    file, files = chosen.file, files_of(version, civitai.number(version.get("id")))
    size = looked.size if looked is not None and looked.size is not None else file.bytes
    path = file.name if is_safe_component(file.name) else looked.name if looked is not None else ""
    name = _full_name(model, version)
    sizes = [size if one == file else one.bytes for one in files]
    return Plan(
        PlanKind.CIVITAI,
        page_of(model, version, shown),
        name,
        [PlannedFile(f"{site}{file.path()}", path or f"model-{file.version}", size, file.sha256)],
        revision=str(civitai.number(version.get("id")) or ""),
        source_size=None if None in sizes else sum(one for one in sizes if one is not None),
        variant=chosen.variant,
        reasons=chosen.reasons,
        choices=[*_files(files, file, shown), *_versions(model, version, shown)],
        metadata=_metadata(model, version, name, shown),
    )


def page_of(model: Mapping[str, Any], version: Mapping[str, Any], shown: str) -> str:
    """Address of the page of a version."""
    return civitai.page_of(civitai.number(model.get("id")), civitai.number(version.get("id")), shown)


def name_of(version: Mapping[str, Any]) -> str:
    """What people call a version."""
    return clean(civitai.text(version.get("name"))) or f"version {civitai.number(version.get('id'))}"


def date_of(seconds: float) -> str:
    """A time, for people."""
    return datetime.fromtimestamp(min(seconds, 253402300799), UTC).strftime("%Y-%m-%d %H:%M UTC")


def _full_name(model: Mapping[str, Any], version: Mapping[str, Any]) -> str:
    name, of = civitai.text(version.get("name")), civitai.text(model.get("name"))
    return cut(" – ".join(filter(None, (of, name))), 240) or name_of(version)


def _files(files: Sequence[VersionFile], chosen: VersionFile, shown: str) -> list[Choice]:
    if len(files) == 1:
        return []
    return [file.choice(shown, chosen=file == chosen) for file in files][:_MAX_CHOICES]


def _versions(model: Mapping[str, Any], chosen: Mapping[str, Any], shown: str) -> list[Choice]:
    there = versions_of(model)
    number = chosen.get("id")
    return [
        Choice("version", name_of(v), page_of(model, v, shown), chosen=v.get("id") == number)
        for v in (there if len(there) > 1 else [])
    ][:_MAX_CHOICES]


def _metadata(model: Mapping[str, Any], version: Mapping[str, Any], name: str, shown: str) -> Metadata:
    preview, level = civitai.picture_of(version.get("images"))
    return Metadata(
        name=name,
        description=civitai.description_of(model.get("description"), version.get("description")),
        author=civitai.text(civitai.mapping(model.get("creator")).get("username"))[:256],
        license=civitai.license_of(model),
        tags=civitai.tags_of(model.get("tags")),
        trigger_phrases=civitai.trigger_phrases_of(version.get("trainedWords")),
        type=civitai.text(model.get("type"))[:64],
        base=civitai.text(version.get("baseModel"))[:64],
        page_url=page_of(model, version, shown),
        preview_url=preview,
        nsfw_level=level or civitai.level_of(version.get("nsfwLevel")),
        publish_time=published_at(version),
    )
