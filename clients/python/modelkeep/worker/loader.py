"""The loader, as a worker process uses it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from modelkeep.addresses import find_addresses
from modelkeep.components import component
from modelkeep.dtypes import MemoryFormat, Precision, WeightForm
from modelkeep.exceptions import InvalidModelException, ModelkeepError, SubmodelRequiredException
from modelkeep.loader.v1 import (
    capacity_pb2,
    estimate_pb2,
    hold_pb2,
    load_pb2,
    loader_service_pb2_grpc,
    resident_pb2,
)
from modelkeep.messages import duration, made, time_kept
from modelkeep.rpc import Address, decode, open_channel, with_retries
from modelkeep.taxonomy import ModelType, SubModelType
from modelkeep.worker._binding import Lender
from modelkeep.worker._facts import base_of, boot_id, refuse_unknown_parts, submodel_of, type_of
from modelkeep.worker._hold import Hold, hold
from modelkeep.worker._places import Places
from modelkeep.worker.arriving import ArrivingParts
from modelkeep.worker.contexts import asked, context_bus, facts_of
from modelkeep.worker.info import ModelInfo, ModelLocker
from modelkeep.worker.shell import DTYPES

if TYPE_CHECKING:
    from modelkeep.worker.pipelines import PipelineInfo

T = TypeVar("T", bound=str)

#: Called with the name of an event and its payload.
EventHandler: TypeAlias = Callable[[str, dict[str, Any]], None]

#: Words in the names of those components of pipelines that are objects.
_WITHOUT_WEIGHTS: Final = ("tokenizer", "scheduler", "processor", "extractor")
_DTYPES: Final = {
    resident_pb2.Precision.Value(f"PRECISION_{name.upper()}"): dtype for name, dtype in DTYPES.items()
}


class ModelLoader:
    """Loads models in the loader's process, and lends them to this one without a copy.

    Args:
        address: ``host:port`` or ``unix:path`` of LoaderService, or an address that was found already, with
            its token; found as the client finds it when not given: MODELKEEP_CLIENT_LOADER_ADDRESS, the
            running suite, the default port.
        precision: What to load in when a call does not say.
        device: Where weights are to be when a call does not say: "cpu", "cuda", "cuda:1" and the like;
            "auto": where the loader puts them, but on no accelerator that this process cannot use.
        max_wait_s: Seconds to wait for room when leases hold all of the loader's memory, or an accelerator's.
        on_event: Called with ``model_load_started`` and ``model_load_completed`` when a call gives a
            context that has no event bus of its own.
        label: What this process calls itself in the loader's list of leases.
        labels: Labels that this process's leases get.
        path_dir: Have the weights delivered as files (DELIVERY_PATH) instead of by descriptors, which a
            sandbox may not be able to receive: the folder in which this process sees the loader's `path_dir`.
        on_revoke: Called when a lease of this process is asked back, on a thread of the lease's own, with
            ``why`` and ``deadline_time``: leave the model by then. It works all the same afterwards.
        reattach_s: Seconds that the loader may be away, because it was killed or is started anew, before this
            process gives its leases up; until then it takes them up again as soon as the loader is back.
            0: it gives them up at once. Modules work all the same.
        token_file: File with the token to show; MODELKEEP_TOKEN_FILE, or the suite's own, by default.

    Threads may share one. After a fork, make a new one in the child.
    """

    def __init__(
        self,
        address: str | Address | None = None,
        *,
        precision: Precision = "auto",
        device: str = "auto",
        max_wait_s: float = 30.0,
        on_event: EventHandler | None = None,
        label: str = "",
        labels: Mapping[str, str] | None = None,
        path_dir: str | os.PathLike[str] | None = None,
        on_revoke: Callable[[hold_pb2.HoldRevokeRequested], None] = lambda asked: None,
        reattach_s: float = 60.0,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._max_wait = duration(max_wait_s, "max_wait_s")
        self._address = (
            address
            if isinstance(address, Address)
            else find_addresses({"loader": address}, token_file=token_file)["loader"]
        )
        self._channel = open_channel(self._address, with_retries())
        self._stub = loader_service_pb2_grpc.LoaderServiceStub(self._channel)
        self._lender = Lender(self._stub, self._decode, path_dir)
        # Begins to connect, and nobody waits for it: the first call then finds a connection that stands.
        self._stub.GetCapacity.future(capacity_pb2.GetCapacityRequest())
        self._precision = precision
        self._device = device
        self._places = Places(self._capacity)
        self._on_event = on_event
        self._label = label
        self._labels = dict(labels or {})
        self._delivery = hold_pb2.DELIVERY_FD if path_dir is None else hold_pb2.DELIVERY_PATH
        self._on_revoke = on_revoke
        self._reattach_s = reattach_s
        self._boot_id = boot_id()
        self._holds: weakref.WeakSet[Hold] = weakref.WeakSet()
        self._is_closed = False

    def get_model(
        self,
        key: str,
        *which: Any,
        submodel_type: SubModelType | str | None = None,
        submodel: SubModelType | str | None = None,
        context: Any = None,
        precision: Precision | None = None,
        weights: WeightForm = "auto",
        memory_format: MemoryFormat = "contiguous",
        keep_alive: float | None = None,
        activation_bytes: int = 0,
        device: str | None = None,
        max_vram_bytes: int = 0,
    ) -> ModelInfo:
        """Bring a model into the loader's memory, and say how to use it.

        Called as ``get_model(key, [submodel_type], [context])`` or as ``get_model(key, [context],
        submodel_type=…)``.

        Args:
            key: The model's key.
            *which: By their place a submodel (a string), a context, or the one and then the other.
            submodel_type: Which component; needed for a main model.
            submodel: The same.
            context: Whoever asks: an object or mapping with some of
                :data:`modelkeep.worker.contexts.CONTEXT_FIELDS`, which the events echo. They go to its event
                bus, ``context.services.events`` or ``context.event_bus``, if it has one, else to `on_event`.
            precision: What to load in; the loader's own choice when None.
            weights: "dequantised" (so is "auto"); "stored": quantised weights as the files have them, which
                the module dequantises each time; "float8": cast to 8 bits, and back each time.
            memory_format: "channels_last" for a module as ``.to(memory_format=torch.channels_last)`` makes
                it, its weights lent in that order.
            keep_alive: Seconds that it is kept once no lease holds it; below 0: for as long as there is room;
                None: as the loader's setting says. It counts from the first lease on: entered never, it is
                kept as the setting says.
            activation_bytes: Bytes of RAM that are reserved besides while it is locked, such as for
                activations.
            device: Where its weights are to be; the loader's own choice, or this ModelLoader's, when None.
            max_vram_bytes: The most that its weights may take on an accelerator; 0: no bound. What does not
                fit stays in host memory, and is copied there layer by layer as it runs; its outputs are the
                same (:mod:`modelkeep.worker.streaming`).

        Raises:
            UnknownModelException: No record has this key.
            SubmodelRequiredException: A main model without a submodel.
            UnknownSubmodelException: A main model that has no such submodel.
            ModelNotFoundException: The files have gone.
            InvalidModelException: The files are broken, or of no kind that can be loaded.
            RamExhaustedException: There was no room within `max_wait_s`.
            VramExhaustedException: There was none on an accelerator.
            DeviceUnavailableException: The accelerator cannot be used, by the loader or by this process.
            UpstreamUnavailableException: The loader, or RecordService behind it, does not answer.
            TypeError: Something is said twice.
        """
        name, context = asked(which, submodel_type=submodel_type, submodel=submodel, context=context)
        ref = component(key, name, precision or self._precision, weights, memory_format, self._placed(device))
        (info,) = self._load([ref], context, _Terms.of(keep_alive, activation_bytes, max_vram_bytes))
        return info

    def get_pipeline(
        self,
        key: str,
        context: Any = None,
        *,
        precision: Precision | Mapping[str, Precision] | None = None,
        weights: WeightForm | Mapping[str, WeightForm] = "auto",
        memory_format: MemoryFormat | Mapping[str, MemoryFormat] = "contiguous",
        keep_alive: float | None = None,
        activation_bytes: int = 0,
        device: str | Mapping[str, str] | None = None,
        max_vram_bytes: int = 0,
        pipeline_class: Any = None,
        **given: Any,
    ) -> PipelineInfo:
        """Bring the components of a main model into the loader's memory, to be used as diffusers' pipeline.

        Its modules are lent, under one lease, all of them or none; outputs are those of
        ``DiffusionPipeline.from_pretrained``. Of schedulers, tokenizers and the like the files are lent.

        Args:
            key: The model's key.
            context: As for :meth:`get_model`; there are two events for each component that is lent.
            precision: What to load in; a mapping says it by component, and under "default" for the others.
            weights: As for :meth:`get_model`; a mapping likewise.
            memory_format: As for :meth:`get_model`, of all modules; a mapping likewise.
            keep_alive, activation_bytes: As for :meth:`get_model`, for all components together.
            device: As for :meth:`get_model`; a mapping likewise. What has no weights is in host memory.
            max_vram_bytes: As for :meth:`get_model`, of all components together, in their order.
            pipeline_class: Class of the pipeline, such as diffusers' for images to images; the one that the
                model names when None.
            **given: Components and settings of the caller's own, by name. They take the place of the model's,
                which are not loaded; None for a component leaves it out, where the pipeline does without.

        Raises:
            InvalidModelException: Not a main model, or one whose pipeline cannot be put together; or as for
                :meth:`get_model`.
            FieldInvalidException: A mapping names a component that the model has not.
            ModelkeepError: As for :meth:`get_model`.
        """
        from modelkeep.worker import pipelines  # imports diffusers, which get_model may do without

        parts = pipelines.parts_of(pipeline_class) if pipeline_class is not None else None
        there = self._submodels(key)
        asked_for, place = precision or self._precision, device or self._device
        refuse_unknown_parts(
            there, precision=precision, weights=weights, memory_format=memory_format, device=device
        )
        names = [name for name in there if name not in given and (parts is None or name in parts)]
        refs = [
            component(
                key,
                name,
                _part(asked_for, name),
                _part(weights, name),
                _order(memory_format, name),
                self._placed(_part(place, name)),
            )
            for name in names
        ]
        terms = _Terms.of(keep_alive, activation_bytes, max_vram_bytes)
        infos = self._load(refs, context, terms)
        recipe = pipelines.recipe(infos[0].location, names, given, pipeline_class)
        return pipelines.PipelineInfo(
            context=ModelLocker(
                lambda: self._hold(refs, terms),
                lambda held: recipe.pipeline(dict(zip(names, held.modules, strict=True))),
            ),
            key=key,
            name=infos[0].name,
            base_model=infos[0].base_model,
            type=ModelType.Main,
            location=infos[0].location,
            hash=infos[0].hash,
            device=next((info.device for info in infos if info.device.type != "cpu"), infos[0].device),
            precisions={
                name: info.precision
                for name, info in zip(names, infos, strict=True)
                if info.precision is not None
            },
        )

    def get_parts(
        self,
        key: str,
        *names: SubModelType | str,
        precision: Precision | None = None,
        activation_bytes: int = 0,
        device: str | None = None,
    ) -> ArrivingParts:
        """Components of a main model, each to be used as soon as it is there::

            with loader.get_parts(key, "text_encoder", "unet", "vae") as parts:
                words = parts["text_encoder"](tokens)[0]  # while the UNet still comes

        Entered, it asks for room for all of them, and has it for all or none; they come in this order.
        Looking one up waits for it and for those before it, and leases it.

        Args:
            key: The model's key.
            *names: The components, in the order in which they are needed: 1 to 16.
            precision, activation_bytes, device: As for :meth:`get_model`.

        Raises:
            ModelkeepError: Looked up: as for :meth:`get_model`.
        """
        self._check_open()
        terms = _Terms.of(None, activation_bytes, 0)
        asked_for, place = precision or self._precision, self._placed(device)
        refs = [component(key, name, asked_for, device=place) for name in names]
        request = self._request(refs, terms)
        request.delivery = hold_pb2.DELIVERY_NONE
        alone = _Terms.of(None, 0, 0)
        called = [str(getattr(name, "value", name)) for name in names]
        return ArrivingParts(self._lender, request, lambda some: self._hold(some, alone), called)

    def close(self) -> None:
        """End the leases that are held, and close the connection. Attached modules go on working.

        What comes after it, entering a :class:`ModelInfo` too, is a RuntimeError.
        """
        self._is_closed = True
        for held in list(self._holds):
            held.release()
        self._channel.close()

    def __enter__(self) -> ModelLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(
        self, components: Sequence[resident_pb2.ComponentRef], context: Any, terms: _Terms
    ) -> list[ModelInfo]:
        """Bring components into the loader's memory, and tell of it."""
        self._check_open()
        facts = facts_of(context)
        request = made(
            load_pb2.LoadModelRequest,
            components=components,
            max_vram_bytes=terms.max_vram_bytes,
            context={name: str(value) for name, value in facts.items() if value is not None},
        )
        request.max_wait.CopyFrom(self._max_wait)
        infos: list[ModelInfo] = []
        try:
            for frame in self._stub.LoadModel(request):
                if frame.WhichOneof("event") == "plan":
                    is_told = bool(infos)
                    infos = [
                        self._info(*pair, terms)
                        for pair in zip(components, frame.plan.manifests, strict=True)
                    ]
                    if not is_told:  # another plan follows where a file changed meanwhile
                        self._emit("model_load_started", context, facts, components, infos)
        except grpc.RpcError as error:
            raise self._decode(error) from None
        if not infos:
            raise ModelkeepError("The loader answered without a plan.")
        self._emit("model_load_completed", context, facts, components, infos)
        return infos

    def _submodels(self, key: str) -> list[str]:
        """The components of a main model that are lent: the loader tells them where none is named."""
        self._check_open()
        # An estimate, and no load: a model that is one component is refused here, and nothing is read for it.
        request = made(estimate_pb2.EstimateLoadRequest, components=[component(key, None, "auto")])
        try:
            self._stub.EstimateLoad(request)
        except grpc.RpcError as error:
            told = self._decode(error)
            names = told.metadata.get("loadable", "").split(",")
            if isinstance(told, SubmodelRequiredException) and names[0]:
                return names
            raise told from None
        raise InvalidModelException(
            f"The model {key} is no main model, and has no pipeline.",
            metadata={"detail": f"no main model: {key}"},
            remedy="Use get_model: the model is one component.",
        )

    def _info(
        self,
        ref: resident_pb2.ComponentRef,
        manifest: resident_pb2.ComponentManifest,
        terms: _Terms,
    ) -> ModelInfo:
        return ModelInfo(
            context=ModelLocker(lambda: self._hold([ref], terms)),
            key=ref.key,
            name=manifest.name,
            base_model=base_of(manifest.base),
            type=type_of(ref, manifest),
            location=Path(manifest.location),
            precision=_DTYPES.get(manifest.precision),
            hash=manifest.hash,
            device=self._places.torch_device(manifest.device),
        )

    def _placed(self, device: str | None) -> str:
        """Where the loader is asked to have weights."""
        self._check_open()
        return self._places.meant(device or self._device)

    def _capacity(self) -> capacity_pb2.GetCapacityResponse:
        try:
            return self._stub.GetCapacity(capacity_pb2.GetCapacityRequest())
        except grpc.RpcError as error:
            raise self._decode(error) from None

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("This loader is closed.")

    def _hold(self, components: Sequence[resident_pb2.ComponentRef], terms: _Terms) -> Hold:
        self._check_open()
        request = self._request(components, terms)
        held = hold(self._lender, request, on_revoke=self._on_revoke, reattach_s=self._reattach_s)
        self._holds.add(held)
        return held

    def _request(
        self, components: Sequence[resident_pb2.ComponentRef], terms: _Terms
    ) -> hold_pb2.HoldModelRequest:
        request = made(
            hold_pb2.HoldModelRequest,
            components=components,
            delivery=self._delivery,
            boot_id=self._boot_id,
            label=self._label,
            labels=self._labels,
            pid=os.getpid(),
            keep_alive=terms.keep_alive,
            activation_bytes=terms.activation_bytes,
            max_vram_bytes=terms.max_vram_bytes,
        )
        request.max_wait.CopyFrom(self._max_wait)
        return request

    def _decode(self, error: grpc.RpcError) -> ModelkeepError:
        return decode(error, self._address)

    def _emit(
        self,
        event: str,
        context: Any,
        facts: Mapping[str, Any],
        components: Sequence[resident_pb2.ComponentRef],
        infos: Sequence[ModelInfo],
    ) -> None:
        tell = context_bus(context) or self._on_event
        if context is None or tell is None:
            return
        for ref, info in zip(components, infos, strict=True):
            payload = {
                **facts,
                "model_key": info.key,
                "submodel": submodel_of(ref),
                "hash": info.hash,
                "location": str(info.location),
                "precision": str(info.precision),
            }
            tell(event, payload)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a lease says besides its components."""

    keep_alive: Duration | None
    activation_bytes: int
    max_vram_bytes: int

    @classmethod
    def of(cls, keep_alive: float | None, activation_bytes: int, max_vram_bytes: int) -> _Terms:
        """Refuses at once, and not when the model is entered, what a lease cannot say."""
        made(hold_pb2.HoldModelRequest, activation_bytes=activation_bytes, max_vram_bytes=max_vram_bytes)
        return cls(time_kept(keep_alive), activation_bytes, max_vram_bytes)


def _part(said: T | Mapping[str, T], name: str) -> T | Literal["auto"]:
    """What is said for a component of a pipeline."""
    return said.get(name, said.get("default", "auto")) if isinstance(said, Mapping) else said


def _order(said: MemoryFormat | Mapping[str, MemoryFormat], name: str) -> MemoryFormat:
    """The memory format of a component of a pipeline; what has no weights has none, unless it is named."""
    if isinstance(said, Mapping) and name in said:
        return said[name]
    if any(word in name for word in _WITHOUT_WEIGHTS):
        return "contiguous"
    return said.get("default", "contiguous") if isinstance(said, Mapping) else said
