"""ImportInvokeAI over the wire, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelkeep.install.v1 import invokeai_pb2 as pb
from support.installs import InstallClient
from support.invokeai import InvokeAI

NEW, UNCHANGED, UPDATED, KEPT, SKIPPED, FAILED = range(1, 7)


class Told:
    """What an import told."""

    def __init__(self, answers: list[pb.ImportInvokeAIResponse]) -> None:
        assert [one.WhichOneof("event") for one in (answers[0], answers[-1])] == ["started", "ended"]
        self.root = answers[0].started
        self.models = [model for one in answers[1:-1] for model in one.models.models]
        self.counts = answers[-1].ended

    @property
    def outcomes(self) -> dict[str, int]:
        """Outcome of each model, by its name or key."""
        return {one.name or one.invokeai_key: one.outcome for one in self.models}


async def import_from(service: InstallClient, root: InvokeAI | Path, **fields: Any) -> Told:
    """Import a root; what was told."""
    path = root.path if isinstance(root, InvokeAI) else root
    call = service.stub.ImportInvokeAI(pb.ImportInvokeAIRequest(root=str(path), **fields))
    return Told([answer async for answer in call])
