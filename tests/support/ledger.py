"""What a server sent twice, and after which end of its client: from the ranges of its requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from support.httpserver import Request

#: Ranges (first, end) in ascending order that neither overlap nor touch.
Ranges = list[tuple[int, int]]
#: The bytes of one object that an engine may have under way on one connection.
PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class Loss:
    """What one life of the client fetched of one object, and another had to fetch again."""

    path: str
    #: Which life, from 0.
    life: int
    twice: int
    #: The most requests for the object that were under way at once in that life.
    connections: int


def united(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The bytes that are in any of the ranges."""
    found: Ranges = []
    for first, end in sorted(ranges):
        if first >= end:
            continue
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return found


def common(these: Ranges, those: Ranges) -> int:
    """How many bytes are in both; each as `united` gives it."""
    return sum(
        max(0, min(end, other_end) - max(first, other_first))
        for first, end in these
        for other_first, other_end in those
    )


def sent(request: Request) -> tuple[int, int]:
    """The bytes of the object that went out for a request."""
    if request.status not in (200, 206):
        return (0, 0)
    first = request.offset if request.status == 206 else 0
    return (first, first + request.bytes_sent)


def losses(requests: Sequence[Request], ends: Sequence[float]) -> list[Loss]:
    """Per object and life of the client, what that life fetched and a later one fetched again.

    Args:
        requests: In their order.
        ends: When the lives ended, as `time.monotonic` tells; the last life may still go on.
    """
    lives: dict[str, dict[int, list[Request]]] = {}
    for request in requests:
        life = sum(end < request.began for end in ends)
        lives.setdefault(request.path.split("?", 1)[0], {}).setdefault(life, []).append(request)
    found = []
    for path, of_path in lives.items():
        later: Ranges = []
        for life in sorted(of_path, reverse=True):
            ranges = united(map(sent, of_path[life]))
            most = max(request.active for request in of_path[life])
            found.append(Loss(path, life, common(ranges, later), most))
            later = united([*ranges, *later])
    return found
