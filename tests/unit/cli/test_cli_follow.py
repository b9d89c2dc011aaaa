"""What a follower of a job sees while the job waits."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest

from modelkeep.cli import _follow, _scans
from modelkeep.cli._bar import Bar, FileStanding, Standing, drawn, drawn_with_files
from modelkeep.cli._terminal import Terminal, cells
from modelkeep.client import WatchFrame
from modelkeep.client._install_jobs import ModelInstallJob
from modelkeep.client._scans import ModelScan
from modelkeep.client._watch import WatchEvent
from modelkeep.download.v1 import download_pb2
from modelkeep.install.v1 import install_pb2, scan_pb2
from modelkeep.server.v1 import job_pb2

BUSY = "The server answers 503."


class Screen(io.StringIO):
    """A terminal, as far as a bar needs one: what its lines show."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self._row = [""], 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                self._row += 1
                self.lines += [""] * (self._row + 1 - len(self.lines))
            elif part == "\x1b[2K":
                self.lines[self._row] = ""
            elif part == "\x1b[J":
                del self.lines[self._row + 1 :]
            elif part.endswith("A"):
                self._row -= int(part[2:-1])
            elif part != "\r" and not part.startswith("\x1b"):
                self.lines[self._row] += part
        return len(text)


def waiting(attempt: int, until: float, **values: Any) -> install_pb2.Install:
    """An install whose download waits for its next try."""
    error = job_pb2.JobError(code="UNAVAILABLE", reason="UPSTREAM_UNAVAILABLE", message=BUSY)
    error.retry_time.FromNanoseconds(int(until * 1e9))
    fields: dict[str, Any] = {
        "id": 3,
        "state": install_pb2.INSTALL_STATE_RUNNING,
        "stage": install_pb2.INSTALL_STAGE_DOWNLOADING,
        "download_attempt": attempt,
        "error": error,
    }
    return install_pb2.Install(**fields | values)


def followed(*messages: install_pb2.Install) -> None:
    """Follows a job through what a watch tells of it."""
    over = install_pb2.Install(id=3, state=install_pb2.INSTALL_STATE_COMPLETED)

    def frames() -> Generator[WatchFrame[ModelInstallJob]]:
        for message in (*messages, over):
            job = ModelInstallJob(message)
            yield WatchFrame([WatchEvent(id=3, put=job)], "live", True, "")

    _follow.follow(frames(), 3, "install", lambda job: job.status.value, lambda job: job.ended)


def test_in_a_pipe_each_failed_try_is_a_line_with_its_reason_and_the_time_of_the_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    until = time.mktime((2026, 11, 27, 12, 30, 15, 0, 0, -1))
    followed(waiting(1, until), waiting(1, until), waiting(2, until + 2))
    lines = capsys.readouterr().err.splitlines()
    said = f"Install 3: running: try {{}} failed: {BUSY} [UPSTREAM_UNAVAILABLE]; next try at 12:30:{{}}"
    assert lines == [said.format(1, 15), said.format(2, 17), "Install 3: completed"]


def test_of_a_peer_that_is_away_no_try_of_the_download_is_told() -> None:
    away = waiting(2, 1e9, stage=install_pb2.INSTALL_STAGE_WAITING_FOR_PEER)
    assert _follow.waits(away) == (f"{BUSY} [UPSTREAM_UNAVAILABLE]", 1e9)


def test_a_download_that_waits_says_its_own_try() -> None:
    error = waiting(1, 1e9).error
    assert _follow.waits(download_pb2.Download(attempt=4, error=error))[0].startswith("try 4 failed: ")


