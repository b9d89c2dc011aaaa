"""Event loops for gRPC's asyncio part, where a process has several of them, each in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")


class GrpcEventLoop(asyncio.SelectorEventLoop):
    """An event loop that takes what gRPC has to tell it after its end, and does nothing.

    gRPC's loops share one queue of completions: whichever wakes first hands each to the loop that it is for.
    One of a call that was cancelled may come when that loop is closed, and would be an error in the log of
    the one that handed it over.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As of every loop, but for gRPC's callbacks once it is closed."""
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if self.is_closed() and str(getattr(callback, "__module__", "")).startswith("grpc."):
                return asyncio.Handle(callback, args, self)
            raise
