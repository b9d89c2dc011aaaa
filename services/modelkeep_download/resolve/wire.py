"""Between resolve.proto and `plans`."""

from __future__ import annotations

from typing import Final

from modelkeep.download.v1 import resolve_pb2
from modelkeep_common.auth import Principal
from modelkeep_common.urls import shown
from modelkeep_common.wire import to_timestamp
from modelkeep_download.resolve.plans import Asked, Metadata, Plan, PlanKind

_KINDS: Final = {
    PlanKind.HUGGING_FACE: resolve_pb2.SOURCE_KIND_HUGGING_FACE,
    PlanKind.CIVITAI: resolve_pb2.SOURCE_KIND_CIVITAI,
    PlanKind.URL: resolve_pb2.SOURCE_KIND_URL,
    PlanKind.PATH: resolve_pb2.SOURCE_KIND_LOCAL_PATH,
}


def asked(source: resolve_pb2.RemoteSource, access_token: str, named_by: Principal) -> Asked:
    """What a caller asks for."""
    return Asked(source.source, source.subfolder, source.variant, source.revision, access_token, named_by)


def plan_to_proto(plan: Plan) -> resolve_pb2.SourcePlan:
    """A plan as the wire has it: its addresses without their secrets."""
    return resolve_pb2.SourcePlan(
        kind=_KINDS[plan.kind],
        source=plan.source,
        revision=plan.revision,
        name=plan.name,
        is_folder=plan.is_folder,
        files=[
            resolve_pb2.PlannedFile(
                url=shown(file.url),
                path=file.path,
                size_bytes=file.size,
                sha256=file.sha256,
                cached_path=file.cached_path,
            )
            for file in plan.files
        ],
        bytes_total=plan.size,
        source_bytes_total=plan.source_size,
        variant=plan.variant,
        reasons=plan.reasons,
        choices=[
            resolve_pb2.SourceChoice(
                kind=choice.kind,
                value=choice.value,
                source=choice.source,
                bytes_total=choice.size,
                chosen=choice.chosen,
            )
            for choice in plan.choices
        ],
        metadata=_metadata_to_proto(plan.metadata),
        digest=plan.digest,
        code_files=plan.code_files,
    )


def _metadata_to_proto(metadata: Metadata) -> resolve_pb2.SourceMetadata:
    published = metadata.publish_time
    return resolve_pb2.SourceMetadata(
        name=metadata.name,
        description=metadata.description,
        author=metadata.author,
        license=metadata.license,
        tags=metadata.tags,
        trigger_phrases=metadata.trigger_phrases,
        type=metadata.type,
        base=metadata.base,
        page_url=metadata.page_url,
        preview_url=metadata.preview_url,
        nsfw_level=metadata.nsfw_level,
        publish_time=None if published is None else to_timestamp(published),
    )
