"""Which component goes first: the policy by itself, on names and numbers."""

from __future__ import annotations

from modelkeep_loader.domain.policy import GreedyDualSize, reload_seconds


def test_what_costs_the_same_for_its_bytes_goes_in_the_order_of_last_use() -> None:
    policy = GreedyDualSize()
    for name in ("a", "b", "c", "a"):
        policy.use(name, 100, 1.0)
    assert policy.order(["a", "b", "c"]) == ["b", "c", "a"]
    assert policy.order(["c", "unknown"]) == ["unknown", "c"]


def test_what_is_dear_to_load_for_its_bytes_stays_longer_and_goes_all_the_same_when_nobody_uses_it() -> None:
    policy = GreedyDualSize()
    policy.use("dear", 100, 4.5)
    rounds = 0
    while True:
        policy.use(f"cheap {rounds}", 100, 1.0)
        first = policy.order(["dear", f"cheap {rounds}"])[0]
        policy.forget(first, made_room=True)
        if first == "dear":
            break
        rounds += 1
    assert rounds == 4, "each that goes in its stead ages it by what that one cost"


def test_what_is_dropped_for_another_reason_does_not_age_the_rest() -> None:
    policy = GreedyDualSize()
    policy.use("old", 1, 1.0)
    policy.use("gone", 1, 100.0)
    policy.forget("gone")
    policy.use("new", 1, 0.5)
    assert policy.order(["old", "new"]) == ["new", "old"]


def test_reloading_costs_what_was_measured_and_by_size_what_never_was() -> None:
    assert reload_seconds(10, 3.0) == 3.0
    assert reload_seconds(1 << 30) > reload_seconds(1 << 20) > 0.0
