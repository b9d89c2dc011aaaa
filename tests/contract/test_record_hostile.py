"""RecordService and what a client may put into it: refused with a reason, or kept, and never a defect."""

from __future__ import annotations

import base64
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep_common import paging, tokens
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.wire import MAX_INT64
from support.failures import fails, failure_of
from support.records import KEY, record_service, vae


@pytest.fixture
async def stub(data_dir: Path) -> AsyncIterator[Any]:
    async with record_service(data_dir) as service:
        yield service


async def test_sizes_beyond_an_int64_together_are_told_as_the_largest(data_dir: Path) -> None:
    async with record_service(data_dir) as stub:
        for n in range(2):
            await stub.CreateModel(pb.CreateModelRequest(model=vae(f"m{n}", size_bytes=5)))
        # As a release without the bound on sizes may have stored them.
        with sqlite3.connect(data_dir / "record" / "record.db") as conn:
            conn.execute("UPDATE models SET size_bytes = ?", (MAX_INT64,))
        conn.close()
        info = await stub.GetStoreInfo(pb.GetStoreInfoRequest())
    assert (info.model_count, info.size_bytes) == (2, MAX_INT64)


#: Positions that no order has, though all but the last can be written into a token.
POSITIONS: list[list[Any]] = [["a"], ["a", "b", "c"], [2**63 - 1], [1.5], [1, "x"], [], [None], ["a", True]]
#: What JSON can say and a store cannot take, with the digest that a forger computes.
UNUSABLE: list[Any] = [2**70, float("inf"), float("nan"), "\ud800"]


def forged(request: pb.ListModelsRequest, position: list[Any]) -> str:
    """A page token whose digest is right: it has no key, so that anybody can make it."""
    mark = fingerprint(request, without=("page_size", "page_token"))
    fields = [paging._digest(mark, position), *position]
    return base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")


@pytest.mark.parametrize("position", [*POSITIONS, *([bad, "x"] for bad in UNUSABLE)], ids=ascii)
async def test_a_page_token_of_a_made_up_position_is_refused(stub: Any, position: list[Any]) -> None:
    for order in (pb.MODEL_ORDER_NAME, pb.MODEL_ORDER_SIZE):
        request = pb.ListModelsRequest(order=order)
        request.page_token = forged(request, position)
        if order == pb.MODEL_ORDER_SIZE and position == [1, "x"]:
            await stub.ListModels(request)  # one that a plain list could have led to
            continue
        with fails(code="INVALID_ARGUMENT", reason="PAGE_TOKEN_MISMATCH", fields=["page_token"]):
            await stub.ListModels(request)
    files = pb.ListModelFilesRequest(key=KEY)
    files.page_token = forged(files, position)  # type: ignore[arg-type]  # any request with a mark will do
    if position != ["a"]:
        with fails(code="INVALID_ARGUMENT", reason="PAGE_TOKEN_MISMATCH"):
            await stub.ListModelFiles(files)


async def resumed(stub: Any, token: str) -> str:
    """The reason with which a watch from this token ends, or "" if it begins."""
    watch = stub.WatchModels(pb.WatchModelsRequest(resume_token=token))
    try:
        await watch.read()
    except grpc.aio.AioRpcError as error:
        return failure_of(error).reason
    finally:
        watch.cancel()
    return ""


async def test_an_altered_resume_token_is_refused_as_foreign(stub: Any) -> None:
    await stub.CreateModel(pb.CreateModelRequest(model=vae()))
    token = (await stub.ListModels(pb.ListModelsRequest())).resume_token
    fields = tokens.decode(token)
    assert fields is not None
    assert await resumed(stub, token) == ""
    spelt: list[Any] = [[*fields, value] for value in (*UNUSABLE, 1, None, True, ["x"], {"a": 1})] + [
        [*fields[:3], value] for value in (-1, 2**70, 1.0, "1", True, None, 99)
    ]
    altered = [
        base64.urlsafe_b64encode(json.dumps(f, separators=(",", ":")).encode()).decode().rstrip("=")
        for f in spelt
    ]
    altered += [token + "=", token[:-1], "A" + token, token + "AAAA", " " + token, "\0", "é", "[]"]
    for bad in altered:
        assert await resumed(stub, bad) == "RESUME_TOKEN_FOREIGN", bad
    # Inside a snapshot: any text may follow, since that is a resource's id.
    assert await resumed(stub, tokens.encode([*fields, "\0" * 50])) == ""


NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "violations"),
    [
        ({"size_bytes": 2**53 + 1}, ["model.size_bytes"]),
        ({"size_bytes": -1}, ["model.size_bytes"]),
        ({"vae": {"scaling_factor": NAN}}, ["model.vae.scaling_factor"]),
        ({"vae": {"scaling_factor": float("inf")}}, ["model.vae.scaling_factor"]),
        ({"vae": {"checkpoint_config": "c" * 4097}}, ["model.vae.checkpoint_config"]),
        ({"path": "/a\0b"}, ["model.path"]),
        ({"path": "/" + "a" * 4096}, ["model.path"]),
        ({"base": "sd-1\n"}, ["model.base"]),
        ({"base": "SD 1"}, ["model.base"]),
        ({"key": "0" * 32 + "\n"}, ["model.key"]),
        ({"tags": [""]}, ["model.tags[0]"]),
        ({"tags": ["t"] * 257}, ["model.tags"]),
        ({"description": "d" * 65_537}, ["model.description"]),
        ({"compatible_bases": ["sd-2", "sd-2"]}, ["model.compatible_bases"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_record_out_of_bounds_is_refused(
    stub: Any, fields: dict[str, Any], violations: list[str]
) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=violations):
        await stub.CreateModel(pb.CreateModelRequest(model=vae(**fields)))


@pytest.mark.parametrize(
    ("files", "violations"),
    [
        ([{"path": "a"}, {"path": "a"}], ["files[1].path"]),
        ([{"path": "a/b"}, {"path": "a//b"}, {"path": "a/./b"}], ["files[1].path", "files[2].path"]),
        ([{"path": "./a"}], ["files[0].path"]),
        ([{"path": "a/"}], ["files[0].path"]),
        ([{"path": "a", "modify_time": {"seconds": 3 * 10**11}}], ["files[0].modify_time"]),
        ([{"path": "a", "modify_time": {"nanos": -1}}], ["files[0].modify_time"]),
        ([{"path": "a", "size_bytes": 2**53 + 1}], ["files[0].size_bytes"]),
        ([{"path": "a", "sha256": "0" * 64 + "\n"}], ["files[0].sha256"]),
        ([{"path": "a"}] * 20_000, [f"files[{n}].path" for n in range(1, 51)]),
        ([{"path": "a"}] * 20_001, ["files"]),
    ],
    ids=lambda value: str(value[0])[:30] if isinstance(value[0], dict) else "",
)
async def test_a_list_of_files_out_of_bounds_is_refused(
    stub: Any, files: list[dict[str, Any]], violations: list[str]
) -> None:
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID") as found:
        await stub.CreateModel(pb.CreateModelRequest(model=vae(), files=files))
    assert found[0].fields == violations[: len(found[0].fields)]


@pytest.mark.parametrize(
    "paths",
    [["a." * 100_000], ["main" + ".vae" * 50_000], ["."], [""], ["name"] * 100_000, ["x"] * 257],
    ids=lambda paths: f"{len(paths)}x{len(paths[0])}",
)
async def test_a_huge_mask_is_refused_at_once(stub: Any, paths: list[str]) -> None:
    made = (await stub.CreateModel(pb.CreateModelRequest(model=vae()))).model
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID"):
        await stub.UpdateModel(
            pb.UpdateModelRequest(model={"key": made.key, "name": "n"}, update_mask={"paths": paths}),
            timeout=10,
        )


async def test_a_nan_that_is_stored_already_makes_no_revisions(data_dir: Path) -> None:
    async with record_service(data_dir) as stub:
        made = (await stub.CreateModel(pb.CreateModelRequest(model=vae(vae={"scaling_factor": 1.5})))).model
        made.vae.scaling_factor = NAN
        # As a release that did not refuse it stored it.
        with sqlite3.connect(data_dir / "record" / "record.db") as conn:
            conn.execute("UPDATE models SET message = ?", (made.SerializeToString(),))
        conn.close()
        request = pb.UpdateModelRequest(model={"key": made.key, "name": "vae"})
        assert [(await stub.UpdateModel(request)).revision for _ in range(3)] == [1, 1, 1]


async def test_a_search_has_only_so_many_words(stub: Any) -> None:
    for text, is_fine in (("ab " * 300, True), (" ".join(f"w{n}" for n in range(17)), False)):
        request = pb.ListModelsRequest(filter={"text": text})
        if is_fine:
            assert not (await stub.ListModels(request)).models
        else:
            with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["filter.text"]):
                await stub.ListModels(request)


async def test_a_request_id_with_a_huge_body_is_answered_twice_alike(stub: Any) -> None:
    request = pb.CreateModelRequest(
        model=vae(),
        files=[{"path": f"{n}"} for n in range(20_000)],
        request_id="00000000-0000-4000-8000-000000000000",
    )
    assert await stub.CreateModel(request) == await stub.CreateModel(request)


async def failure_of_search(stub: Any) -> str:
    """The reason with which a search for two letters fails, or "" if it is quick enough."""
    try:
        await stub.ListModels(pb.ListModelsRequest(filter={"text": "zq"}))
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        assert failure.reason != "DEADLINE_EXCEEDED" or "three letters" in failure.metadata["remedy"]
        return failure.reason
    return ""


async def test_a_search_that_takes_too_long_ends_with_what_to_do(data_dir: Path) -> None:
    async with record_service(data_dir, search_seconds=0.001) as stub:
        for n in range(60):
            await stub.CreateModel(pb.CreateModelRequest(model=vae(f"m{n}", description="d" * 65_000)))
        failures = [await failure_of_search(stub) for _ in range(100)]
        # On a machine with much to do, some find no thread in time.
        assert {"DEADLINE_EXCEEDED"} <= set(failures) <= {"", "DEADLINE_EXCEEDED", "SERVER_BUSY"}
        await stub.GetStoreInfo(pb.GetStoreInfoRequest())


async def test_the_files_stay_bounded_when_small_updates_of_a_large_record_come(data_dir: Path) -> None:
    limits = {"history_bytes": 4 << 20, "kept_answers_bytes": 4 << 20}
    async with record_service(data_dir, None, **limits) as stub:
        large = vae(license="l" * 65_000, trigger_phrases=["p" * 4000] * 200)
        made = (await stub.CreateModel(pb.CreateModelRequest(model=large))).model
        for n in range(120):
            await stub.UpdateModel(
                pb.UpdateModelRequest(
                    model={"key": made.key, "name": f"n{n}"}, request_id=str(uuid.UUID(int=n, version=4))
                )
            )
        size = sum(file.stat().st_size for file in (data_dir / "record").glob("record.db*"))
    assert size < 60 << 20  # 240 MiB without the bounds
