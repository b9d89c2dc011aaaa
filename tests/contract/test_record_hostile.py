"""RecordService and what a client may put into it: refused with a reason, or kept, and never a defect."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep_common import paging, tokens
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.wire import MAX_INT64
from support.records import KEY, fails, failure_of, record_service, vae


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
