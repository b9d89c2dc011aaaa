"""``modelkeep demo`` as it stands: real services, real workers, real kills."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from modelkeep.demo import build_pipeline, run_demo
from modelkeep.demo._memory import has_open, read_mapping
from modelkeep.demo._run import Report
from modelkeep.exceptions import DestinationExistsException
from support.processes import processes_of

#: What must be shown, each by a line that says ok.
SHOWN = (
    r"installed in place in \d+ ms, key [0-9a-f]{32}, found to be sd-1 main diffusers",
    r"weights of both are bitwise those of from_pretrained\(torch_dtype=bfloat16\)",
    r"the loader lists 2 leases: 'demo worker 1' \(pid \d+\), 'demo worker 2' \(pid \d+\)",
    r"worker 1: 1x3x256x256 in [\d.]+ s, bitwise equal",
    r"worker 2: 1x3x256x256 in [\d.]+ s, bitwise equal",
    r"both map inode \d+, /memfd:modelkeep:\w+:AutoencoderKL, which the loader \(pid \d+\) has open",
    r"worker 1: RSS [\d.]+ MB, PSS [\d.]+ MB, half",
    r"worker 2: RSS [\d.]+ MB, PSS [\d.]+ MB, half",
    r"one copy",
    r"private to a worker: [\d,]+ and [\d,]+ bytes",
    r"worker 1 killed \(SIGKILL\): its lease was gone from ListLeases \d+ ms later",
    r"loader killed \(SIGKILL\)",
    r"worker 2 decoded again in [\d.]+ s, bitwise the same",
    r"out of the same memory",
)


def share_told_by_the_radius(image: Image.Image) -> float:
    """How much of a square picture's brightness goes by the distance from its centre; of noise 0.0005."""
    grey = torch.tensor(list(image.convert("L").tobytes()), dtype=torch.float64)
    along = torch.arange(image.width) - (image.width - 1) / 2
    ring = (along[:, None] ** 2 + along[None, :] ** 2).sqrt().div(4).long().flatten()
    sums = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add(0, ring, grey)
    means = sums / ring.bincount()
    return float(means[ring].var() / grey.var())


@pytest.mark.long  # four processes import torch, and a pipeline is built
@pytest.mark.timeout(240)
def test_the_demo_shows_all_it_says_and_leaves_nothing_but_the_picture(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every process of the demo inherits this folder's name, and every file but the picture lies in it.
    monkeypatch.setenv("TMPDIR", str(data_dir))
    monkeypatch.setattr(tempfile, "tempdir", None)
    said: list[str] = []
    picture = tmp_path / "picture.png"

    code = run_demo(picture, say=said.append)

    text = "\n".join(said)
    assert code == 0, text
    confirmed = [line for line in said if line.startswith("  ok")]
    for pattern in SHOWN:
        assert any(re.search(pattern, line) for line in confirmed), f"nothing says {pattern}:\n{text}"
    assert len(said) <= 32, text
    with Image.open(picture) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (256, 256), "RGB")
        assert share_told_by_the_radius(image) > 0.02, "the rings of the latents are lost in noise"
    assert processes_of("TMPDIR", data_dir) == []
    assert list(data_dir.iterdir()) == []
    assert list(tmp_path.iterdir()) == [picture]


def test_a_check_that_does_not_hold_is_counted_and_said() -> None:
    said: list[str] = []
    report = Report(said.append)
    report.check(1 + 1 == 2, "sums")
    report.check(1 + 1 == 3, "wonders")
    assert (report.checks, report.failures) == (2, 1)
    assert said == ["  ok  sums", "  NO  wonders"]


def test_the_memory_of_a_mapping_is_counted_as_the_kernel_counts_it() -> None:
    size = 16 * mmap.PAGESIZE
    fd = os.memfd_create("modelkeep-test")
    try:
        os.write(fd, b"x" * size)
        device, inode = os.fstat(fd).st_dev, os.fstat(fd).st_ino
        assert read_mapping(os.getpid(), device, inode).name == ""
        assert has_open(os.getpid(), device, inode)
        with mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            assert mapped[:].count(b"x") == size
            found = read_mapping(os.getpid(), device, inode)
            assert (found.name, found.rss, found.pss) == ("/memfd:modelkeep-test", size, size)
    finally:
        os.close(fd)
    assert not has_open(os.getpid(), device, inode)


def test_a_folder_that_exists_is_never_built_into(tmp_path: Path) -> None:
    with pytest.raises(DestinationExistsException, match="name a new folder"):
        build_pipeline(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--out", "No file can be written into {}/no: No such"),
        ("--build", "{}/file/no cannot be made: Not a"),
    ],
)
def test_where_nothing_can_be_written_that_is_told_at_once(tmp_path: Path, option: str, told: str) -> None:
    (tmp_path / "file").touch()
    place = {"--out": tmp_path / "no" / "p.png", "--build": tmp_path / "file" / "no"}[option]
    command = [sys.executable, "-m", "modelkeep.cli", "demo", option, str(place)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    said = (ended.stdout + ended.stderr).strip()
    assert told.format(tmp_path) in said
    assert "\n" not in said
    assert "INTERNAL" not in said


def test_importing_the_demo_imports_no_torch() -> None:
    code = "import sys, modelkeep.demo; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
