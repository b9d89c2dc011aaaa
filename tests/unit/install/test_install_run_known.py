"""The run of an install of what is installed already, interrupted at every write."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from modelkeep_install.domain.jobs import Reuse, State
from modelkeep_install.domain.ports import RecordFile, StoredModel
from modelkeep_install.hashing import sampled_hash
from support.faketime import run
from support.installrun import URL, Bench, on_bench
from support.installs import small_lora

OTHER = "cd" * 16


def have(bench: Bench, source: str) -> Path:
    """A model of the very content, which an earlier install made."""
    home = small_lora(bench.models / OTHER / "style.safetensors")
    digest = hashlib.sha256(bench.content).hexdigest()
    file = RecordFile(home.name, home.stat().st_size, home.stat().st_mtime, sha256=digest)
    path = str(home.relative_to(bench.models))
    record = StoredModel(
        OTHER, "e", path, "root", b"the other record", source=source, original_hash=sampled_hash(home)
    )
    bench.records.earlier[OTHER] = (record, [file])
    return home


def check_ended_with_the_other(bench: Bench, home: Path) -> None:
    assert (bench.job.state, bench.job.error, bench.job.known_key) == (State.COMPLETED, None, OTHER)
    assert (bench.store.record, bench.job.local_path) == (b"the other record", str(home))
    assert (bench.records.made, bench.store.digests) == ({}, None)
    assert home.read_bytes() == bench.content
    assert bench.source.read_bytes() == bench.content


@pytest.mark.parametrize("how", ["drain", "kill before", "kill after"])
@pytest.mark.parametrize("kind", ["in place", "copy", "url", "hub"])
def test_the_same_content_ends_the_job_and_leaves_one_copy_wherever_it_is_stopped(
    tmp_path: Path, kind: str, how: str
) -> None:
    async def story(at: int) -> int:
        bench = Bench(tmp_path / str(at), kind, reuse=Reuse.SAME_CONTENT)
        home = have(bench, "elsewhere")
        await bench.interrupt(how, at)
        reached = len(bench.store.writes)
        if bench.job.state.final:
            shutil.rmtree(bench.roots.staging(1), ignore_errors=True)  # as the next start does
        else:
            await bench.finish()
        check_ended_with_the_other(bench, home)
        assert bench.files() == [home]
        return reached

    for at in range(1, 100):
        if run(story(at)) < at - (how == "kill before"):
            break
    assert at > 3


def test_an_address_that_is_installed_is_neither_ordered_nor_probed(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        home = have(bench, URL)
        await bench.finish()
        check_ended_with_the_other(bench, home)
        assert (bench.downloads.orders, bench.job.probe) == ({}, None)

    on_bench(tmp_path, "url", story)


def test_a_cancel_of_what_turns_out_to_be_installed_leaves_the_other_model_alone(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        home = have(bench, "elsewhere")
        await bench.interrupt("cancel", 3)
        assert bench.job.state is State.CANCELLED
        assert bench.files() == [home]

    on_bench(tmp_path, "copy", story, reuse=Reuse.SAME_CONTENT)
