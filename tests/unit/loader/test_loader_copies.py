"""Far files are copied once and read near: real files, no models."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep.exceptions import DiskFullException, InvalidModelException, ModelNotFoundException
from modelkeep_common.digests import digest_descriptor
from modelkeep_loader.tiers.disk import CacheFolder
from modelkeep_loader.tiers.mounts import is_far, remote_kind
from support.copies import MB, digest_of, file, plan_of, shelf, silent, source
from support.smalldisk import small_disk


@pytest.fixture
def far(tmp_path: Path) -> Path:
    return tmp_path / "far"


@pytest.fixture
def near(tmp_path: Path) -> Path:
    return tmp_path / "near"


def copies(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.suffix)


async def test_a_file_is_read_once_for_its_digest_and_its_copy(far: Path, near: Path) -> None:
    path = file(far / "a", 3 * MB + 7)
    async with shelf(near) as made:
        first, second = await asyncio.gather(made.digest(path), made.digest(path))
        assert first.digests.blake3 == second.digests.blake3 == digest_of(path)
        for _ in range(3):
            async with made.near(path) as plan:
                assert plan.files[0].path == near / digest_of(path)
                assert plan.files[0].path.read_bytes() == path.read_bytes()
                assert plan.files[0].name == "a"
        assert made.opened == ["a"]
        assert (near / digest_of(path)).stat().st_mode & 0o777 == 0o400
        assert near.stat().st_mode & 0o777 == 0o700


async def test_the_same_bytes_in_two_places_are_one_copy(far: Path, near: Path) -> None:
    one, two = file(far / "a"), far / "b"
    two.write_bytes(one.read_bytes())
    async with shelf(near) as made:
        await made.digest(one)
        await made.digest(two)
        assert made.names == copies(near) == [digest_of(one)]
        assert made.tier.usage().used == MB
        (resident,) = made.tier.residents()
        assert [ref.key for ref in resident.refs] == ["a", "b"]
        async with made.near(two) as plan:
            assert plan.files[0].path.read_bytes() == two.read_bytes()


async def test_sha256_comes_from_the_copy_when_it_is_wanted_later(far: Path, near: Path) -> None:
    path = file(far / "a")
    async with shelf(near) as made:
        assert (await made.digest(path)).digests.sha256 == ""
        with path.open("rb") as opened:
            truth = digest_descriptor(opened.fileno())
        assert (await made.digest(path, with_sha256=True)).digests.sha256 == truth.sha256
        assert made.opened == ["a"]


async def test_a_restart_finds_copies_and_what_they_are_of_and_looks_at_their_bytes_once(
    far: Path, near: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(far / "a")
    async with shelf(near) as made:
        await made.digest(path, with_sha256=True)
    looked: list[str] = []
    verify = CacheFolder.verify

    def counted(self: CacheFolder, copy: object, stop: object) -> bool:
        looked.append("once")
        return verify(self, copy, stop)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(CacheFolder, "verify", counted)
    async with shelf(near) as made:
        assert made.names == [digest_of(path)]
        known = await made.digest(path, with_sha256=True)
        assert known.digests.blake3 == digest_of(path)
        for _ in range(3):
            async with made.near(path) as plan:
                assert plan.files[0].path.parent == near
        assert looked == ["once"]
        assert made.opened == []


@pytest.mark.parametrize("while_it_runs", [True, False])
async def test_a_damaged_copy_is_noticed_and_fetched_again(
    far: Path, near: Path, while_it_runs: bool
) -> None:
    path = file(far / "a")
    copy = near / digest_of(path)

    def damage() -> None:
        copy.chmod(0o600)
        with copy.open("r+b") as opened:
            opened.seek(1000)
            opened.write(b"other bytes")

    async with shelf(near) as made:
        await made.digest(path)
        if while_it_runs:
            damage()
            async with made.near(path) as plan:
                assert plan.files[0].path.read_bytes() == path.read_bytes()
            assert made.opened == ["a", "a"]
    if not while_it_runs:
        damage()
        async with shelf(near) as made:
            async with made.near(path) as plan:
                assert plan.files[0].path.read_bytes() == path.read_bytes()
            assert made.opened == ["a"]


async def test_a_copy_that_somebody_took_away_is_fetched_again(far: Path, near: Path) -> None:
    path = file(far / "a")
    async with shelf(near) as made:
        await made.digest(path)
        (near / digest_of(path)).unlink()
        async with made.near(path) as plan:
            assert plan.files[0].path.read_bytes() == path.read_bytes()


async def test_a_file_that_changed_is_another_one(far: Path, near: Path) -> None:
    path = file(far / "a")
    async with shelf(near) as made:
        before = await made.digest(path)
        file(path)
        after = await made.digest(path)
        assert after.digests.blake3 == digest_of(path) != before.digests.blake3
        assert len(made.names) == 2


async def test_a_file_that_is_not_what_a_plan_says_makes_no_copy_for_it(far: Path, near: Path) -> None:
    path = file(far / "a")
    plan = plan_of(path)
    os.utime(path)  # its times are others: the plan's signature is not its any more
    async with shelf(near) as made:
        with pytest.raises(InvalidModelException, match="changed while it was being loaded"):
            async with made.localizer.near(plan, silent):
                pass
        path.unlink()
        made.tier.clock = lambda: 1e12  # the pause after a failure is over
        with pytest.raises(ModelNotFoundException):
            async with made.localizer.near(plan, silent):
                pass
    assert not near.exists() or copies(near) == []


async def test_what_is_used_least_goes_and_what_a_build_reads_stays(far: Path, near: Path) -> None:
    a, b, c = (file(far / name) for name in "abc")
    async with shelf(near, budget=2 * MB + 1000) as made:
        await made.digest(a)
        async with made.near(a):
            await made.digest(b)
            await made.digest(c)
            for _ in range(100):
                if len(copies(near)) == 2:
                    break
                await asyncio.sleep(0.02)
            assert copies(near) == made.names == sorted([digest_of(a), digest_of(c)])
            async with made.near(c):
                with pytest.raises(DiskFullException) as raised:
                    await made.digest(file(far / "d"))
        assert "disk_budget_bytes" in raised.value.remedy


async def test_what_another_loader_reads_is_not_removed(far: Path, near: Path) -> None:
    a, b = file(far / "a"), file(far / "b")
    async with shelf(near, budget=MB + 1000) as made:
        await made.digest(a)
        with (near / digest_of(a)).open("rb") as reading:
            fcntl.flock(reading, fcntl.LOCK_SH)
            with pytest.raises(DiskFullException):
                await made.digest(b)
            assert copies(near) == [digest_of(a)]


async def test_two_loaders_share_a_folder_and_fetch_once(far: Path, near: Path) -> None:
    path = file(far / "a")
    async with shelf(near) as one, shelf(near) as two:
        await one.digest(path)
        async with two.near(path) as plan:
            assert plan.files[0].path.read_bytes() == path.read_bytes()
        assert (await two.digest(path)).digests.blake3 == digest_of(path)
        assert two.opened == []
        assert two.names == one.names
        one.tier.evict_idle()
        for _ in range(100):
            if not copies(near):
                break
            await asyncio.sleep(0.02)
        async with two.near(path) as plan:
            assert plan.files[0].path.read_bytes() == path.read_bytes()
        assert two.opened == ["a"]


@pytest.mark.timeout(60)
def test_killed_in_the_middle_of_a_copy_it_leaves_nothing_that_counts(tmp_path: Path) -> None:
    big = file(tmp_path / "big", 48 * MB)
    near = tmp_path / "near"
    code = (
        "import os, sys; from pathlib import Path; from modelkeep_loader.tiers.disk import CacheFolder\n"
        "def slow(done):\n"
        "    if done >= 16 << 20: print('half', flush=True); sys.stdin.read()\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "CacheFolder(Path(sys.argv[2])).fetch(fd, with_sha256=False, stop=lambda: False, on_progress=slow,\n"
        "    check=lambda: None)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, big, near], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"half\n"
    folder = CacheFolder(near)
    assert folder.open() == []
    (left,) = near.iterdir()  # it is being written: another loader's start leaves it alone
    assert left.suffix == ".coming"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert run.stdin is not None
    run.stdin.close()
    assert folder.look() == []
    assert folder.open() == []
    assert list(near.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_full_disk_is_told_and_breaks_nothing(far: Path) -> None:
    small, large = file(far / "small", 2 * MB), file(far / "large", 80 * MB)
    with small_disk(64) as disk:
        near = disk / "copies"
        async with shelf(near, budget=1 << 40) as made:
            await made.digest(small)
            with pytest.raises(DiskFullException) as raised:
                await made.digest(large)
            assert raised.value.metadata["path"] == str(near)
            assert copies(near) == [digest_of(small)]
            assert not list(near.glob("*.coming"))
            async with made.near(small) as plan:
                assert plan.files[0].path.parent == near
        async with shelf(near, budget=1 << 40, must=False) as made:
            assert (await made.digest(large)).digests.blake3 == digest_of(large)
            async with made.near(large) as plan:
                assert plan.files[0].path == large


async def test_what_is_near_is_left_where_it_is_unless_it_has_a_copy(far: Path, near: Path) -> None:
    path = file(far / "a")
    async with shelf(near, far=False) as made:
        assert not await made.localizer.wants(source(path))
        async with made.near(path) as plan:
            assert plan.files[0].path == path
    assert not near.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_mount_is_far_and_a_local_disk_is_not(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    assert not is_far(here)
    assert remote_kind(here / "not" / "there") == ""
    with small_disk(1) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert is_far(disk)
