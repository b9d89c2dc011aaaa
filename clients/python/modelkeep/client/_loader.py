"""LoaderService: live modules in this process, and a look into the loader's memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from modelkeep.client._capacity import watched_capacity
from modelkeep.client._installs import MODEL_EVENT, EventBus
from modelkeep.client._leases import LeaseCalls
from modelkeep.client._transport import Peer
from modelkeep.client._watch import WatchFrame, events_with_progress, follow
from modelkeep.components import (
    by_part,
    components,
    memory_format_name,
    precision_name,
    weight_form,
)
from modelkeep.dtypes import Precision, WeightForm
from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.loader.v1 import capacity_pb2, estimate_pb2, load_pb2, pins_pb2, resident_pb2, residents_pb2
from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceStub
from modelkeep.messages import duration, made, time_kept, wire
from modelkeep.taxonomy import SubModelType
from modelkeep.worker.contexts import asked, event_message

if TYPE_CHECKING:
    from modelkeep.worker import ModelInfo, ModelLoader, PipelineInfo

#: Where components, or copies of their files, are.
Tier: TypeAlias = Literal["ram", "disk", "vram"]


class AsyncModelLoader(LeaseCalls):
    """Weights in memory, once per host.

    Args:
        peer: LoaderService.
        event_bus: Gets the events of loading where a caller's context has no bus of its own.
        precision, device: What to load in and where, if a call of :meth:`get_model` or :meth:`get_pipeline`
            does not say. None is the loader's own device.
    """

    def __init__(
        self,
        peer: Peer,
        event_bus: EventBus | None = None,
        *,
        precision: Precision = "auto",
        device: str | None = None,
    ) -> None:
        super().__init__(peer)
        self._event_bus = event_bus
        self._precision = precision
        self._device = device
        self._worker: ModelLoader | None = None
        self._lock = threading.Lock()

    async def get_model(
        self,
        key: str,
        *which: Any,
        submodel_type: SubModelType | str | None = None,
        submodel: SubModelType | str | None = None,
        context: Any = None,
        precision: Any = None,
        weights: WeightForm = "auto",
        memory_format: Any = "contiguous",
        keep_alive: float | None = None,
        activation_bytes: int = 0,
        device: Any = None,
        max_vram_bytes: int = 0,
    ) -> ModelInfo:
        """Load a component and answer with what there is to know about it; needs the extra `worker`.

        ``with info as vae:`` gives the live module in this process; its weights are the loader's memory,
        locked while inside. Called as ``get_model(key, [submodel_type], [context])`` or as ``get_model(key,
        [context], submodel_type=…)``.

        Args:
            key: Key of the model.
            *which: By their place a submodel (a string), a context, or the one and then the other.
            submodel_type: Which component; necessary for a main model.
            submodel: The same.
            context: What the caller wants to see again in the events of loading. If it has an event bus
                (``context.services.events``, ``context.event_bus``), they go there and not to the client's.
            precision: "auto" for that of the files, or "float32", "float16", "bfloat16"; None for what the
                loader was made with, mostly "auto".
            weights: "dequantised" (so is "auto"); "stored": quantised weights as the files have them, which
                the module dequantises each time; "float8": cast to 8 bits, and back each time.
            memory_format: "channels_last" for a module as ``.to(memory_format=torch.channels_last)`` makes
                it, its weights lent in that order; torch's own name will do.
            keep_alive: Seconds that it is kept once no lease holds it; below 0: for as long as there is room;
                None: as the loader's setting says.
            activation_bytes: Bytes of RAM that are reserved besides while it is locked, such as for
                activations.
            device: Where its weights are to be: "cpu", "cuda", "cuda:1" and the like, or torch's own name;
                None: as this loader was made, mostly where LoaderService puts them.
            max_vram_bytes: The most that they may take on an accelerator; 0: no bound. What does not fit is
                copied there layer by layer as the module runs, from memory that all workers share.

        Raises:
            UnknownModelException: No record has this key.
            SubmodelRequiredException: A main model, and no submodel.
            UnknownSubmodelException: The main model has no such submodel.
            ModelNotFoundException: The record is there, its files are not.
            InvalidModelException: The files cannot be used.
            TypeError: Something is said twice.
        """
        name, of = asked(which, submodel_type=submodel_type, submodel=submodel, context=context)
        asks = self._precision if precision is None else precision_name(precision)
        form, order = weight_form(weights), memory_format_name(memory_format)
        return await asyncio.to_thread(
            lambda: self._loader().get_model(
                key,
                name,
                of,
                precision=asks,
                weights=form,
                memory_format=order,
                keep_alive=keep_alive,
                activation_bytes=activation_bytes,
                device=self._device if device is None else str(device),
                max_vram_bytes=max_vram_bytes,
            )
        )

    async def get_pipeline(
        self,
        /,
        key: str,
        context: Any = None,
        *,
        precision: Any = None,
        weights: WeightForm | Mapping[str, WeightForm] = "auto",
        memory_format: Any = "contiguous",
        keep_alive: float | None = None,
        activation_bytes: int = 0,
        device: Any = None,
        max_vram_bytes: int = 0,
        pipeline_class: Any = None,
        **given: Any,
    ) -> PipelineInfo:
        """Load all components of a main model; needs the extra `worker`.

        ``with info as pipeline:`` gives a pipeline of diffusers over them: its weights are the loader's
        memory, under one lease while inside, and its outputs are those that
        ``DiffusionPipeline.from_pretrained`` gives.

        Args:
            key: Key of the model.
            context: As for :meth:`get_model`.
            precision: As for :meth:`get_model`; a mapping says it by component, and under "default" for the
                others.
            weights: As for :meth:`get_model`; a mapping likewise.
            memory_format: As for :meth:`get_model`, of all modules; a mapping likewise.
            keep_alive, activation_bytes: As for :meth:`get_model`, for all components together.
            device: As for :meth:`get_model`; a mapping likewise. What has no weights is in host memory.
            max_vram_bytes: As for :meth:`get_model`, of all components together, in their order.
            pipeline_class: Class of the pipeline; the one that the model names when None.
            **given: Components and settings of the caller's own, by name, in place of the model's; None for a
                component leaves it out, where the pipeline does without.

        Raises:
            InvalidModelException: Not a main model, or one whose pipeline cannot be put together; or as for
                :meth:`get_model`.
        """
        named = by_part(self._precision if precision is None else precision, precision_name)
        forms = by_part(weights, weight_form)
        orders = by_part(memory_format, memory_format_name)
        places = self._device if device is None else by_part(device, str)
        return await asyncio.to_thread(
            lambda: self._loader().get_pipeline(
                key,
                context,
                precision=named,
                weights=forms,
                memory_format=orders,
                keep_alive=keep_alive,
                activation_bytes=activation_bytes,
                device=places,
                max_vram_bytes=max_vram_bytes,
                pipeline_class=pipeline_class,
                **given,
            )
        )

    async def load(
        self,
        key: str,
        submodels: SubModelType | str | Iterable[SubModelType | str] = (),
        *,
        precision: Any = "auto",
        keep_alive: float | None = None,
        weights: WeightForm = "auto",
        memory_format: Any = "contiguous",
        device: Any = "auto",
        max_vram_bytes: int = 0,
        tier: Tier | None = None,
        on_progress: Callable[[load_pb2.LoadProgress], None] | None = None,
        timeout: float = 3600.0,
    ) -> list[resident_pb2.Resident]:
        """Bring components into memory without holding them; answers when all are there.

        Args:
            key: Key of the model.
            submodels: Which component or components of a main model; none for a model that is one component.
            precision, weights, memory_format: As for :meth:`get_model`.
            device: "cpu", "cuda", "cuda:1" and the like; "auto": where the loader puts them.
            keep_alive: Seconds that they are kept once nobody uses them; below 0: for as long as there is
                room; None: as the loader's setting says.
            max_vram_bytes: The most that they may take on accelerators, together; 0: no bound. Of the one
                that does not fit a part is brought there, for leases with the same bound.
            tier: "disk": copy their files to the loader's cache folder, and no more; "ram": bring them into
                the host's memory, whatever their device; "vram": refuse what is for no accelerator; None:
                as their device says.
            on_progress: Called while loading goes on, on the event loop's thread: keep it short.
            timeout: Longest time in seconds.
        """
        request = made(
            load_pb2.LoadModelRequest,
            components=components(key, submodels, precision, weights, memory_format, device),
            tier=f"TIER_{tier.upper()}" if tier else None,
            max_vram_bytes=max_vram_bytes,
            keep_alive=time_kept(keep_alive),
        )
        stub = LoaderServiceStub(self._peer.stream_channel)
        residents: list[resident_pb2.Resident] = []
        async for answer in self._peer.stream(stub.LoadModel, request, timeout=timeout):
            if answer.HasField("resident"):
                residents.append(answer.resident)
            elif on_progress is not None and answer.HasField("progress"):
                on_progress(answer.progress)
        return residents

    async def estimate(
        self,
        key: str,
        submodels: SubModelType | str | Iterable[SubModelType | str] = (),
        *,
        precision: Any = "auto",
        weights: WeightForm = "auto",
        memory_format: Any = "contiguous",
        device: Any = "auto",
        activation_bytes: int = 0,
        max_vram_bytes: int = 0,
    ) -> estimate_pb2.EstimateLoadResponse:
        """What loading components would take: memory, time, and what would have to go. Changes nothing.

        Args:
            key: Key of the model.
            submodels: As for :meth:`load`.
            precision, weights, memory_format: As for :meth:`get_model`.
            device: "cpu", "cuda", "cuda:1" and the like; "auto": where the loader puts them.
            activation_bytes: Bytes that would be reserved besides.
            max_vram_bytes: The most that they would take on accelerators; 0: no bound.
        """
        request = made(
            estimate_pb2.EstimateLoadRequest,
            components=components(key, submodels, precision, weights, memory_format, device),
            activation_bytes=activation_bytes,
            max_vram_bytes=max_vram_bytes,
        )
        return await self._peer.call(self._stub.EstimateLoad, request)

    async def pin(
        self,
        key: str,
        submodels: SubModelType | str | Iterable[SubModelType | str] = (),
        *,
        precision: Any = "auto",
        weights: WeightForm = "auto",
        memory_format: Any = "contiguous",
        device: Any = "auto",
        load: bool = False,
        max_wait: float = 0.0,
        timeout: float = 3600.0,
    ) -> list[pins_pb2.Pin]:
        """Keep components in memory, once they are there, whatever else needs room.

        Args:
            key: Key of the model.
            submodels: As for :meth:`load`.
            precision, weights, memory_format: As for :meth:`get_model`.
            device: "cpu", "cuda", "cuda:1" and the like; "auto": where the loader puts them.
            load: Whether to bring them there as well; if that fails nothing new is pinned.
            max_wait: Seconds to wait for room.
            timeout: Longest time in seconds.
        """
        request = made(
            pins_pb2.PinModelRequest,
            components=components(key, submodels, precision, weights, memory_format, device),
            load=load,
            max_wait=duration(max_wait, "max_wait"),
        )
        return list((await self._peer.call(self._stub.PinModel, request, timeout=timeout)).pins)

    async def unpin(
        self,
        key: str,
        submodels: SubModelType | str | Iterable[SubModelType | str] = (),
        *,
        precision: Any = "auto",
        weights: WeightForm = "auto",
        memory_format: Any = None,
        device: Any = "auto",
    ) -> list[resident_pb2.ComponentRef]:
        """Take pins back; what was pinned and is not any more.

        Args:
            key: Key of the model.
            submodels: Of which components; none: of all.
            precision, weights: "auto": whatever they were pinned in.
            memory_format: None: whatever they were pinned in.
            device: "auto": wherever they were pinned.
        """
        request = made(
            pins_pb2.UnpinModelRequest,
            components=components(key, submodels, precision, weights, memory_format, device),
        )
        return list((await self._peer.call(self._stub.UnpinModel, request)).components)

    async def evict(
        self,
        key: str,
        submodel: SubModelType | str | None = None,
        *,
        tier: Tier = "ram",
        device: str = "",
        validate_only: bool = False,
    ) -> load_pb2.EvictModelResponse:
        """Drop a model's components, or one of them, from memory.

        Args:
            key: Key of the model.
            submodel: Only this component; None: all.
            tier: "disk": drop copies of its files, and no component in memory; "vram": copies on
                accelerators.
            device: With "vram", only those on this one, such as "cuda:1".
            validate_only: Only say what would be dropped, or fail as the call would.

        Raises:
            ModelInUseException: A lease holds one; nothing was dropped.
            ModelPinnedException: One is pinned; nothing was dropped.
        """
        if not key:
            raise FieldInvalidException(
                "No model is named; evict_all drops everything that nobody uses.",
                violations=[FieldViolation("key", "must not be empty")],
            )
        request = made(
            load_pb2.EvictModelRequest,
            key=key,
            submodel=wire(SubModelType, submodel, "submodel") if submodel else None,
            tier=f"TIER_{tier.upper()}",
            device=device,
            validate_only=validate_only,
        )
        return await self._peer.call(self._stub.EvictModel, request)

    async def evict_all(
        self, *, tier: Tier = "ram", device: str = "", validate_only: bool = False
    ) -> load_pb2.EvictModelResponse:
        """Drop everything from memory that no lease holds, that is not pinned and not being loaded.

        Args:
            tier, device: As for :meth:`evict`.
            validate_only: Only say what would be dropped.
        """
        request = made(
            load_pb2.EvictModelRequest,
            tier=f"TIER_{tier.upper()}",
            device=device,
            validate_only=validate_only,
        )
        return await self._peer.call(self._stub.EvictModel, request)

    async def residents(self, key: str | None = None) -> list[resident_pb2.Resident]:
        """The components in memory, and the files on the disk tier; of one model if a key is given."""
        pages = self._peer.pages(
            self._stub.ListResidents, made(residents_pb2.ListResidentsRequest, key=key or "")
        )
        return [found async for page in pages for found in page.residents]

    async def capacity(self) -> capacity_pb2.GetCapacityResponse:
        """Budgets and bytes in use."""
        return await self._peer.call(self._stub.GetCapacity, capacity_pb2.GetCapacityRequest())

    def watch(
        self, key: str | None = None, *, resume_token: str = "", skip_snapshot: bool = False
    ) -> AsyncGenerator[WatchFrame[resident_pb2.Resident]]:
        """A snapshot of the components in memory, then every change; goes on by itself.

        Args:
            key: Only components of this model.
            resume_token: Place to go on from, out of an earlier frame; empty: a snapshot first.
            skip_snapshot: Without a token: only changes from now on.
        """
        request = made(
            residents_pb2.WatchResidentsRequest,
            key=key or "",
            resume_token=resume_token,
            skip_snapshot=skip_snapshot,
        )
        return follow(
            self._peer, lambda to: LoaderServiceStub(to).WatchResidents, request, events_with_progress()
        )

    def watch_capacity(self) -> AsyncGenerator[WatchFrame[capacity_pb2.GetCapacityResponse]]:
        """Budgets and bytes in use, at once and whenever they change; goes on by itself."""
        return watched_capacity(self._peer)

    async def close(self) -> None:
        """End what :meth:`get_model` opened: leases of this process included."""
        if self._worker is not None:
            await asyncio.to_thread(self._worker.close)
            self._worker = None

    def _loader(self) -> ModelLoader:
        """The part that assembles modules in this process. Imports torch the first time."""
        with self._lock:
            if self._worker is None:
                from modelkeep.worker import ModelLoader

                self._worker = ModelLoader(self._peer.address, on_event=self._dispatch)
            return self._worker

    def _dispatch(self, name: str, payload: dict[str, Any]) -> None:
        if self._event_bus is not None:
            self._event_bus.dispatch(MODEL_EVENT, event_message(name, payload))
