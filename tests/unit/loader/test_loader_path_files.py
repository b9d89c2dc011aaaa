"""Files of residents for those who cannot be given descriptors: real sealed memory, real files."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.exceptions import DiskFullException, RamExhaustedException
from modelkeep_common.startup import StartupError
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.components import Resident
from modelkeep_loader.domain.paths import Paths
from modelkeep_loader.tiers.paths import FileCopy, PathFolder
from support.kiln import MB, Clock, Kiln, plan, ram_cache, want
from support.smalldisk import small_disk
from support.waiting import until


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    made = ram_cache(Kiln(), budget_bytes=4 * MB, clock=Clock())
    yield made
    await made.close()


@pytest.fixture
def folder(data_dir: Path) -> Path:
    return data_dir / "paths"


@pytest.fixture
def paths(cache: Cache, folder: Path) -> Paths:
    return Paths(PathFolder(folder), cache.tier)


async def resident(cache: Cache, name: str) -> Resident:
    (found,) = await cache.acquire(want(f"lease of {name}", plan(name)))
    return found


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir() if path.name != "paths.lock")


async def reserved(cache: Cache, size: int) -> bool:
    """Whether so many bytes are reserved, soon: files are removed in a thread."""
    for _ in range(500):
        if cache.usage().reserved == size:
            return True
        await asyncio.sleep(0.01)
    return False


async def gone(folder: Path) -> bool:
    """Whether no file is left, soon."""
    for _ in range(500):
        if not files(folder):
            return True
        await asyncio.sleep(0.01)
    return False


def map_file(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


async def test_a_file_is_the_memory_is_shared_and_goes_with_its_last_lease(
    cache: Cache, paths: Paths, folder: Path
) -> None:
    one = await resident(cache, "a")
    (first,), (second,) = await asyncio.gather(paths.lend("x", [one]), paths.lend("y", [one]))
    assert files(folder) == [first] == [second]
    assert Path(first).stat().st_mode & 0o777 == 0o400
    fd = cache.tier.export(one)
    with os.fdopen(fd, "rb") as memory:
        assert Path(first).read_bytes() == memory.read()
    assert cache.usage().reserved == MB
    paths.give_back("x")
    assert files(folder) == [first]
    paths.give_back("y")
    assert await reserved(cache, 0)
    assert files(folder) == []
    await paths.close()


async def test_what_is_still_mapped_counts_until_it_is_let_go(
    cache: Cache, paths: Paths, folder: Path
) -> None:
    one = await resident(cache, "a")
    (path,) = await paths.lend("x", [one])
    mapped = await asyncio.to_thread(map_file, path)
    paths.give_back("x")
    assert await gone(folder)
    paths.sweep()
    assert cache.usage().reserved == MB
    (again,) = await paths.lend("x", [one])
    assert again != path
    assert cache.usage().reserved == 2 * MB
    mapped.close()
    paths.sweep()
    assert await reserved(cache, MB)
    await paths.close()


async def test_a_file_that_somebody_wrote_to_is_not_lent_again(
    cache: Cache, paths: Paths, folder: Path
) -> None:
    one = await resident(cache, "a")
    (path,) = await paths.lend("x", [one])
    os.chmod(path, 0o600)  # its owner can, where it is not mounted read-only
    assert Path(path).write_bytes(b"other bytes") == 11
    (again,) = await paths.lend("y", [one])
    assert Path(again).read_bytes() == bytes(MB)
    assert await reserved(cache, MB)
    assert files(folder) == [again]
    await paths.close()


async def test_without_room_nothing_is_made_and_what_is_idle_goes_for_it(
    cache: Cache, paths: Paths, folder: Path
) -> None:
    held = [await resident(cache, name) for name in "abcd"]
    with pytest.raises(RamExhaustedException, match="DELIVERY_FD") as caught:
        await paths.lend("x", [held[0]])
    assert int(caught.value.metadata["bytes_short"]) == MB
    assert (files(folder), cache.usage().reserved) == ([], 0)
    cache.give_back("lease of d")
    (path,) = await paths.lend("x", [held[0]])
    assert [left.id for left in cache.tier.residents()] == ["a", "b", "c"]
    # All or none.
    with pytest.raises(RamExhaustedException):
        await paths.lend("y", held[:2])
    assert await reserved(cache, MB)
    assert files(folder) == [path]
    await paths.close()


async def test_a_lease_that_ends_meanwhile_leaves_no_file(cache: Cache, paths: Paths, folder: Path) -> None:
    one = await resident(cache, "a")
    lending = asyncio.create_task(paths.lend("x", [one]))
    await asyncio.sleep(0)
    paths.give_back("x")
    await lending
    assert await reserved(cache, 0)
    assert await gone(folder)


@pytest.mark.parametrize("steps", range(6))
async def test_a_request_that_is_cancelled_at_any_moment_leaves_no_file(
    cache: Cache, paths: Paths, folder: Path, steps: int
) -> None:
    one = await resident(cache, "a")
    lending = asyncio.create_task(paths.lend("x", [one]))
    for _ in range(steps):
        await asyncio.sleep(0)
    lending.cancel()
    await asyncio.wait({lending})
    if not lending.cancelled():
        paths.give_back("x")
    assert await reserved(cache, 0)
    assert await gone(folder)
    (path,) = await paths.lend("y", [one])
    assert Path(path).stat().st_size == MB
    await paths.close()


async def test_a_full_folder_is_said_and_breaks_nothing(cache: Cache) -> None:
    cache.tier.budget_bytes = 100 * MB
    with small_disk(2) as disk:
        paths = Paths(await asyncio.to_thread(PathFolder, disk / "paths"), cache.tier)
        small = await resident(cache, "a")
        (large,) = await cache.acquire(want("large", plan("large", 3 * MB)))
        (path,) = await paths.lend("x", [small])
        with pytest.raises(DiskFullException, match="path_dir") as caught:
            await paths.lend("y", [large])
        assert caught.value.metadata["path"] == str(disk / "paths")
        assert files(disk / "paths") == [path]
        assert cache.usage().reserved == MB
        await paths.close()


def test_files_of_a_loader_that_was_killed_are_removed_and_two_do_not_share_a_folder(
    folder: Path,
) -> None:
    folder.mkdir(mode=0o700)
    for name in ("1-1.safetensors", "1-2.part", "of somebody else"):
        (folder / name).write_bytes(b"x")
    first = PathFolder(folder)
    assert files(folder) == [str(folder / "of somebody else")]
    with pytest.raises(StartupError) as caught:
        PathFolder(folder)
    assert caught.value.exit_code == 98
    first.close()
    PathFolder(folder).close()


class Gated:
    """A shelf that makes one file after the other when it is told to."""

    def __init__(self, folder: PathFolder) -> None:
        self._folder = folder
        self.close = folder.close
        self.asked = 0
        self.gate = asyncio.Semaphore(0)

    async def put(self, descriptor: int, size_bytes: int) -> FileCopy:
        self.asked += 1
        await self.gate.acquire()
        return await self._folder.put(descriptor, size_bytes)


@pytest.fixture
def shelf(folder: Path) -> Gated:
    return Gated(PathFolder(folder))


async def test_whoever_asks_while_others_give_up_waits_for_the_one_file_that_is_made(
    cache: Cache, folder: Path, shelf: Gated
) -> None:
    paths = Paths(shelf, cache.tier)
    one = await resident(cache, "a")
    lends = []
    for name in "xy":
        lends.append(asyncio.create_task(paths.lend(name, [one])))
    await until(lambda: shelf.asked == 1)
    for name in "xy":  # their leases end meanwhile
        paths.give_back(name)
    shelf.gate.release()
    await until(lambda: shelf.asked == 2 or lends[1].done())
    lends.append(asyncio.create_task(paths.lend("z", [one])))
    for _ in range(3):
        shelf.gate.release()
    *_, (path,) = await asyncio.gather(*lends)
    assert files(folder) == [path]
    paths.give_back("z")
    assert await gone(folder)
    assert await reserved(cache, 0)
    await paths.close()
