"""Install's probe and the loader read the same headers, and the safetensors library agrees."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from modelkeep import processes
from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import LARGE_HEADER_BYTES, MAX_HEADER_BYTES
from modelkeep_common.paths import AllowedRoots
from modelkeep_install.probe import read_header
from modelkeep_loader.domain.find import Finder
from support.headers import REFUSED, REFUSED_HUGE, SOUND, UNSOUND, entry, write_header

Names = dict[str, tuple[int, ...]]


def install(path: Path) -> Names:
    return dict(read_header(path))


def loader(path: Path) -> Names:
    finder = Finder(path.parent, lambda: None, AllowedRoots([path.parent], data_dir=Path("/nowhere")))
    return dict(finder.files.header(path)[0])


def library(path: Path) -> Names:
    with safe_open(path, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}


def refused(read: Callable[[Path], Names], path: Path) -> bool:
    with pytest.raises((InvalidModelException, SafetensorError)) as raised:
        read(path)
    if isinstance(error := raised.value, InvalidModelException):
        assert error.metadata["path"] == str(path)
    return len(str(error)) < 1000


@pytest.mark.parametrize("what", SOUND)
def test_a_sound_header_is_read_alike_by_both_services_and_the_library(tmp_path: Path, what: str) -> None:
    path = write_header(tmp_path / "a.safetensors", *SOUND[what])
    assert install(path) == loader(path) == library(path)


@pytest.mark.parametrize("what", UNSOUND)
def test_what_the_library_refuses_both_services_refuse(tmp_path: Path, what: str) -> None:
    path = write_header(tmp_path / "a.safetensors", *UNSOUND[what])
    assert refused(library, path)
    assert refused(install, path)
    assert refused(loader, path)


@pytest.mark.parametrize("what", [*REFUSED, *REFUSED_HUGE])
def test_what_no_model_has_both_services_refuse(tmp_path: Path, what: str) -> None:
    header, buffer_bytes = REFUSED[what] if what in REFUSED else (REFUSED_HUGE[what](), 0)
    path = write_header(tmp_path / "a.safetensors", header, buffer_bytes)
    assert refused(install, path)
    assert refused(loader, path)


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each read of a file by this process; headers are read by descriptor and place."""
    counted: list[int] = []
    pread = os.pread

    def counting(fd: int, count: int, position: int) -> bytes:
        data = pread(fd, count, position)
        counted.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counting)
    return counted


@pytest.mark.parametrize("claimed", [2**64 - 1, 2**63, 10**6, MAX_HEADER_BYTES + 1])
def test_a_length_that_lies_or_is_beyond_the_librarys_is_refused_unread(
    tmp_path: Path, bytes_read: list[int], claimed: int
) -> None:
    path = write_header(tmp_path / "a.safetensors", b"{}", 10**5, claimed=claimed)
    assert refused(install, path)
    assert refused(loader, path)
    assert refused(library, path)
    assert 0 < sum(bytes_read) < 10**4


def test_what_stays_packed_in_a_file_is_refused_by_both_before_it_is_installed(tmp_path: Path) -> None:
    path = write_header(tmp_path / "a.safetensors", entry("F4", "[8]"), 4)
    with pytest.raises(InvalidModelException, match="'a' as F4, which cannot be lent"):
        loader(path)
    with pytest.raises(InvalidModelException, match="'a' as F4, which cannot be lent"):
        read_header(path).check_lendable()


def test_the_table_has_headers_of_both_ways_to_parse() -> None:
    long = [what for what, (text, _) in (SOUND | REFUSED).items() if len(text) > LARGE_HEADER_BYTES]
    assert len(long) >= 2


def test_a_long_header_is_neither_read_nor_parsed_in_the_process_that_asks(
    tmp_path: Path, bytes_read: list[int]
) -> None:
    note = b'{"__metadata__":{"a":"' + b"x" * (MAX_HEADER_BYTES - 100) + b'"}}'
    path = write_header(tmp_path / "a.safetensors", note)
    header = read_header(path)
    assert 0 < sum(bytes_read) < 10**4
    assert header.metadata == {}, "what is longer than any note stays behind"


def test_a_process_that_breaks_down_is_told_as_what_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = processes.start

    def end_at_once(*arguments: Any, **more: Any) -> processes.Process:
        process = start(*arguments, **more)
        process.kill()
        return process

    monkeypatch.setattr(processes, "start", end_at_once)
    path = write_header(tmp_path / "a.safetensors", b'{"__metadata__":{"a":"' + b"x" * 5_000_000 + b'"}}')
    with pytest.raises(InvalidModelException, match="broke down"):
        install(path)
