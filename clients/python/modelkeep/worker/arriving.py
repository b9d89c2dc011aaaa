"""Several components of a model, each used as soon as it is there while the others still come.

Room for all of them is had at once, or for none: a lease on all is asked for, without their weights
(DELIVERY_NONE). While it is granted its stream tells which have come, and those are leased one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc

from modelkeep.exceptions import ModelkeepError
from modelkeep.loader.v1 import hold_pb2, resident_pb2
from modelkeep.worker._binding import Lender
from modelkeep.worker._hold import Hold


class ArrivingParts(Mapping[str, Any]):
    """Components by name, in the order in which they come; made by ``ModelLoader.get_parts``.

    Use it as a context manager. Looking one up waits until it is there, for the first time, and gives its
    module, or object; the same each time. What was looked up goes on working after the exit.

    Args:
        lender: The loader.
        request: All components, without their weights.
        acquire: Leases some.
        names: What the components are called, in the order of the request.
    """

    def __init__(
        self,
        lender: Lender,
        request: hold_pb2.HoldModelRequest,
        acquire: Callable[[Sequence[resident_pb2.ComponentRef]], Hold],
        names: Sequence[str],
    ) -> None:
        self._lender = lender
        self._request = request
        self._acquire = acquire
        self._refs = dict(zip(names, request.components, strict=True))
        self._places = {name: place for place, name in enumerate(names)}
        self._holds: dict[str, Hold] = {}
        self._attaching = threading.Lock()
        self._heard = threading.Condition()
        #: How many have come and are kept, and what went wrong with the rest.
        self._arrived = 0
        self._error: ModelkeepError | None = None
        self._is_left = False
        self._call: Any = None
        self._grant: hold_pb2.Grant | None = None

    def __enter__(self) -> ArrivingParts:
        """Ask for all of them.

        Raises:
            RuntimeError: It is entered already, or was: ask for another one.
        """
        if self._call is not None:
            raise RuntimeError("These components were asked for already: call get_parts anew.")
        self._call = self._lender.stub.HoldModel(self._request)
        threading.Thread(target=self._follow, name="modelkeep parts", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._heard:
            grant, self._grant = self._grant, None
            self._is_left = True
            self._error = self._error or _left()
            self._heard.notify_all()
        if grant is not None:
            self._lender.release(grant)
        self._call.cancel()
        with self._attaching:
            for hold in self._holds.values():
                hold.release()

    def __getitem__(self, name: str) -> Any:
        """A component, once it is there.

        Raises:
            KeyError: There is none of this name.
            RuntimeError: It is not entered.
            ModelkeepError: What the loader answers to it, or to those before it.
        """
        if self._call is None:
            raise RuntimeError("Enter it first: with loader.get_parts(…) as parts.")
        ref, place = self._refs[name], self._places[name]
        if name not in self._holds:
            with self._heard:
                self._heard.wait_for(lambda: self._arrived > place or self._error is not None)
                if self._arrived <= place and self._error is not None:
                    raise self._error
            with self._attaching:
                if self._is_left:  # whoever has left releases nothing any more
                    raise _left()
                if name not in self._holds:
                    self._holds[name] = self._acquire([ref])
        return self._holds[name].modules[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def is_there(self, name: str) -> bool:
        """Whether looking a component up would not wait for it to come.

        Raises:
            KeyError: There is none of this name.
        """
        return name in self._holds or self._arrived > self._places[name]

    def _follow(self) -> None:
        """Hear the stream to its end."""
        try:
            for frame in self._call:
                with self._heard:
                    if frame.WhichOneof("event") == "progress":
                        # Back to 0 where room has to be found anew: then nothing is kept.
                        self._arrived = frame.progress.index
                    elif frame.WhichOneof("event") == "granted":
                        self._arrived, self._grant = len(self._refs), frame.granted
                    self._heard.notify_all()
            said = ModelkeepError("The loader ended the lease on these components.")
        except grpc.RpcError as error:
            said = self._lender.decode(error)
        except ValueError:  # gRPC's word for a channel that was closed
            said = ModelkeepError("The connection to the loader was closed.")
        with self._heard:
            self._error = self._error or said
            self._heard.notify_all()


def _left() -> ModelkeepError:
    return ModelkeepError(
        "These components are not held any more.",
        remedy="Look them up inside the block, or call get_parts anew.",
    )
