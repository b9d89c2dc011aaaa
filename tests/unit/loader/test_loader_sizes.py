"""Sizes that no wire can carry: a sparse file announces what it likes, in hundreds of shards."""

from __future__ import annotations

import pytest

from modelkeep.exceptions import RamExhaustedException
from modelkeep_loader.convert import leases, manifests, news, residents
from modelkeep_loader.domain.components import Resident, Stage
from modelkeep_loader.domain.digests import Reading
from modelkeep_loader.domain.leases import LeaseTable
from support.kiln import MB, Kiln, plan, ram_cache, want

LARGEST = 2**63 - 1


async def test_sizes_beyond_the_wire_are_told_as_the_largest_there_is_and_refused() -> None:
    vast = plan("vast", 253 << 62)
    demand = want("lease", vast)
    assert manifests.plan_message(demand).manifests[0].file_size_bytes == LARGEST
    assert news.progress_message(demand).progress.bytes_total == LARGEST
    cache = ram_cache(Kiln(), budget_bytes=MB)
    with pytest.raises(RamExhaustedException):
        await cache.acquire(demand)
    assert news.queued_message(demand, *cache.tier.holders()).bytes_short == LARGEST
    resident = Resident(vast, Stage.QUEUED, vast.size_bytes, 0.0)
    assert residents.resident_message(resident).size_bytes == LARGEST
    table = LeaseTable(on_end=lambda lease: None)
    assert leases.lease_message(table.grant("lease", [vast], [resident])).size_bytes == LARGEST
    reading = Reading(done=253 << 62, total=253 << 62)
    assert news.reading_message([vast.ref], reading).progress.bytes_total == LARGEST
