"""SIGKILL of the three services while models are installed: one record, one copy, no litter."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from modelkeep.supervisor import Suite
from support.installkills import SERVICES, Kill, Served, client_of, install_through_kills, sources
from support.installs import InstallClient
from support.suite import service_suite


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Suite, list[Served]]]:
    """A suite, and the sources that it can reach."""
    with (
        sources(tmp_path_factory.mktemp("sources")) as (served, env),
        service_suite(services=SERVICES, env=env) as suite,
    ):
        yield suite, served


@pytest.fixture
async def client(stage: tuple[Suite, list[Served]]) -> AsyncIterator[InstallClient]:
    async with client_of(stage[0]) as client:
        yield client


@pytest.mark.long
@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(0, id="address", marks=pytest.mark.long),
        pytest.param(1, id="repository"),
        pytest.param(2, id="page", marks=pytest.mark.long),
    ],
)
async def test_one_install_survives_the_kill_of_each_service_in_turn(
    stage: tuple[Suite, list[Served]], client: InstallClient, kind: int
) -> None:
    suite, served = stage
    kills = [("install", 0.2), ("download", 0.2), ("record", 0.2)]
    await install_through_kills(suite, client, served[kind], kills, download_s=3)


#: All that the long test may do; .ci/run takes a share of it, chosen by a seed that it prints.
KILLS = 60


def chosen_kills() -> list[Kill]:
    """Who is killed and when, as MODELKEEP_KILL_SEED and MODELKEEP_KILL_SHARE say."""
    moments = random.Random(os.environ.get("MODELKEEP_KILL_SEED", "3"))
    share = min(1.0, max(0.0, float(os.environ.get("MODELKEEP_KILL_SHARE", "1"))))
    kills = [(moments.choice(SERVICES), moments.uniform(0, 1.5)) for _ in range(KILLS)]
    return kills[: max(1, round(share * KILLS))]


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_installs_survive_kills_at_random_moments(
    stage: tuple[Suite, list[Served]], client: InstallClient
) -> None:
    suite, served = stage
    for number, kill in enumerate(chosen_kills()):
        await install_through_kills(suite, client, served[number % len(served)], [kill], download_s=0.8)
