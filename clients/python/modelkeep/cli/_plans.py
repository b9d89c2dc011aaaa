"""``modelkeep downloads resolve``: what a source comes to before anything is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from modelkeep.cli._downloads import (
    Revision,
    SourceArgument,
    Subfolder,
    Token,
    Variant,
    downloads_group,
    queue_of,
)
from modelkeep.cli._output import as_json, counted, emit, print_facts, say, short, size
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb

if TYPE_CHECKING:
    from modelkeep.download.v1 import resolve_pb2

#: Files of a plan that people are shown.
_MOST_SHOWN: Final = 100


def add_to_downloads() -> None:
    """Add the command."""
    verb(
        downloads_group,
        "resolve",
        takes=DATA,
        examples=(
            "modelkeep downloads resolve stabilityai/sdxl-vae",
            "modelkeep downloads resolve owner/name --variant fp16 --subfolder vae",
            "modelkeep downloads resolve 'https://civitai.com/models/8765?modelVersionId=10638' -o json",
        ),
    )(resolve_source)


def resolve_source(
    source: SourceArgument,
    variant: Variant = None,
    subfolder: Subfolder = None,
    revision: Revision = None,
    token: Token = None,
    every: Annotated[bool, typer.Option("--all", help="Show every file, however many there are.")] = False,
) -> None:
    """Say which files a source comes to, how large they are, why these, and what else there is."""
    with queue_of("") as jobs:
        plan = jobs.resolve_source(
            source, variant=variant, subfolder=subfolder, revision=revision, access_token=token
        )
    if not emit(lambda: as_json(plan)):
        tell_plan(plan, most=len(plan.files) if every else _MOST_SHOWN)


def tell_plan(plan: resolve_pb2.SourcePlan, *, most: int = _MOST_SHOWN) -> None:
    """Show a plan to a person, and so many of its files at most."""
    from modelkeep.download.v1 import resolve_pb2

    print_facts(
        [
            ("source", plan.source),
            ("kind", short(resolve_pb2.SourceKind.Name(plan.kind), "SOURCE_KIND_")),
            ("revision", plan.revision),
            ("name", plan.metadata.name or plan.name),
            ("variant", plan.variant),
            ("brings", _brings(plan)),
            ("why", "\n".join(plan.reasons)),
            ("base", plan.metadata.base),
            ("type", plan.metadata.type),
            ("licence", plan.metadata.license),
            ("trigger phrases", ", ".join(plan.metadata.trigger_phrases)),
            ("code left out", ", ".join(plan.code_files)),
            ("files", "\n".join(map(_file, plan.files[:most]))),
            ("others", "\n".join(_choice(choice) for choice in plan.choices if not choice.chosen)),
        ]
    )
    if len(plan.files) > most:
        say(f"… and {counted(len(plan.files) - most, 'more file')}; --all shows them.")


def _brings(plan: resolve_pb2.SourcePlan) -> str:
    text = counted(len(plan.files), "file")
    if plan.HasField("bytes_total"):
        text += f", {size(plan.bytes_total)}"
    more = plan.HasField("source_bytes_total") and plan.source_bytes_total > plan.bytes_total
    return f"{text} of {size(plan.source_bytes_total)} that it has" if more else text


def _file(file: resolve_pb2.PlannedFile) -> str:
    told = size(file.size_bytes) if file.HasField("size_bytes") else "size unknown"
    here = f", copied from {visible(file.cached_path)}" if file.cached_path else ""
    return f"{visible(file.path)}  {told}{here}"


def _choice(choice: resolve_pb2.SourceChoice) -> str:
    told = f"  {size(choice.bytes_total)}" if choice.HasField("bytes_total") else ""
    source = f": {visible(choice.source)}" if choice.source else ""
    return f"{choice.kind} {visible(choice.value)}{told}{source}"
