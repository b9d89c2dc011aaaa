"""What a worker keeps between its uses, and gives the accelerator's memory of back when others need it."""

from __future__ import annotations

import builtins
import logging
import os
import threading
import time
from datetime import UTC
from types import TracebackType
from typing import Any

from modelkeep.exceptions import ModelkeepError
from modelkeep.loader.v1 import hold_pb2
from modelkeep.worker._hold import Hold

_log = logging.getLogger(__name__)


class KeptModel:
    """A component, or a pipeline, under one lease for many uses; made by ``ModelInfo.keep()``::

        kept = info.keep()
        for latents in work:
            with kept as vae:
                image = vae.decode(latents)[0]
        kept.release()

    Inside the block it is in use, and nobody takes anything from it. Outside, the loader may ask for its
    memory on an accelerator: then the memory is unmapped, the lease goes on, and entering again brings the
    weights back to the same addresses. So module, parameters and captured CUDA graphs stay good; outside
    the block nobody may compute with them. Without an accelerator it is a lease that is kept, and no more.

    May be entered by any thread, also nested.

    Args:
        hold: The lease.
        made: What entering returns.
    """

    def __init__(self, hold: Hold, made: Any) -> None:
        self._hold = hold
        self._made = made
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._depth = 0
        self._asked: hold_pb2.HoldDemoteRequested | None = None
        self._away = False
        self._released = False
        hold.when_asked_to_demote(self._asked_back)

    @property
    def lease_id(self) -> str:
        """The lease."""
        return self._hold.grant.lease.id

    @property
    def demoted(self) -> bool:
        """Whether its memory on an accelerator was given back; entering it brings the weights there again."""
        return self._away

    @property
    def lost(self) -> str:
        """Why the lease ended before it was released, or ""; what is there works all the same."""
        return self._hold.lost

    def __enter__(self) -> Any:
        """What is kept, with its weights where they belong.

        Raises:
            VramExhaustedException: There was no room for them within the loader's `max_wait_s`; entering may
                be tried again.
            ModelkeepError: It was released, or made before this process was forked; or as the loader says.
        """
        if os.getpid() != self._pid:
            raise ModelkeepError("This was kept before a fork: make a ModelLoader here, and keep it anew.")
        with self._lock:
            made = self._made
            if self._released:
                raise ModelkeepError("This was released: get the model anew.")
            if self._away:
                self._hold.promote()
                self._away = False
            self._depth += 1
            return made

    def __exit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._depth -= 1
            self._give_back()

    def release(self) -> None:
        """End the lease. What is there goes on working while somebody has it; what was demoted is gone.

        Harmless when it has ended already, and in a forked child.
        """
        self._released = True  # whoever waits for a promotion hears from the loader that the lease has ended
        self._made = None
        self._hold.release()

    def _asked_back(self, asked: hold_pb2.HoldDemoteRequested) -> None:
        """On the lease's own thread."""
        with self._lock:
            self._asked = asked
            self._give_back()

    def _give_back(self) -> None:
        """Do what was asked, unless it is in use, or was done already, or whoever waited has given up."""
        asked = self._asked
        if asked is None or self._depth or self._released:
            return
        self._asked = None
        if self._away or time.time() > asked.deadline_time.ToDatetime(UTC).timestamp():
            return
        self._away = True
        try:
            self._hold.demote()
        except ModelkeepError as error:
            _log.warning("the loader was not told that lease %s is demoted: %s", self.lease_id, error)
