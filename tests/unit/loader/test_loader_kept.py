"""What is written down for the next loader: when, and what becomes of what cannot be read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from modelkeep import sealed
from modelkeep.exceptions import ModelInUseException, ModelPinnedException
from modelkeep_loader.domain.lease import Lease
from modelkeep_loader.tiers.ram import take_kept
from support.cupboards import SIZE, Cupboard, Loader, close, contents, memory
from support.kiln import Clock, plan
from support.memorytruth import memfd_bytes


@pytest.fixture
async def cupboard() -> AsyncIterator[Cupboard]:
    made = Cupboard()
    yield made
    await made.close(keep=False)
    made.forget()


def put_anew(cupboard: Cupboard, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what is written down under a name."""
    thing = cupboard.things[name]
    facts = json.loads(thing.facts)
    change(facts)
    cupboard.put(name, json.dumps(facts).encode(), thing.descriptors)


async def test_what_has_not_changed_is_not_written_again(cupboard: Cupboard) -> None:
    loader = Loader(cupboard, Clock(), marks={41: "then"})
    await loader.load("a")
    cupboard.logs = True
    lease = await loader.grant("a", pid=41)
    assert [name for name, _ in cupboard.log] == [f"lease/{lease.id}"] * 2, "with the stream and the process"
    second = loader.leases.bind_connection(lease, 41, 1000)
    loader.leases.unbind(lease, second)
    again = await loader.grant("a", ttl_s=10)
    loader.leases.bind_ttl(again, 20)
    await loader.load("a")
    assert [name for name, _ in cupboard.log[2:]] == [f"lease/{again.id}"] * 2, "granted and renewed"
    loader.leases.release(again)
    loader.leases.release(again)
    assert [(name, thing) for name, thing in cupboard.log[4:]] == [(f"lease/{again.id}", None)]
    loader.cache.pin([plan("a", SIZE)])
    loader.cache.pin([plan("a", SIZE)])
    assert [name for name, _ in cupboard.log[5:]] == ["pins/cpu"]
    loader.die()


