"""The helper process and the service's side of it, as far as no torch is needed."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep import frames
from modelkeep_common.paths import AllowedRoots
from modelkeep_convert.request import MAX_FILES
from modelkeep_loader.helper import Helper


@pytest.fixture
def helper_process() -> Callable[[socket.socket], subprocess.Popen[bytes]]:
    def start(theirs: socket.socket) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "modelkeep_convert", "--fd", str(theirs.fileno())]
        path = os.pathsep.join(part for part in sys.path if part)
        return subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.DEVNULL,
        )

    return start


@pytest.mark.timeout(60)
def test_the_helper_ends_with_a_service_that_died_before_it_read_the_answer(
    helper_process: Callable[[socket.socket], subprocess.Popen[bytes]],
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        process = helper_process(theirs)
    try:
        frames.send_frame(ours, {"build": {"class_name": "no build at all"}})
        select.select([ours], [], [])
        ours.close()
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def test_a_frame_takes_the_descriptors_of_as_many_files_as_a_build_may_have() -> None:
    assert frames.MAX_DESCRIPTORS == MAX_FILES


@pytest.mark.timeout(60)
def test_what_a_library_raises_is_told_in_one_line_and_of_something(
    helper_process: Callable[[socket.socket], subprocess.Popen[bytes]],
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        process = helper_process(theirs)
    with ours:
        try:
            frames.send_frame(ours, {"build": {"class_name": "", "a field\nof two lines": 1}})
            answer = frames.receive_frame(ours)
        finally:
            process.kill()
            process.wait()
    assert answer is not None
    message = answer[0]["error"]["message"]
    assert message.startswith("Its state dict cannot be built from the model's files: TypeError: ")
    assert "\n" not in message


def test_a_frame_that_breaks_off_leaves_no_descriptor_open() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    end, other_end = os.pipe()
    with ours:
        with theirs:
            socket.send_fds(theirs, [(100).to_bytes(4, "big") + b"{"], [other_end])
        os.close(other_end)
        with pytest.raises(OSError, match="middle of a frame"):
            frames.receive_frame(ours)
    assert os.read(end, 1) == b"", "the last writing end is closed"
    os.close(end)


async def test_an_idle_helper_is_ended_in_its_turn_and_not_under_a_build() -> None:
    roots = await asyncio.to_thread(lambda: AllowedRoots([], data_dir=Path("/nowhere")))
    helper = Helper(roots, idle_s=0.001)
    stops: list[bool] = []
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> int:
        stops.append(helper._turn.locked())
        loop.call_soon_threadsafe(stopped.set)
        return 0

    helper._stop = stop  # type: ignore[method-assign]  # tells when it is called
    helper._rest()
    await stopped.wait()
    assert stops == [True]
    helper._idle_s = 1000
    async with helper._turn:  # as a build does
        helper._end_idle()
        helper._rest()
        await asyncio.sleep(0)
    assert helper._ending is not None
    await helper._ending
    assert stops == [True], "it has been used meanwhile"
    await helper.close()
