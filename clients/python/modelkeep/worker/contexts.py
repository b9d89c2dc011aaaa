"""Who asks for a model: what is echoed of a caller's context, and where its events go. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from modelkeep.messages import wire
from modelkeep.taxonomy import SubModelType

#: What a caller's context is asked for; each is None where the context has none.
CONTEXT_FIELDS: Final = ("queue_id", "queue_item_id", "queue_batch_id", "graph_execution_state_id")
#: The type of event that a context's bus gets, where the bus itself does not say (``bus.queue_event``).
QUEUE_EVENT: Final = "queue_event"
#: Where a context has its event bus, the first that is there.
_BUSES: Final = (("services", "events"), ("event_bus",))


class Asked(NamedTuple):
    """What a call of get_model says besides the key."""

    submodel: SubModelType | None
    context: Any


def asked(
    which: tuple[Any, ...],
    *,
    submodel_type: SubModelType | str | None = None,
    submodel: SubModelType | str | None = None,
    context: Any = None,
) -> Asked:
    """Read the arguments of get_model in either of its forms.

    ``get_model(key, [submodel_type], [context])`` and ``get_model(key, context=None, **kwargs)``: a string
    in the second place is a submodel, anything else the context.

    Args:
        which: What was given by its place, after the key.
        submodel_type, submodel, context: What was given by its name.

    Raises:
        TypeError: Something is said twice, or there is too much.
        FieldInvalidException: No component has this name.
    """
    if len(which) > 2:
        raise TypeError(f"get_model takes a key and at most two more by their place, not {len(which)}")
    names: list[SubModelType | str] = [name for name in (submodel_type, submodel) if name is not None]
    contexts = [] if context is None else [context]
    if which and (which[0] is None or isinstance(which[0], str)):
        names += [] if which[0] is None else [which[0]]
        contexts += [one for one in which[1:] if one is not None]
    elif len(which) == 2:
        raise TypeError("get_model takes a submodel before a context: the second argument is no string")
    else:
        contexts += which
    for what, said in (("submodel", names), ("context", contexts)):
        if len(said) > 1:
            raise TypeError(f"get_model was given more than one {what}")
    name = names[0] if names else ""
    if name:  # an empty one is none, as on the wire
        wire(SubModelType, name, "submodel")
    return Asked(SubModelType(name) if name else None, contexts[0] if contexts else None)


def facts_of(context: Any) -> dict[str, Any]:
    """What is echoed of a context, an object or a mapping: nothing without one."""
    return {} if context is None else {name: _part(context, name) for name in CONTEXT_FIELDS}


def context_bus(context: Any) -> Callable[[str, dict[str, Any]], None] | None:
    """What takes events for a context, if it has an event bus.

    The bus is ``context.services.events`` or ``context.event_bus``, and has the original's
    ``dispatch(event_name, payload)``. It gets ``queue_event`` with ``{"event": name, "data": payload}``; to
    the payload a ``timestamp`` is added, in seconds since 1970.
    """
    for path in _BUSES:
        bus = context
        for name in path:
            bus = None if bus is None else _part(bus, name)
        dispatch = getattr(bus, "dispatch", None)
        if callable(dispatch):
            kind = getattr(bus, "queue_event", QUEUE_EVENT)
            return lambda event, payload: dispatch(kind, event_message(event, payload))
    return None


def event_message(event: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """An event as buses get it."""
    return {"event": event, "data": {"timestamp": int(time.time()), **payload}}


def _part(whole: Any, name: str) -> Any:
    return whole.get(name) if isinstance(whole, Mapping) else getattr(whole, name, None)
