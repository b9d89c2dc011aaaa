"""RecordService over a real channel: lists, filters, orders, pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from support.failures import fails
from support.records import record_service, vae
from support.recordstores import Kind

MAIN = taxonomy_pb2.MODEL_TYPE_MAIN
VAE = taxonomy_pb2.MODEL_TYPE_VAE
DIFFUSERS = taxonomy_pb2.MODEL_FORMAT_DIFFUSERS
CHECKPOINT = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT

RECORDS = [
    vae(
        "Alpha",
        tags=["sfw", "scenery"],
        compatible_bases=["sd-2"],
        size_bytes=30,
        source="org/alpha",
        original_hash="h1",
        current_hash="h2",
        description="Blurry Ünïcode décor",
    ),
    vae("beta", base="sdxl", tags=["sfw"], size_bytes=10, trigger_phrases=["magic word"]),
    vae("gamma", base="any", size_bytes=20, path="rel/gamma", root_id="root-1"),
    vae(
        "delta", type=MAIN, base="sd-1", format=CHECKPOINT, size_bytes=40, path="rel/delta", root_id="root-2"
    ),
    vae("Alpha", path="/models/second", base="flux", size_bytes=30),
]


@pytest.fixture
async def stub(data_dir: Path, kind: Kind) -> AsyncIterator[Any]:
    async with record_service(data_dir, kind) as service:
        for model in RECORDS:
            file = model_pb2.ModelFile(path="w", sha256=f"{len(model.name):02x}" * 32, blake3="ee" * 32)
            await service.CreateModel(pb.CreateModelRequest(model=model, files=[file]))
        yield service


async def listed(stub: Any, filter: pb.ModelFilter | None = None, **fields: Any) -> list[model_pb2.Model]:
    """All pages, of two records each."""
    found: list[model_pb2.Model] = []
    token = ""
    while True:
        page = await stub.ListModels(
            pb.ListModelsRequest(filter=filter, page_size=2, page_token=token, **fields)
        )
        assert len(page.models) <= 2
        assert bool(page.resume_token) == (token == "")
        found += page.models
        token = page.next_page_token
        if not token:
            return found


def paths(models: list[model_pb2.Model]) -> list[str]:
    return [model.path.rpartition("/")[2] for model in models]


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, {"Alpha", "beta", "gamma", "delta", "second"}),
        ({"name": "Alpha"}, {"Alpha", "second"}),
        ({"name": "alpha"}, set()),
        ({"bases": ["sd-2"]}, {"Alpha", "gamma"}),
        ({"bases": ["sdxl", "flux"]}, {"beta", "second", "gamma"}),
        ({"bases": ["any"]}, {"gamma"}),
        ({"types": [MAIN]}, {"delta"}),
        ({"types": [MAIN, VAE], "formats": [DIFFUSERS]}, {"Alpha", "beta", "gamma", "second"}),
        ({"tags": ["sfw"]}, {"Alpha", "beta"}),
        ({"tags": ["sfw", "scenery"]}, {"Alpha"}),
        ({"tags": ["sf"]}, set()),
        ({"paths": ["/models/beta", "rel/gamma"]}, {"beta", "gamma"}),
        ({"paths": ["/models/beta", "rel/gamma", "rel/delta"], "root_id": "root-1"}, {"beta", "gamma"}),
        ({"root_id": "root-2"}, {"delta"}),
        ({"hash": "h1"}, {"Alpha"}),
        ({"hash": "h2"}, {"Alpha"}),
        ({"hash": "04" * 32}, {"beta"}),
        ({"hash": "ee" * 32, "types": [MAIN]}, {"delta"}),
        ({"source": "org/alpha"}, {"Alpha"}),
        ({"text": "ALPHA"}, {"Alpha", "second"}),
        ({"text": "alph unicode"}, set()),
        ({"text": "ünÏCODE blur"}, {"Alpha"}),
        ({"text": "MAGIC"}, {"beta"}),
        ({"text": "ta"}, {"beta", "delta"}),
        ({"text": 'quo"te'}, set()),
        ({"text": "scenery", "bases": ["sd-1"]}, {"Alpha"}),
        ({"name": "Alpha", "bases": ["sdxl"]}, set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
async def test_a_list_holds_what_all_filters_let_through(
    stub: Any, filter: dict[str, Any], expected: set[str]
) -> None:
    found = await listed(stub, pb.ModelFilter(**filter))
    assert sorted(paths(found)) == sorted(expected)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (pb.MODEL_ORDER_UNSPECIFIED, None),
        (pb.MODEL_ORDER_NAME, None),
        (pb.MODEL_ORDER_TYPE, ["delta", "gamma", "second", "Alpha", "beta"]),
        (pb.MODEL_ORDER_SIZE, None),
        (pb.MODEL_ORDER_CREATE_TIME, ["Alpha", "beta", "gamma", "delta", "second"]),
        (pb.MODEL_ORDER_UPDATE_TIME, ["Alpha", "beta", "gamma", "delta", "second"]),
        (pb.MODEL_ORDER_PATH, ["Alpha", "beta", "second", "delta", "gamma"]),
    ],
)
async def test_pages_follow_the_order_both_ways(stub: Any, order: int, expected: list[str] | None) -> None:
    everything = await listed(stub, order=order)
    assert len({model.key for model in everything}) == 5
    if expected is not None:
        assert paths(everything) == expected
    elif order == pb.MODEL_ORDER_SIZE:
        assert [model.size_bytes for model in everything] == [10, 20, 30, 30, 40]
    else:
        assert [model.name for model in everything] == ["Alpha", "Alpha", "beta", "delta", "gamma"]
    assert await listed(stub, order=order, descending=True) == everything[::-1]


async def test_a_record_that_is_added_or_deleted_between_pages_shifts_nothing(stub: Any) -> None:
    first = await stub.ListModels(pb.ListModelsRequest(page_size=2))
    await stub.DeleteModel(pb.DeleteModelRequest(key=first.models[0].key))
    await stub.CreateModel(pb.CreateModelRequest(model=vae("AA")))
    rest = await stub.ListModels(pb.ListModelsRequest(page_token=first.next_page_token))
    assert [model.name for model in rest.models] == ["beta", "delta", "gamma"]


async def test_a_token_of_another_query_or_none_at_all_is_refused(stub: Any) -> None:
    page = await stub.ListModels(pb.ListModelsRequest(page_size=2))
    for request in (
        pb.ListModelsRequest(page_token=page.next_page_token, descending=True),
        pb.ListModelsRequest(page_token=page.next_page_token, filter=pb.ModelFilter(name="Alpha")),
        pb.ListModelsRequest(page_token="nonsense"),
    ):
        with fails(code="INVALID_ARGUMENT", reason="PAGE_TOKEN_MISMATCH", fields=["page_token"]):
            await stub.ListModels(request)
    other = await stub.ListModels(pb.ListModelsRequest(page_token=page.next_page_token, page_size=1))
    assert len(other.models) == 1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListModelsRequest(page_size=-1), "page_size"),
        (pb.ListModelsRequest(view=9), "view"),  # type: ignore[arg-type]  # an open enum
        (pb.ListModelsRequest(order=9), "order"),  # type: ignore[arg-type]  # an open enum
        (pb.ListModelsRequest(filter=pb.ModelFilter(types=[999])), "filter.types[0]"),  # type: ignore[list-item]  # an open enum
        (pb.ListModelsRequest(filter=pb.ModelFilter(name="x" * 513)), "filter.name"),
    ],
)
async def test_a_bad_list_request_names_the_field(
    stub: Any, request_: pb.ListModelsRequest, field: str
) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=[field]):
        await stub.ListModels(request_)


async def test_the_basic_view_leaves_the_long_fields_out(stub: Any) -> None:
    full = await listed(stub, view=pb.MODEL_VIEW_FULL)
    basic = await listed(stub, view=pb.MODEL_VIEW_BASIC)
    assert await listed(stub) == basic
    for whole, part in zip(full, basic, strict=True):
        assert (part.key, part.etag, part.name, part.revision) == (
            whole.key,
            whole.etag,
            whole.name,
            whole.revision,
        )
        assert (part.type, part.format, part.base, part.path) == (
            whole.type,
            whole.format,
            whole.base,
            whole.path,
        )
        assert part.update_time == whole.update_time
        assert list(part.tags) == list(whole.tags)
        long = (part.description, part.source, part.original_hash, list(part.trigger_phrases))
        assert long == ("", "", "", [])
        assert part.WhichOneof("config") is None


async def test_a_page_ends_before_the_message_limit(stub: Any) -> None:
    for number in range(60):
        await stub.CreateModel(
            pb.CreateModelRequest(model=vae(f"big{number:02}", license="x" * 65_000, tags=["big"]))
        )
    filter = pb.ModelFilter(tags=["big"])
    page = await stub.ListModels(pb.ListModelsRequest(filter=filter, page_size=1000))
    assert 0 < len(page.models) < 60
    assert page.ByteSize() < 3 << 20
    rest = await stub.ListModels(
        pb.ListModelsRequest(filter=filter, page_size=1000, page_token=page.next_page_token)
    )
    assert [model.name for model in (*page.models, *rest.models)] == [f"big{n:02}" for n in range(60)]


async def test_a_search_for_a_nul_character_finds_nothing_and_breaks_nothing(stub: Any) -> None:
    assert await listed(stub, pb.ModelFilter(text="alp\0zzz")) == []
    assert len(await listed(stub, pb.ModelFilter(text="Alpha\0"))) == 2


async def test_the_longest_path_there_may_be_fits_into_a_page_token(data_dir: Path) -> None:
    async with record_service(data_dir) as stub:
        for end in "abc":
            await stub.CreateModel(pb.CreateModelRequest(model=vae("long", path="語" * 4095 + end)))
        found = await listed(stub, order=pb.MODEL_ORDER_PATH)
        assert [model.path[-1] for model in found[:3]] == ["a", "b", "c"]
