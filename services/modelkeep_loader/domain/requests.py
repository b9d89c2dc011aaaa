"""What a request says, and what it hears while it is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from modelkeep.exceptions import ModelkeepError
from modelkeep_loader.domain.components import ComponentRef, Plan, Resident
from modelkeep_loader.domain.demand import NO_TERMS, Demand, Terms
from modelkeep_loader.domain.digests import Reading
from modelkeep_loader.domain.lease import DemotionAsked, Lease, Revocation


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to hold.

    Attributes:
        refs: The components.
        brief: Makes what the holder is told of them. Called before there is a lease, since it may refuse.
        boot_id: Of the caller's host; empty if he does not say.
        principal, label, labels, claimed_pid: Who he is, as his token, his labels and he himself say.
        max_wait_s: Seconds to wait for room.
        terms: What he wants besides the components, and for how long they are kept.
        with_ticket: Whether he wants the memory itself, by descriptors.
        with_paths: Whether he wants it by paths of files.
        lease_id, lease_secret: A lease to go on with instead of a new one.
    """

    refs: Sequence[ComponentRef]
    brief: Callable[[Sequence[Plan], Sequence[Resident]], Any]
    boot_id: str = ""
    principal: str = ""
    label: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    claimed_pid: int = 0
    max_wait_s: float = 0.0
    terms: Terms = NO_TERMS
    with_ticket: bool = True
    with_paths: bool = False
    lease_id: str = ""
    lease_secret: bytes = b""


@dataclass(frozen=True, slots=True)
class Identifying:
    """Files are read to know what they are."""

    refs: Sequence[ComponentRef]
    reading: Reading


@dataclass(frozen=True, slots=True)
class Planned:
    """What will be loaded is known."""

    demand: Demand


@dataclass(frozen=True, slots=True)
class Queued:
    """There is no room yet. ``holders``: some of the ``holder_count`` leases that hold memory."""

    demand: Demand
    holders: Sequence[str]
    holder_count: int


@dataclass(frozen=True, slots=True)
class Loading:
    """The components are being loaded."""

    demand: Demand
    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """One component is resident."""

    resident: Resident
    is_last: bool


@dataclass(frozen=True, slots=True)
class Granted:
    """There is a lease.

    Attributes:
        lease: It, with a binding.
        brief: What the request's own ``brief`` made of the components.
        ticket: For the descriptor socket; empty where none was wanted.
        paths: Of files, in the order of the components, where they were wanted.
    """

    lease: Lease
    brief: Any
    ticket: bytes
    paths: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Alive:
    """The lease goes on."""


@dataclass(frozen=True, slots=True)
class RevokeRequested:
    """The lease is asked back."""

    revocation: Revocation


@dataclass(frozen=True, slots=True)
class DemoteRequested:
    """Somebody waits for what the lease keeps on an accelerator."""

    asked: DemotionAsked


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease has ended, and its holder did not ask for that."""

    error: ModelkeepError


News: TypeAlias = (
    Identifying
    | Planned
    | Queued
    | Loading
    | Loaded
    | Granted
    | Alive
    | RevokeRequested
    | DemoteRequested
    | Lost
)
#: Takes the news of one request; slow when whoever hears it is.
Tell: TypeAlias = Callable[[News], Awaitable[None]]
