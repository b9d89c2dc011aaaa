"""What get_model answers with: facts about a model, and the way to lock it and use it."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import torch

from modelkeep.loader.v1 import hold_pb2
from modelkeep.taxonomy import BaseModelType, ModelType, SubModelType
from modelkeep.worker._hold import Hold
from modelkeep.worker.kept import KeptModel

#: A live module of diffusers or transformers. Which one depends on the model, so nothing is promised here.
AnyModel: TypeAlias = Any


class ModelLocker:
    """Locks a component while it is in scope. May be entered again and again, also nested, by any thread.

    Entered, it holds a lease: the loader keeps the weights in memory for everybody. The module that
    entering returns is the same for all that are nested; it goes on working after the last exit, but
    then the loader may drop its own hold on the memory.

    Args:
        acquire: Takes the lease.
        make: Makes what entering returns out of what is leased; the one module of it by default.
    """

    def __init__(
        self, acquire: Callable[[], Hold], make: Callable[[Hold], AnyModel] = lambda hold: hold.modules[0]
    ) -> None:
        self._acquire = acquire
        self._make = make
        self._made: AnyModel = None
        self._lock = threading.Lock()
        self._depth = 0
        self._hold: Hold | None = None

    @property
    def lease_id(self) -> str:
        """The lease that is held; "" outside."""
        hold = self._hold
        return hold.grant.lease.id if hold is not None else ""

    @property
    def lost(self) -> str:
        """Why the lease ended while the component is in scope, or ""; the module works all the same."""
        hold = self._hold
        return hold.lost if hold is not None else ""

    @property
    def away(self) -> str:
        """Why the loader cannot be heard while the component is in scope, or ""; the module works all the
        same, and the lease is taken up again when the loader is back.
        """
        hold = self._hold
        return hold.away if hold is not None else ""

    @property
    def reattached(self) -> int:
        """How often the lease was taken up again since the component is in scope; 0 outside."""
        hold = self._hold
        return hold.reattached if hold is not None else 0

    @property
    def revoke_requested(self) -> hold_pb2.HoldRevokeRequested | None:
        """What was said when the lease was asked back while the component is in scope (``why``, and
        ``deadline_time``), or None: leave it soon; the module works all the same.
        """
        hold = self._hold
        return hold.revoke_requested if hold is not None else None

    def keep(self) -> KeptModel:
        """Lock it until that is released, for many uses: another lease than the one of the scope."""
        return KeptModel(*self._locked())

    def __enter__(self) -> AnyModel:
        with self._lock:
            if self._hold is None:
                self._hold, self._made = self._locked()
            self._depth += 1
            return self._made

    def __exit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._depth -= 1
            hold = self._hold
            if self._depth > 0 or hold is None:
                return
            self._hold = self._made = None
        hold.release()

    def _locked(self) -> tuple[Hold, AnyModel]:
        """A new lease, and what is made of it."""
        hold = self._acquire()
        try:
            return hold, self._make(hold)
        except BaseException:
            hold.release()
            raise


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model, or one component of a main model.

    Use it as a context manager::

        with info as vae:
            image = vae.decode(latents)[0]

    Attributes:
        context: What locks it; entering the ModelInfo enters this.
        key: The model's key.
        name: Its name.
        base_model: Its family; a plain string where this version does not know it.
        type: The component of a main model, else the model's type.
        location: Absolute path of the model's files on the loader's host.
        precision: Data type of the weights; None for what has none: tokenizers, schedulers.
        hash: Hash of the model as its record has it.
        device: Where it computes, as torch calls it.
    """

    context: ModelLocker
    key: str
    name: str
    base_model: BaseModelType | str
    type: ModelType | SubModelType
    location: Path
    precision: torch.dtype | None
    hash: str
    device: torch.device

    def keep(self) -> KeptModel:
        """Lock it for many uses, between which the loader may have its accelerator's memory back.

        Raises:
            ModelkeepError: As entering does.
        """
        return self.context.keep()

    def __enter__(self) -> AnyModel:
        return self.context.__enter__()

    def __exit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.context.__exit__(kind, error, trace)
