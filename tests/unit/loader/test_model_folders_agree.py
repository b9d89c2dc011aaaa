"""Folders with odd things in the place of files: probe and loader refuse them and wait for nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.exceptions import InvalidModelException, ModelkeepError
from modelkeep.headers import MAX_TENSORS, Allowance, read_header
from modelkeep_install.probe import probe
from modelkeep_loader.domain.plan import Planner
from support.headers import EMPTY, entry, write_header
from support.plans import KEY, Shelf, pipeline, plan, record

WEIGHTS = "diffusion_pytorch_model.safetensors"


def _socket(path: Path) -> None:
    # bound by a short name: those of sockets end at 107 bytes
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


ODD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: None,
    "no bytes": Path.touch,
}


def is_known(path: Path) -> bool:
    try:
        return probe(path).type != "unknown"
    except ModelkeepError:
        return False


@pytest.mark.parametrize("file", ["config.json", WEIGHTS])
@pytest.mark.parametrize("what", ODD)
def test_what_is_no_file_is_refused_by_both(planner: Planner, shelf: Shelf, what: str, file: str) -> None:
    vae = pipeline(shelf.models / "one") / "vae"
    (vae / file).unlink()
    ODD[what](vae / file)
    shelf.records[KEY] = record(str(vae), type="vae")
    with pytest.raises(ModelkeepError):
        asyncio.run(plan(planner, ""))
    assert not is_known(vae)


@pytest.mark.parametrize("name", ["x" * 300, "y/" * 2500 + "z"])
def test_a_name_that_no_file_can_have_is_not_there(planner: Planner, shelf: Shelf, name: str) -> None:
    shelf.records[KEY] = record(name, type="vae")
    shelf.listed[KEY] = {}
    with pytest.raises(ModelkeepError):
        asyncio.run(plan(planner, ""))
    with pytest.raises(ModelkeepError):
        probe(shelf.models / name)


def test_the_headers_of_all_files_of_a_model_have_one_bound(tmp_path: Path) -> None:
    count = MAX_TENSORS // 2
    text = b"{" + b",".join(b'"t%d":%b' % (n, EMPTY) for n in range(count)) + b"}"
    path = write_header(tmp_path / "a.safetensors", text)
    left = Allowance()
    with path.open("rb") as file:
        read_header(file.fileno(), path, allowance=left)
        read_header(file.fileno(), path, allowance=left)
        assert left.tensors == 0
        small = write_header(tmp_path / "b.safetensors", entry(), 4)
        with small.open("rb") as one, pytest.raises(InvalidModelException, match="has more than the 131,072"):
            read_header(one.fileno(), small, allowance=left)
        left.header_bytes = 1000
        with pytest.raises(InvalidModelException, match="of other files, more than"):
            read_header(file.fileno(), path, allowance=left)


def test_a_folder_of_many_long_headers_is_refused_before_all_are_read(planner: Planner, shelf: Shelf) -> None:
    folder = pipeline(shelf.models / "one")
    text = b"{" + b",".join(b'"t%d":%b' % (n, EMPTY) for n in range(30_000)) + b"}"
    for number in range(1, 8):
        write_header(folder / "unet" / f"{number}.safetensors", text)
    with pytest.raises(InvalidModelException, match="tensors allowed"):
        probe(folder)
