"""What get_model is asked, in both of its forms, and where a context's events go."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.exceptions import FieldInvalidException
from modelkeep.taxonomy import SubModelType
from modelkeep.worker.contexts import asked, context_bus, facts_of

CONTEXT = SimpleNamespace(queue_id="q", queue_item_id=3)


class Bus:
    """The original's EventServiceBase, as far as it is called."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def dispatch(self, event_name: str, payload: Any) -> None:
        self.events.append((event_name, payload))


@pytest.mark.parametrize(
    ("which", "named", "submodel", "context"),
    [
        ((), {}, None, None),
        (("vae",), {}, SubModelType.VAE, None),
        ((SubModelType.UNet,), {}, SubModelType.UNet, None),
        (("vae", CONTEXT), {}, SubModelType.VAE, CONTEXT),
        ((None, CONTEXT), {}, None, CONTEXT),
        ((None, None), {"submodel": "vae"}, SubModelType.VAE, None),
        (("vae",), {"context": CONTEXT}, SubModelType.VAE, CONTEXT),
        ((CONTEXT,), {}, None, CONTEXT),
        ((CONTEXT,), {"submodel_type": "vae"}, SubModelType.VAE, CONTEXT),
        (({"queue_id": "q"},), {"submodel": SubModelType.VAE}, SubModelType.VAE, {"queue_id": "q"}),
        ((), {"submodel_type": "vae", "context": CONTEXT}, SubModelType.VAE, CONTEXT),
    ],
)
def test_the_second_argument_is_a_submodel_if_it_is_a_string_and_else_a_context(
    which: tuple[Any, ...], named: dict[str, Any], submodel: SubModelType | None, context: Any
) -> None:
    assert asked(which, **named) == (submodel, context)


@pytest.mark.parametrize(
    ("which", "named", "problem"),
    [
        (("vae",), {"submodel_type": "unet"}, "more than one submodel"),
        ((), {"submodel": "vae", "submodel_type": "vae"}, "more than one submodel"),
        ((CONTEXT,), {"context": CONTEXT}, "more than one context"),
        ((CONTEXT, "vae"), {}, "submodel before a context"),
        (("vae", CONTEXT, 1), {}, "at most two"),
    ],
)
def test_what_is_said_twice_or_in_the_wrong_place_is_a_type_error(
    which: tuple[Any, ...], named: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TypeError, match=problem):
        asked(which, **named)


def test_a_name_that_no_component_has_is_refused() -> None:
    with pytest.raises(FieldInvalidException, match="brain"):
        asked(("brain",))


def test_facts_are_those_of_an_object_or_of_a_mapping() -> None:
    whole = {"queue_id": "q", "queue_item_id": 3, "queue_batch_id": None, "graph_execution_state_id": None}
    assert facts_of(CONTEXT) == whole
    assert facts_of({"queue_id": "q", "queue_item_id": 3, "other": 1}) == whole
    assert facts_of(None) == {}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda bus: SimpleNamespace(services=SimpleNamespace(events=bus)),
        lambda bus: SimpleNamespace(event_bus=bus),
        lambda bus: SimpleNamespace(services=SimpleNamespace(), event_bus=bus),
        lambda bus: {"event_bus": bus},
    ],
)
def test_the_bus_of_a_context_gets_the_originals_queue_event(wrap: Any) -> None:
    bus = Bus()
    tell = context_bus(wrap(bus))
    assert tell is not None
    tell("model_load_started", {"model_key": "k"})
    ((kind, event),) = bus.events
    assert kind == "queue_event"
    assert event["event"] == "model_load_started"
    assert event["data"].pop("timestamp") > 0
    assert event["data"] == {"model_key": "k"}


def test_a_bus_says_itself_what_its_events_are_called() -> None:
    bus = Bus()
    bus.queue_event = "another"  # type: ignore[attr-defined]
    tell = context_bus(SimpleNamespace(event_bus=bus))
    assert tell is not None
    tell("model_load_completed", {})
    assert bus.events[0][0] == "another"


@pytest.mark.parametrize("context", [None, CONTEXT, {}, SimpleNamespace(event_bus=object())])
def test_without_a_bus_there_is_nobody_to_tell(context: Any) -> None:
    assert context_bus(context) is None


def test_the_client_reads_such_arguments_without_torch() -> None:
    code = "import sys, modelkeep.client, modelkeep.worker.contexts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
