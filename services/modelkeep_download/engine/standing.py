"""How far each of several files is, as the files in a job's staging folder tell."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from modelkeep_download.domain.job import FileFacts, FileStanding, Job, JobState
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine import piece_map
from modelkeep_download.engine.ledger import Ledger

#: The ledger of a job of several files, in its staging folder.
LEDGER: Final = "whole"


def partial_of(staging: Path, number: int) -> Path:
    """The partial file of one of several."""
    return staging / f"{number}.data"


def told_of(staging: Path, number: int, ledger: Ledger) -> tuple[str, ByteRanges]:
    """Which object there is something of, and what of it; blocking."""
    if number in ledger.told:
        object_id, size = ledger.told[number]
        return object_id, ByteRanges.first(size)
    return piece_map.told(partial_of(staging, number)) or ("", ByteRanges())


def standing_of(job: Job) -> tuple[FileStanding, ...]:
    """How far each of a job's files is that is not under way; blocking."""
    facts = job.file_facts or (FileFacts(),) * len(job.spec.files)
    sizes = [
        file.size if known.bytes_total is None else known.bytes_total
        for file, known in zip(job.spec.files, facts, strict=True)
    ]
    if job.state is JobState.COMPLETED:
        done = [size or 0 for size in sizes]
    elif job.staging:
        staging = Path(job.staging)
        ledger = Ledger(staging / LEDGER)
        done = [told_of(staging, number, ledger)[1].size for number in range(len(sizes))]
    else:
        done = [0] * len(sizes)
    return tuple(
        FileStanding(file.path, there, size)
        for file, there, size in zip(job.spec.files, done, sizes, strict=True)
    )