def test_what_waits_for_a_caller_or_has_failed_is_no_wait_that_ends_by_itself() -> None:
    needed = job_pb2.JobError(reason="TOKEN_REQUIRED", message="A token, please.")
    assert _follow.waits(install_pb2.Install(error=needed)) == ("", None)
    assert _follow.waits(install_pb2.Install()) == ("", None)


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_on_a_terminal_the_reason_stands_above_a_bar_that_fits_and_counts_down(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in {"COLUMNS": columns, "LINES": 40, "TERM": "xterm"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("NO_COLOR", raising=False)
    message = waiting(2, 1012.0, progress=job_pb2.Progress(bytes_done=5, bytes_total=10))
    with Bar(now=lambda: 1000.0).shown() as bar:
        bar.update(_follow.standing("Install 3: downloading", message.progress, *_follow.waits(message)))
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").splitlines()
    assert BUSY in " ".join(lines)
    assert any("downloading" in line and "12 s" in line for line in lines), lines
    assert max(map(len, lines)) <= columns


def test_a_pipe_gets_a_line_for_every_tenth_and_for_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = 0.0
    bar = Bar(clock=lambda: seconds)
    for seconds, done in ((0, 0), (1, 5), (2, 9), (3, 10), (13, 19), (14, 20), (15, 21)):  # noqa: B007
        bar.update(Standing("Install 3: downloading", done * 1000, 100_000, rate=2000))
    assert capsys.readouterr().err.splitlines() == [
        "Install 3: downloading",
        "Install 3: downloading: 10 %, 10.0 kB of 100.0 kB, 2.0 kB/s",
        "Install 3: downloading: 19 %, 19.0 kB of 100.0 kB, 2.0 kB/s",
        "Install 3: downloading: 20 %, 20.0 kB of 100.0 kB, 2.0 kB/s",
    ]


@pytest.mark.parametrize("columns", range(20, 121, 4))
def test_a_bar_is_narrower_than_the_terminal_whatever_it_tells(columns: int) -> None:
    standing = Standing(
        "Install 3: downloading",
        45_000_000,
        100_000_000,
        12_300_000,
        file="模型/unet\u202e.safetensors",
        until=9.0,
    )
    line = drawn(standing, Terminal(width=columns, moves=True), 0.0)
    assert cells(line) < columns
    assert "\u202e" not in line
    assert columns < 60 or "45 %" in line


@pytest.mark.parametrize("columns", range(20, 121, 10))
def test_several_files_have_a_line_each_and_the_smallest_are_counted(columns: int) -> None:
    files = [FileStanding(f"unet/part-{n}\u202e.bin", n * 1000, n * 2000) for n in range(8)]
    standing = Standing("Download 3: running", 28_000, 56_000, files=files)
    lines = drawn_with_files(standing, Terminal(width=columns, height=24, moves=True), 0.0)
    assert max(map(cells, lines)) < columns
    assert len(lines) == 1 + 5 + 1
    if columns >= 60:
        assert [line.split("part-")[1][0] for line in lines[1:6]] == list("34567")
    assert lines[-1].startswith("  and 3 more")
    assert len(drawn_with_files(standing, Terminal(width=columns, height=6, moves=True), 0.0)) == 1 + 2 + 1


def test_what_is_drawn_over_several_lines_is_drawn_over_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in {"COLUMNS": 80, "LINES": 40, "TERM": "xterm"}.items():
        monkeypatch.setenv(name, str(value))
    files = [job_pb2.FileProgress(path=f"{n}.bin", bytes_done=n, bytes_total=10) for n in range(3)]
    moved = job_pb2.Progress(bytes_done=3, bytes_total=40, files=files)
    with Bar(now=lambda: 1000.0).shown() as bar:
        bar.update(_follow.standing("a", moved))
        assert [line.split()[0] for line in screen.lines] == ["a", "0.bin", "1.bin", "2.bin"]
        bar.update(_follow.standing("b", moved, BUSY, 1012.0))
        assert [line.split()[0] for line in screen.lines] == ["The", "b", "0.bin", "1.bin", "2.bin"]
        bar.update(_follow.standing("c", job_pb2.Progress(bytes_done=3, bytes_total=40)))
        assert [line.split()[0] for line in screen.lines] == ["The", "c"]
    assert [line for line in screen.lines if line.strip()] == [BUSY]


def test_while_the_service_is_away_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def frames() -> Generator[WatchFrame[ModelInstallJob]]:
        running = ModelInstallJob(install_pb2.Install(id=3, state=install_pb2.INSTALL_STATE_RUNNING))
        over = ModelInstallJob(install_pb2.Install(id=3, state=install_pb2.INSTALL_STATE_COMPLETED))
        yield WatchFrame([WatchEvent(id=3, put=running)], "live", True, "")
        yield WatchFrame([], "live", False, "", away_s=12.3)
        yield WatchFrame([WatchEvent(id=3, put=over)], "live", False, "")

    _follow.follow(frames(), 3, "install", lambda job: job.status.value, lambda job: job.ended)
    assert capsys.readouterr().err.splitlines() == [
        "Install 3: running",
        "Install 3: service away, trying again (12 s)",
        "Install 3: completed",
    ]


def scanning(**values: Any) -> ModelScan:
    """A scan that has registered one model of two files."""
    counts = scan_pb2.ScanCounts(file_count=2, new_count=1)
    return ModelScan(
        scan_pb2.Scan(**{"id": 5, "state": scan_pb2.SCAN_STATE_RUNNING, "counts": counts, **values})
    )


def test_a_scan_tells_why_it_waits_with_and_without_a_time_and_at_its_end_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    until = time.mktime((2026, 11, 27, 12, 30, 15, 0, 0, -1))
    paused = job_pb2.JobError(reason="WRONG_STATE", message="Install 3 of /m/\x1bink is paused.")
    bar = Bar()
    for scan in (
        scanning(),
        scanning(error=waiting(1, until).error),
        scanning(),
        scanning(error=paused),
        scanning(error=paused),
        scanning(error=paused, state=scan_pb2.SCAN_STATE_ERROR, ended=True),
    ):
        bar.update(_scans.standing(scan))
    said = "Scan 5: 2 files, 1 new"
    assert capsys.readouterr().err.splitlines() == [
        said,
        f"{said}: {BUSY} [UPSTREAM_UNAVAILABLE]; next try at 12:30:15",
        said,
        f"{said}: Install 3 of /m/\\x1bink is paused. [WRONG_STATE]",
        said,
    ]


def test_what_is_counted_is_told_by_number_and_not_as_bytes() -> None:
    terminal = Terminal(width=100)
    line = drawn(Standing("Importing", 1_200, 5_000, noun="line"), terminal, 0.0)
    assert line.startswith("Importing  ")
    assert line.endswith("24 %  1,200 of 5,000 lines")
    assert drawn(Standing("Exporting", 1, noun="model"), terminal, 0.0) == "Exporting  1 model"
