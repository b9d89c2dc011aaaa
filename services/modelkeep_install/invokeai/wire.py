"""The call on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

from modelkeep.install.v1 import invokeai_pb2 as pb
from modelkeep_common.calls import current_call
from modelkeep_common.urls import shown

from ..convert import error_message
from ..domain.jobs import JobError
from .course import Ended, Finding, InvokeAIImports, Outcome, Started, Wish
from .source import text_in

#: A name or path of somebody else's database is told up to so many characters.
_MAX_TEXT = 4096


class InvokeAIMethods:
    """The method of InvokeAI's records; the .proto says what it does."""

    _invokeai: InvokeAIImports

    async def ImportInvokeAI(
        self, request: pb.ImportInvokeAIRequest, context: object
    ) -> AsyncIterator[pb.ImportInvokeAIResponse]:
        wish = Wish(request.validate_only, request.skip_missing, request.overwrite)
        async for news in self._invokeai.run(request.root, current_call().principal, wish):
            if isinstance(news, Started):
                yield pb.ImportInvokeAIResponse(started=_root_message(news))
            elif isinstance(news, Ended):
                yield pb.ImportInvokeAIResponse(ended=_counts_message(news))
            else:
                yield pb.ImportInvokeAIResponse(models=pb.InvokeAIModels(models=map(_model_message, news)))


def _root_message(news: Started) -> pb.InvokeAIRoot:
    root = news.root
    return pb.InvokeAIRoot(
        path=str(root.path),
        models_dir=str(root.models_dir),
        database_path=str(root.database or ""),
        models_yaml_path=str(root.models_yaml or ""),
        schema=news.schema[:_MAX_TEXT],
        is_newer=news.is_newer,
        model_count=news.count,
    )


def _model_message(one: Finding) -> pb.InvokeAIModel:
    config = one.source.config
    message = pb.InvokeAIModel(
        invokeai_key=_text(one.source.shown_key),
        key=one.key,
        name=one.wanted.model.name if one.wanted is not None else _text(text_in(config, "name")),
        type=_text(text_in(config, "type")),
        base=_text(text_in(config, "base")),
        path=_text(shown(one.path)),
        outcome=f"INVOKE_AI_OUTCOME_{one.outcome.name}",
        is_missing=one.wanted is not None and one.wanted.place.is_missing,
        is_unknown=one.wanted is not None and one.wanted.is_unknown,
        changed_fields=one.changed,
    )
    if one.error is not None:
        message.error.CopyFrom(error_message(JobError.of(one.error)))
    return message


def _counts_message(ended: Ended) -> pb.InvokeAICounts:
    return pb.InvokeAICounts(
        total_count=ended.outcomes.total(),
        missing_count=ended.missing,
        unknown_count=ended.unknown,
        **{f"{outcome.value}_count": ended.outcomes[outcome] for outcome in Outcome},
    )


def _text(text: str) -> str:
    """A text that the wire takes: no half characters, and not too long."""
    return text[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode()
