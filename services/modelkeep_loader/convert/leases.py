"""Leases, their journal, and a loader that is taken out of service, as messages."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from modelkeep.loader.v1 import hold_pb2, leases_pb2, resident_pb2
from modelkeep.server.v1 import watch_pb2
from modelkeep_common.watch import Frame
from modelkeep_common.wire import clamped_int, to_timestamp
from modelkeep_loader.convert.words import ref_message
from modelkeep_loader.domain.lease import DemotionAsked, Lease, LeaseChange, LeaseEnd, LeaseState, Revocation
from modelkeep_loader.domain.outage import Remaining

_STATES = {
    LeaseState.ACTIVE: resident_pb2.LEASE_STATE_ACTIVE,
    LeaseState.DETACHED: resident_pb2.LEASE_STATE_DETACHED,
    LeaseState.REVOKING: resident_pb2.LEASE_STATE_REVOKING,
    LeaseState.ENDED: resident_pb2.LEASE_STATE_ENDED,
}
_CHANGES = {
    LeaseChange.GRANTED: resident_pb2.LEASE_CHANGE_GRANTED,
    LeaseChange.STREAM_OPENED: resident_pb2.LEASE_CHANGE_STREAM_OPENED,
    LeaseChange.CONNECTED: resident_pb2.LEASE_CHANGE_CONNECTED,
    LeaseChange.RENEWED: resident_pb2.LEASE_CHANGE_RENEWED,
    LeaseChange.UNBOUND: resident_pb2.LEASE_CHANGE_UNBOUND,
    LeaseChange.DETACHED: resident_pb2.LEASE_CHANGE_DETACHED,
    LeaseChange.TAKEN_UP: resident_pb2.LEASE_CHANGE_TAKEN_UP,
    LeaseChange.REVOKE_REQUESTED: resident_pb2.LEASE_CHANGE_REVOKE_REQUESTED,
    LeaseChange.ENDED: resident_pb2.LEASE_CHANGE_ENDED,
    LeaseChange.READOPTED: resident_pb2.LEASE_CHANGE_READOPTED,
    LeaseChange.DEMOTED: resident_pb2.LEASE_CHANGE_DEMOTED,
    LeaseChange.PROMOTED: resident_pb2.LEASE_CHANGE_PROMOTED,
}
_ENDS = {
    LeaseEnd.RELEASED: resident_pb2.LEASE_END_RELEASED,
    LeaseEnd.EXPIRED: resident_pb2.LEASE_END_EXPIRED,
    LeaseEnd.DETACHED: resident_pb2.LEASE_END_DETACHED,
    LeaseEnd.HOLDER_DIED: resident_pb2.LEASE_END_HOLDER_DIED,
    LeaseEnd.REVOKED: resident_pb2.LEASE_END_REVOKED,
    LeaseEnd.DRAINED: resident_pb2.LEASE_END_DRAINED,
    LeaseEnd.DEVICE_LOST: resident_pb2.LEASE_END_DEVICE_LOST,
}
#: The part of a lease that never changes; made once, for every entry of the journal has it.
_fixed: WeakKeyDictionary[Lease, resident_pb2.Lease] = WeakKeyDictionary()


def lease_message(lease: Lease) -> resident_pb2.Lease:
    """A lease, without its secret."""
    message = resident_pb2.Lease()
    message.CopyFrom(_fixed_part(lease))
    message.state = _STATES[lease.state]
    message.holder.pid = lease.pid
    message.stream_bound = bool(lease.streams)
    message.descriptor_connections = len(lease.connections)
    message.size_bytes = clamped_int(lease.size_bytes)
    message.vram_bytes = clamped_int(lease.vram_bytes)
    message.demoted = lease.demoted and lease.end is None
    message.last_change = _CHANGES[lease.last_change]
    message.last_change_time.CopyFrom(to_timestamp(lease.last_change_time))
    if lease.end is None:
        message.activation_bytes = 0 if lease.demoted else lease.activation_bytes
    else:
        message.end = _ENDS[lease.end]
        message.end_message = lease.end_message
    if lease.uid is not None:
        message.holder.uid = lease.uid
    if lease.expires_at is not None and lease.expire_time is not None:
        message.expire_time.CopyFrom(to_timestamp(lease.expire_time))
    if lease.revocation is not None:
        message.revoke_deadline_time.CopyFrom(to_timestamp(lease.revocation.deadline_time))
        message.end_message = message.end_message or lease.revocation.why
    return message


def _fixed_part(lease: Lease) -> resident_pb2.Lease:
    if (kept := _fixed.get(lease)) is None:
        kept = _fixed[lease] = resident_pb2.Lease(
            id=lease.id,
            components=map(ref_message, lease.refs),
            resident_ids=lease.resident_ids,
            holder=resident_pb2.Holder(label=lease.label, principal=lease.principal),
            create_time=to_timestamp(lease.create_time),
            display_names=lease.display_names,
            labels=lease.labels,
        )
    return kept


def revoke_message(revocation: Revocation) -> hold_pb2.HoldRevokeRequested:
    """A lease is asked back."""
    return hold_pb2.HoldRevokeRequested(
        why=revocation.why, deadline_time=to_timestamp(revocation.deadline_time)
    )


def demote_message(asked: DemotionAsked) -> hold_pb2.HoldDemoteRequested:
    """Somebody waits for what a lease keeps on an accelerator."""
    return hold_pb2.HoldDemoteRequested(why=asked.why, deadline_time=to_timestamp(asked.deadline_time))


def watch_response(frame: Frame[resident_pb2.Lease]) -> leases_pb2.WatchLeasesResponse:
    """A frame of the watch."""
    response = leases_pb2.WatchLeasesResponse(
        phase=watch_pb2.WATCH_PHASE_SNAPSHOT if frame.phase == "SNAPSHOT" else watch_pb2.WATCH_PHASE_LIVE,
        snapshot_complete=frame.snapshot_complete,
        resume_token=frame.resume_token,
    )
    for event in frame.events:
        message = response.events.add(revision=event.revision)
        if event.removed or event.put is None:
            message.removed_id = event.resource_id
        else:
            message.put.CopyFrom(event.put)
    return response


def drain_response(left: Remaining) -> leases_pb2.DrainResponse:
    """What is still held."""
    return leases_pb2.DrainResponse(
        lease_count=left.lease_count,
        lease_ids=left.lease_ids,
        leased_bytes=clamped_int(left.leased_bytes),
        done=left.done,
    )
