"""Which keeper a loader has, and what a loader leaves to the next one that cannot start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep_common.serving import start_server
from modelkeep_common.startup import StartupError
from modelkeep_loader.app import LoaderApplication
from modelkeep_loader.config import LoaderSettings
from modelkeep_loader.domain.adoption import Adoption
from modelkeep_loader.domain.keeping import NoKeeper
from modelkeep_loader.keepers.choose import LOG, SOCKET, keeper_of
from modelkeep_loader.keepers.process import ProcessKeeper
from modelkeep_loader.keepers.systemd import SystemdKeeper
from support.waiting import until

_OFFER = {"NOTIFY_SOCKET": "/run/systemd/notify", "FDSTORE": "64"}


@pytest.mark.parametrize(
    ("settings", "offered", "expected"),
    [
        ({}, False, ProcessKeeper),
        ({}, True, SystemdKeeper),
        ({"keeper": "process"}, True, ProcessKeeper),
        ({"keeper": "systemd"}, True, SystemdKeeper),
        ({"keeper": "systemd"}, False, None),
        ({"keeper": "none"}, True, NoKeeper),
        ({"keeper_socket": Path("/run/elsewhere/kp.sock")}, True, ProcessKeeper),
    ],
)
def test_who_keeps_is_said_by_the_settings_and_by_who_started_the_loader(
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    offered: bool,
    expected: type | None,
) -> None:
    for name in (*_OFFER, "SYSTEMD_EXEC_PID"):
        monkeypatch.delenv(name, raising=False)
    if offered:
        for name, value in _OFFER.items():
            monkeypatch.setenv(name, value)
    told = LoaderSettings.for_test(data_dir, **settings)
    if expected is not None:
        assert type(keeper_of(told, data_dir)) is expected
        return
    with pytest.raises(StartupError, match="FileDescriptorStoreMax") as raised:
        keeper_of(told, data_dir)
    assert raised.value.exit_code == 78


async def test_a_loader_that_fails_to_start_leaves_what_it_found_to_the_next_one(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LoaderSettings.for_test(data_dir, descriptor_dir=data_dir / "fd", keeper="process")
    (data_dir / "fd").mkdir(mode=0o700)
    before = ProcessKeeper(data_dir / "fd" / SOCKET, keep_s=30, log=data_dir / LOG)
    await before.taken()
    before.put("resident/1", b"facts")
    await until(lambda: before.pid)
    await before.close(keep=True)

    async def fail(adoption: Adoption) -> None:
        await adoption._keeper.taken()
        raise StartupError(73, "something is wrong with the disk")

    with monkeypatch.context() as patched:
        patched.setattr(Adoption, "run", fail)
        with pytest.raises(StartupError, match="wrong with the disk"):
            await start_server(LoaderApplication(settings), settings)
    after = ProcessKeeper(data_dir / "fd" / SOCKET, keep_s=30, log=data_dir / LOG)
    assert [thing.name for thing in await after.taken()] == ["resident/1"]
    await after.close(keep=False)
