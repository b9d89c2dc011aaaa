"""One lease of this process: attached, listened to, and taken up again when the loader was away."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeAlias

import grpc

from modelkeep.exceptions import (
    InvalidRequestException,
    ModelkeepError,
    ModelUnusableException,
    NotFoundException,
)
from modelkeep.loader.v1 import hold_pb2
from modelkeep.worker._binding import Binding, Lender
from modelkeep.worker._gap import Gap
from modelkeep.worker._parts import Parts
from modelkeep.worker._reattach import take_up

_log = logging.getLogger(__name__)

#: Called when a lease is asked back, with why and until when.
OnRevoke: TypeAlias = Callable[[hold_pb2.HoldRevokeRequested], None]
#: Called when accelerators' memory is asked back, with why and until when.
OnDemote: TypeAlias = Callable[[hold_pb2.HoldDemoteRequested], None]

#: Answers that stay what they are, however often one asks. Others may be a starting or ending loader's.
_FINAL: Final = (NotFoundException, InvalidRequestException, ModelUnusableException)


class Hold:
    """Components that are leased and attached in this process; made by :func:`hold`.

    When the loader goes away, a thread of the hold's own takes the lease up again as soon as it can. Where
    the lease has ended meanwhile it asks for one on the same memory, and for no other.

    Once it is released it has nothing more of them, so that what is mapped goes with the last who uses it.

    Attributes:
        away: Why the loader cannot be heard at the moment, or "". The modules work all the same.
        reattached: How often the lease was taken up again, or another one in its place.
        lost: Why the lease ended before it was released, or "". The modules work all the same: their
            memory stays with the process that maps it.
        revoke_requested: What was said when the lease was asked back (why, and the deadline), or None.
    """

    def __init__(
        self,
        lender: Lender,
        request: hold_pb2.HoldModelRequest,
        binding: Binding,
        parts: Parts,
        *,
        on_revoke: OnRevoke,
        reattach_s: float,
    ) -> None:
        self.away = ""
        self.reattached = 0
        self.lost = ""
        self.revoke_requested: hold_pb2.HoldRevokeRequested | None = None
        self._lender = lender
        self._request = request
        self._binding = binding
        self._parts: Parts | None = parts
        self._on_demote: OnDemote | None = None
        self._demote_requested: hold_pb2.HoldDemoteRequested | None = None
        self._on_revoke = on_revoke
        self._gap = Gap(reattach_s)
        self._pid = os.getpid()
        #: Held while the binding changes, so that a release ends the one that there is.
        self._changing = threading.Lock()
        self._released = threading.Event()
        #: Whether the loader knows that the lease has ended.
        self._is_told = False
        threading.Thread(target=self._follow, name="modelkeep hold", daemon=True).start()

    @property
    def modules(self) -> list[Any]:
        """What was attached, in the order asked for: modules, dicts of tensors, objects.

        Raises:
            ModelkeepError: It was released.
        """
        return self._attached().modules

    @property
    def grant(self) -> hold_pb2.Grant:
        """What the loader granted, the last time."""
        return self._binding.grant

    def release(self) -> None:
        """End the lease; harmless when it has ended already, and in a forked child.

        While the loader is away it returns at once, and the loader is told when it is back.
        """
        if os.getpid() != self._pid:
            return
        with self._changing:
            if self._released.is_set():
                return
            self._released.set()
            # gRPC's error is the call itself, and its traceback has this hold: they go by garbage collection
            # alone, which may be long in coming.
            self._parts = self._on_demote = None
        if not self.away and not self.lost:
            self._is_told = self._tell()
        self._binding.close()

    def when_asked_to_demote(self, callback: OnDemote) -> None:
        """Have somebody told, on the hold's own thread, when the loader asks for its accelerators' memory.

        Told at once where it has asked already. Who does nothing then loses nothing.
        """
        with self._changing:
            self._on_demote = callback
            asked = self._demote_requested
        if asked is not None:
            callback(asked)

    def demote(self) -> None:
        """Unmap what is on accelerators, keep the addresses, and tell the loader.

        Raises:
            ModelkeepError: The loader was not told; the memory is unmapped all the same.
        """
        if (parts := self._parts) is None:
            return
        parts.let_go()
        with self._changing:
            self._binding = self._binding.without_memory()
        self._lender.demote(self.grant)

    def promote(self) -> None:
        """Have what was demoted at its addresses again.

        Raises:
            VramExhaustedException: There was no room for it.
            ModelkeepError: Whatever else the loader answers. It stays demoted.
        """
        parts = self._attached()
        found, descriptors = self._lender.promote(self._binding, self._request.max_wait)
        try:
            parts.take_back(found.grant, descriptors)
        except BaseException:
            parts.let_go()
            if found.connection is not None:
                found.connection.close()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        with self._changing:
            before, self._binding = self._binding, replace(found, call=self._binding.call)
            if self._released.is_set():
                self._binding.close()
        if before.connection is not None:
            before.connection.close()

    def _attached(self) -> Parts:
        if (parts := self._parts) is None:
            raise ModelkeepError("The lease was released meanwhile: get the model anew.")
        return parts

    def _follow(self) -> None:
        """Hear what the loader says of the lease, and find the loader again, until the lease is no more."""
        try:
            while (broken := self._listen()) and self._find_again(broken):
                pass
            if self._released.is_set() and not self._is_told:
                self._tell_later()
        except ValueError:  # gRPC's word for a channel that was closed
            self._lose("the connection to the loader was closed")

    def _listen(self) -> str:
        """Hear the stream to its end; why it broke off, or "" if there is nothing more to hear."""
        try:
            for frame in self._binding.call:
                event = frame.WhichOneof("event")
                if event == "lost":
                    self._lose(frame.lost.error.message)
                elif event == "revoke_requested" and frame.revoke_requested != self.revoke_requested:
                    self._asked_back(frame.revoke_requested)
                elif event == "demote_requested":
                    self._asked_to_demote(frame.demote_requested)
        except grpc.RpcError as error:
            # Whatever it is called: what counts is what the loader says to who comes back.
            return "" if self._released.is_set() else f"the loader went away ({error.code().name})"
        self._is_told = True
        self._lose("the loader ended it")
        return ""

    def _find_again(self, why: str) -> bool:
        """Wait for the loader and take the lease up; whether it is held again."""
        if self._gap.longest_s <= 0:
            self._lose(why)
            return False
        self.away = why
        if self._gap.begin():
            _log.warning(
                "lease %s: %s; its modules go on working, and it is taken up again when the loader is back",
                self.grant.lease.id,
                why,
            )
        pause = self._gap.pause()
        while pause is not None and not self._released.wait(pause):
            try:
                return self._hold_again(take_up(self._lender, self._request, self._binding))
            except _FINAL as error:
                self._lose(error.message)
                return False
            except ModelkeepError as error:
                _log.debug("lease %s is not taken up yet: %s", self.grant.lease.id, error.message)
                pause = self._gap.pause(error.retry_after)
        self._lose(f"{why}, and was not back within {self._gap.longest_s:g} s")
        return False

    def _hold_again(self, found: Binding) -> bool:
        """Go on with another binding, unless the lease was released meanwhile."""
        with self._changing:
            is_released = self._released.is_set()
            self._binding.close()
            self._binding = found
            self.reattached += 1
            self.away = ""
        if is_released:
            self._is_told = self._tell()
            found.close()
            return False
        _log.warning("lease %s is held again, %.1f s later", found.grant.lease.id, self._gap.end())
        return True

    def _tell(self) -> bool:
        """Release the lease; whether the loader knows it now."""
        refusal = self._lender.release(self.grant)
        return refusal is None or isinstance(refusal, _FINAL)

    def _tell_later(self) -> None:
        """Release the lease when the loader is back; it ends by itself if that takes long."""
        self._gap.begin()
        while not self._tell() and (pause := self._gap.pause()) is not None:
            time.sleep(pause)

    def _lose(self, why: str) -> None:
        self.away = ""
        if not self._released.is_set() and not self.lost:
            self.lost = why
            _log.warning("lease %s is gone, and its modules go on working: %s", self.grant.lease.id, why)

    def _asked_back(self, asked: hold_pb2.HoldRevokeRequested) -> None:
        self.revoke_requested = asked
        deadline = asked.deadline_time.ToJsonString()
        _log.warning("lease %s is asked back until %s: %s", self.grant.lease.id, deadline, asked.why)
        try:
            self._on_revoke(asked)
        except Exception:
            _log.exception("the callback of a lease that is asked back failed")

    def _asked_to_demote(self, asked: hold_pb2.HoldDemoteRequested) -> None:
        with self._changing:
            self._demote_requested = asked
            callback = self._on_demote
        if callback is not None:
            callback(asked)


def hold(
    lender: Lender, request: hold_pb2.HoldModelRequest, *, on_revoke: OnRevoke, reattach_s: float
) -> Hold:
    """Lease components and attach them.

    Args:
        lender: The loader.
        request: What to hold.
        on_revoke: Called on a thread of the hold's own when the lease is asked back, with why and until when.
        reattach_s: Seconds that the loader may be away before the lease is given up.

    Raises:
        ModelkeepError: Whatever the loader answers.
    """
    binding, descriptors = lender.bind(request)
    try:
        parts = Parts(request, binding.grant, descriptors)
    except BaseException:
        lender.release(binding.grant)
        binding.close()
        raise
    finally:
        for fd in descriptors:
            os.close(fd)
    return Hold(lender, request, binding, parts, on_revoke=on_revoke, reattach_s=reattach_s)
