"""The models of an InvokeAI, registered where they lie."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from modelkeep.client._transport import Peer
from modelkeep.exceptions import ModelkeepError
from modelkeep.install.v1 import invokeai_pb2 as pb
from modelkeep.install.v1.install_service_pb2_grpc import InstallServiceStub
from modelkeep.messages import made
from modelkeep.rpc import exception_of
from modelkeep.values import absolute

#: An import of very many models from a slow disk may take so long, in seconds.
_DEADLINE_S: Final = 86_400.0


class InvokeAIOutcome(StrEnum):
    """What became of one of InvokeAI's records, or would become of it."""

    NEW = "new"
    UNCHANGED = "unchanged"
    UPDATED = "updated"
    KEPT = "kept"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class InvokeAIModel:
    """What became of one of InvokeAI's records.

    Attributes:
        name: Name of the model.
        key: Of the record here; "" where there is none.
        path: Where its files are.
        outcome: What became of it.
        is_missing: Its files are gone.
        is_unknown: This version does not know such a model.
        changed_fields: The fields that differ, of what was updated or kept.
        exception: Why it was not registered.
        message: The wire's message, which has InvokeAI's key, type and base too.
    """

    name: str
    key: str
    path: str
    outcome: InvokeAIOutcome
    is_missing: bool
    is_unknown: bool
    changed_fields: tuple[str, ...]
    exception: ModelkeepError | None
    message: pb.InvokeAIModel


@dataclass(frozen=True, slots=True)
class InvokeAIProgress:
    """How far an import is.

    Attributes:
        root: The installation, with the number of its records.
        models: What became of the next records; none when it begins and when it ends.
        counts: How many records there were by now: `total`, of each outcome, `missing` and `unknown`.
        ended: Whether that was all.
    """

    root: pb.InvokeAIRoot
    models: Sequence[InvokeAIModel]
    counts: Mapping[str, int]
    ended: bool


class InvokeAIImport:
    """The part of `AsyncModelInstall` that imports an InvokeAI.

    Args:
        peer: The install service.
    """

    _peer: Peer

    async def import_invokeai(
        self,
        root: str | os.PathLike[str],
        *,
        validate_only: bool = False,
        skip_missing: bool = False,
        overwrite: bool = False,
        timeout: float = _DEADLINE_S,
    ) -> AsyncGenerator[InvokeAIProgress]:
        """Register the models of an InvokeAI where they lie, with all that its records say.

        It goes on while it is iterated over. Made again, it goes on where it was left, and changes nothing
        that is done.

        Args:
            root: Its root folder, on the service's host; a relative path is taken from the current folder.
            validate_only: Only tell what would happen.
            skip_missing: Leave models out whose files are gone.
            overwrite: Give records that were changed here InvokeAI's values again.
            timeout: Longest time in seconds.

        Raises:
            FieldInvalidException: The folder is no root of an InvokeAI.
            SourceNotFoundException: There is no such folder.
            ForbiddenPathException: It is outside the folders that may be imported from.
        """
        request = made(
            pb.ImportInvokeAIRequest,
            root=str(absolute(root)),
            validate_only=validate_only,
            skip_missing=skip_missing,
            overwrite=overwrite,
        )
        stub = InstallServiceStub(self._peer.stream_channel)
        counts: Counter[str] = Counter()
        found = pb.InvokeAIRoot()
        answers = self._peer.stream(stub.ImportInvokeAI, request, timeout=timeout)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                if answer.HasField("started"):
                    found = answer.started
                models = [_model_of(message) for message in answer.models.models]
                _count(counts, models)
                yield InvokeAIProgress(found, models, dict(counts), answer.HasField("ended"))


def _count(counts: Counter[str], models: Sequence[InvokeAIModel]) -> None:
    counts["total"] += len(models)
    for outcome in InvokeAIOutcome:
        counts[outcome.value] += sum(one.outcome is outcome for one in models)
    counts["missing"] += sum(one.is_missing for one in models)
    counts["unknown"] += sum(one.is_unknown for one in models)


def _model_of(message: pb.InvokeAIModel) -> InvokeAIModel:
    return InvokeAIModel(
        message.name,
        message.key,
        message.path,
        InvokeAIOutcome[pb.InvokeAIOutcome.Name(message.outcome).removeprefix("INVOKE_AI_OUTCOME_")],
        message.is_missing,
        message.is_unknown,
        tuple(message.changed_fields),
        exception_of(message.error) if message.HasField("error") else None,
        message,
    )
