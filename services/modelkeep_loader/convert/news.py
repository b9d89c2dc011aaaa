"""What the streams of HoldModel and LoadModel say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelkeep.loader.v1 import hold_pb2, load_pb2, resident_pb2
from modelkeep.server.v1 import job_pb2
from modelkeep_common.wire import clamped_int, field_bytes
from modelkeep_loader.convert.leases import demote_message, lease_message, revoke_message
from modelkeep_loader.convert.manifests import plan_message
from modelkeep_loader.convert.residents import resident_message
from modelkeep_loader.convert.words import STAGES, error_message, ref_message, resident_progress
from modelkeep_loader.domain.components import ComponentRef, Stage
from modelkeep_loader.domain.demand import Demand
from modelkeep_loader.domain.digests import Reading
from modelkeep_loader.domain.requests import (
    Alive,
    DemoteRequested,
    Granted,
    Identifying,
    Loaded,
    Loading,
    Lost,
    News,
    Planned,
    Queued,
    RevokeRequested,
)


def grant_bytes(socket_path: str, granted: Granted) -> bytes:
    """What a granted lease gives: a Grant as it goes over the wire, since its manifests are that already."""
    grant = hold_pb2.Grant(
        lease=lease_message(granted.lease),
        lease_secret=granted.lease.secret,
        ticket=granted.ticket,
        socket_path=socket_path if granted.ticket else "",
        paths=granted.paths,
    )
    manifests = [field_bytes(hold_pb2.Grant.MANIFESTS_FIELD_NUMBER, one) for one in granted.brief]
    return b"".join([grant.SerializeToString(), *manifests])


def acquire_response(socket_path: str, granted: Granted) -> bytes:
    """The answer of AcquireLease, as it goes over the wire."""
    number = hold_pb2.AcquireLeaseResponse.GRANT_FIELD_NUMBER
    return field_bytes(number, grant_bytes(socket_path, granted))


def promote_response(socket_path: str, granted: Granted) -> bytes:
    """The answer of PromoteLease, as it goes over the wire."""
    number = hold_pb2.PromoteLeaseResponse.GRANT_FIELD_NUMBER
    return field_bytes(number, grant_bytes(socket_path, granted))


def hold_response(socket_path: str, news: News) -> hold_pb2.HoldModelResponse | bytes:
    """What a HoldModel stream says; a grant as it goes over the wire."""
    match news:
        case Queued():
            return hold_pb2.HoldModelResponse(
                queued=queued_message(news.demand, news.holders, news.holder_count)
            )
        case Identifying() | Loading():
            return hold_pb2.HoldModelResponse(progress=_progress_of(news))
        case Granted():
            number = hold_pb2.HoldModelResponse.GRANTED_FIELD_NUMBER
            return field_bytes(number, grant_bytes(socket_path, news))
        case RevokeRequested():
            return hold_pb2.HoldModelResponse(revoke_requested=revoke_message(news.revocation))
        case DemoteRequested():
            return hold_pb2.HoldModelResponse(demote_requested=demote_message(news.asked))
        case Lost():
            return hold_pb2.HoldModelResponse(lost=hold_pb2.HoldLost(error=error_message(news.error)))
        case Alive():
            return hold_pb2.HoldModelResponse(alive=hold_pb2.HoldAlive())
        case Planned() | Loaded():
            raise AssertionError("news of LoadModel")


def load_response(context: Mapping[str, str], news: News) -> load_pb2.LoadModelResponse:
    """What a LoadModel stream says; the caller's context comes with its first and last word."""
    match news:
        case Planned():
            return load_pb2.LoadModelResponse(plan=plan_message(news.demand), context=context)
        case Queued() | Identifying() | Loading():
            return load_pb2.LoadModelResponse(progress=_progress_of(news))
        case Loaded():
            echo = context if news.is_last else None
            return load_pb2.LoadModelResponse(resident=resident_message(news.resident), context=echo)
        case Granted() | Lost() | Alive() | RevokeRequested() | DemoteRequested():
            raise AssertionError("news of HoldModel")


def _progress_of(news: Queued | Identifying | Loading) -> load_pb2.LoadProgress:
    match news:
        case Identifying():
            return reading_message(news.refs, news.reading)
        case Loading():
            return progress_message(news.demand, news.bytes_per_second)
        case Queued():
            return progress_message(news.demand)


def queued_message(demand: Demand, holders: Sequence[str], count: int) -> hold_pb2.HoldQueued:
    """A demand that waits for room."""
    return hold_pb2.HoldQueued(
        bytes_short=clamped_int(demand.bytes_short), holder_lease_ids=holders, holder_count=count
    )


def progress_message(demand: Demand, rate: int = 0) -> load_pb2.LoadProgress:
    """How far a demand is: the first of its components that is not resident yet."""
    count = len(demand.plans)
    for index, resident in enumerate(demand.residents):
        if resident.stage is not Stage.RESIDENT:
            progress = resident_progress(resident)
            progress.bytes_per_second = rate
            return load_pb2.LoadProgress(
                component=ref_message(demand.plans[index].ref),
                stage=STAGES[resident.stage],
                progress=progress,
                index=index,
                count=count,
            )
    waiting = not demand.residents
    index = 0 if waiting else count - 1
    size = clamped_int(demand.plans[0].size_bytes if waiting else demand.residents[-1].size_bytes)
    return load_pb2.LoadProgress(
        component=ref_message(demand.plans[index].ref),
        stage=resident_pb2.RESIDENT_STATE_QUEUED if waiting else resident_pb2.RESIDENT_STATE_RESIDENT,
        progress=job_pb2.Progress(bytes_done=0 if waiting else size, bytes_total=size),
        index=index,
        count=count,
    )


def reading_message(refs: Sequence[ComponentRef], reading: Reading) -> load_pb2.LoadProgress:
    """How far files are read to know what they are."""
    return load_pb2.LoadProgress(
        component=ref_message(refs[0]),
        stage=resident_pb2.RESIDENT_STATE_READING,
        progress=job_pb2.Progress(
            bytes_done=clamped_int(reading.done), bytes_total=clamped_int(reading.total) or None
        ),
        count=len(refs),
    )