async def test_the_kernels_lease_of_a_loader_that_died_while_it_looked_hinders_nobody() -> None:
    fd = memory("a")
    kept = sealed.open_readonly(fd)
    os.close(fd)
    fcntl.fcntl(kept, 10, signal.SIGURG)  # F_SETSIG: otherwise the signal is one that kills
    fcntl.fcntl(kept, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    with pytest.raises(BlockingIOError):
        sealed.open_readonly(kept)
    built = take_kept([kept])
    lent = built.memory.open_for_holder()
    assert built.memory.in_use()
    os.close(lent)
    assert not built.memory.in_use()
    built.memory.close()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda facts: facts.update(version="0, of long ago"), "version '0, of long ago' wrote it"),
        (lambda facts: facts.pop("version"), "broken: version: missing"),
        (lambda facts: facts.pop("refs"), "broken: refs: missing"),
        (lambda facts: facts.update(more=1), "broken: more: extra_forbidden"),
        (lambda facts: facts.update(size_bytes=SIZE + 1), "written down"),
        (lambda facts: facts["plan"].update(id="b"), "what is written of it is of 'b'"),
        (lambda facts: facts["plan"].pop("digests"), "broken: plan.digests: missing"),
    ],
)
async def test_a_resident_of_which_other_things_are_written_down_is_dropped_and_said_so(
    cupboard: Cupboard, caplog: pytest.LogCaptureFixture, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    first = Loader(cupboard, Clock())
    await first.load("a", "c")
    first.die()
    put_anew(cupboard, "resident/a", change)
    second = await Loader(cupboard, first.clock).adopt()
    assert second.names == ["c"]
    assert "resident/a" not in cupboard.things
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith("resident/")
    assert why in line
    assert memfd_bytes([os.getpid()], "modelkeep:test:") == SIZE
    second.die()


async def test_memory_that_is_not_what_a_loader_makes_is_dropped(
    cupboard: Cupboard, caplog: pytest.LogCaptureFixture
) -> None:
    first = Loader(cupboard, Clock())
    await first.load("a", "b", "c", "d", "e")
    first.die()
    things = dict(cupboard.things)
    unsealed = sealed.create("modelkeep:test:unsealed", SIZE)
    empty = sealed.create("modelkeep:test:empty", SIZE)
    sealed.seal(empty)
    null = os.open("/dev/null", os.O_RDONLY)
    for name, descriptors in (("a", [unsealed]), ("b", [empty]), ("c", [null]), ("d", [])):
        cupboard.put(f"resident/{name}", things[f"resident/{name}"].facts, descriptors)
    cupboard.put("resident/broken", b"\xff{", [null])
    cupboard.put("somebody's", b"", [null])
    for fd in (unsealed, empty, null):
        os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    second = await Loader(cupboard, first.clock).adopt()
    assert second.names == ["e"]
    assert set(cupboard.things) == {"resident/e"}
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(line.split()[0] for line in lines) == [
        *(f"resident/{name}" for name in ("a", "b", "broken", "c", "d")),
        "somebody's",
    ]
    # The keeper's descriptors of what was dropped are closed, and of what was taken one more is open.
    assert len(os.listdir("/proc/self/fd")) == before - 5 + 1
    second.die()


async def test_a_lease_on_what_is_not_there_is_dropped_and_no_secret_is_told(
    cupboard: Cupboard, caplog: pytest.LogCaptureFixture
) -> None:
    first = Loader(cupboard, Clock())
    orphan, broken, good = await first.grant("a"), await first.grant("b"), await first.grant("b")
    first.die()
    cupboard.drop("resident/a")
    secret = json.loads(cupboard.things[f"lease/{broken.id}"].facts)["facts"]["secret"]
    put_anew(cupboard, f"lease/{broken.id}", lambda facts: facts["facts"].update(secret=secret + "!"))
    second = await Loader(cupboard, first.clock).adopt()
    assert [lease.id for lease in second.leases.alive()] == [good.id]
    assert set(cupboard.things) == {"resident/b", f"lease/{good.id}"}
    lines = "\n".join(record.getMessage() for record in caplog.records)
    assert f"lease/{orphan.id} of an earlier loader does not go on: the component a is not there" in lines
    assert f"lease/{broken.id} of an earlier loader does not go on: what is written of it is broken" in lines
    assert secret not in lines + repr(second.leases.alive())
    second.die()


async def test_what_cannot_be_written_is_not_kept_and_the_loader_goes_on(
    cupboard: Cupboard, caplog: pytest.LogCaptureFixture
) -> None:
    loader = Loader(cupboard, Clock())
    await loader.load("a")
    lease = await loader.grant("a")
    lease.labels = {"job": "no text: \udcff"}
    loader.leases.bind_ttl(lease, 10)
    assert f"lease/{lease.id}" not in cupboard.things
    assert f"lease/{lease.id} is not kept for the next loader" in caplog.text
    loader.die()


#: Two leases on three components each, what is pinned, and one that is loaded.
ROOM = 8 * SIZE + 100


class Day:
    """What happens to a loader in a day, by dice; and after each step, what must not be lost."""

    def __init__(self, seed: int, cupboard: Cupboard) -> None:
        self.dice = random.Random(seed)
        self.loader = Loader(cupboard, Clock(), budget=ROOM, marks={41: "then"})
        self.cupboard = cupboard
        self.leases: list[Lease] = []
        #: After how many messages to the keeper which leases had been granted and not ended.
        self.promised: list[tuple[int, frozenset[str]]] = [(0, frozenset())]

    async def step(self) -> None:
        loader, dice = self.loader, self.dice
        names = dice.sample("abcdefghijk", dice.choice((1, 1, 2, 3)))
        what = dice.choice(
            ("load", "grant", "grant", "release", "release", "evict", "pin", "unpin", "revoke")
        )
        if what == "load":
            await loader.load(*names[:1], keep_alive_s=dice.choice((None, 0.0, 5.0)))
        elif what == "grant" and len(self.leases) < 2:
            terms: dict[str, Any] = {"ttl_s": dice.choice((None, 100.0)), "pid": dice.choice((0, 41))}
            self.leases.append(await loader.grant(*names, activation_bytes=dice.choice((0, 7)), **terms))
        elif what == "release" and self.leases:
            loader.leases.release(self.leases.pop(dice.randrange(len(self.leases))))
        elif what == "revoke" and self.leases:
            loader.leases.revoke(self.leases.pop().id, "")
        elif what == "pin" and not loader.tier.usage().pinned:
            loader.cache.pin([plan(names[0], SIZE)])
        elif what == "unpin":
            loader.cache.unpin([plan(name, SIZE).ref for name in "abcdefghijk"])
        elif what == "evict":
            with contextlib.suppress(ModelInUseException, ModelPinnedException):
                loader.cache.evict(names[0])
        loader.cache.sweep()
        self.promised.append((len(self.cupboard.log), frozenset(lease.id for lease in self.leases)))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
async def test_whichever_message_to_the_keeper_was_the_last_no_lease_is_lost_and_no_byte_leaks(
    cupboard: Cupboard, seed: int
) -> None:
    cupboard.logs = True
    day = Day(seed, cupboard)
    for _ in range(120):
        await day.step()
    day.loader.die()
    assert len(cupboard.log) > 80
    for count in range(len(cupboard.log) + 1):
        # Promised before and after this message: what is granted or ended just then may be either.
        before = [leases for when, leases in day.promised if when <= count][-1]
        after = next((leases for when, leases in day.promised if when >= count), before)
        left = cupboard.after(count)
        next_one = await Loader(left, day.loader.clock, budget=ROOM, marks=day.loader.marks).adopt()
        alive = {lease.id for lease in next_one.leases.alive()}
        assert before & after <= alive <= before | after, count
        for lease in next_one.leases.alive():
            assert [contents(next_one, name) for name in lease.resident_ids] == lease.resident_ids
        kept = {name.removeprefix("resident/") for name in left.things if name.startswith("resident/")}
        assert kept == set(next_one.names), "the keeper has what the loader has, and nothing besides"
        usage = next_one.cache.usage()
        assert usage.taken <= usage.budget
        for lease in next_one.leases.alive():
            next_one.leases.release(lease)
        assert (next_one.cache.usage().leased, next_one.cache.usage().reserved) == (0, 0)
        next_one.die()
        await left.close(keep=False)
    for _, thing in cupboard.log:
        if thing is not None:
            close(thing)
    cupboard.log.clear()
    await cupboard.close(keep=False)
    assert memfd_bytes([os.getpid()], "modelkeep:test:") == 0
