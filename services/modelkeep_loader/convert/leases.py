"""Leases, their journal, and a loader that is taken out of service, as messages."""

from __future__ import annotations

from modelkeep.loader.v1 import hold_pb2, leases_pb2, resident_pb2
from modelkeep.server.v1 import watch_pb2
from modelkeep_common.watch import Frame
from modelkeep_common.wire import clamped_int, to_timestamp
from modelkeep_loader.convert.words import ref_message
from modelkeep_loader.domain.lease import Lease, Revocation
from modelkeep_loader.domain.outage import Remaining


def lease_message(lease: Lease) -> resident_pb2.Lease:
    """A lease, without its secret."""
    message = resident_pb2.Lease(
        id=lease.id,
        state=f"LEASE_STATE_{lease.state.name}",
        components=map(ref_message, lease.refs),
        resident_ids=lease.resident_ids,
        holder=resident_pb2.Holder(pid=lease.pid, label=lease.label, principal=lease.principal),
        create_time=to_timestamp(lease.create_time),
        stream_bound=bool(lease.streams),
        descriptor_connections=len(lease.connections),
        size_bytes=clamped_int(lease.size_bytes),
        end=f"LEASE_END_{lease.end.name}" if lease.end is not None else None,
        end_message=lease.end_message,
        display_names=lease.display_names,
        activation_bytes=lease.activation_bytes if lease.end is None else 0,
        labels=lease.labels,
        last_change=f"LEASE_CHANGE_{lease.last_change.name}",
        last_change_time=to_timestamp(lease.last_change_time),
    )
    if lease.uid is not None:
        message.holder.uid = lease.uid
    if lease.expires_at is not None and lease.expire_time is not None:
        message.expire_time.CopyFrom(to_timestamp(lease.expire_time))
    if lease.revocation is not None:
        message.revoke_deadline_time.CopyFrom(to_timestamp(lease.revocation.deadline_time))
        message.end_message = message.end_message or lease.revocation.why
    return message


def revoke_message(revocation: Revocation) -> hold_pb2.HoldRevokeRequested:
    """A lease is asked back."""
    return hold_pb2.HoldRevokeRequested(
        why=revocation.why, deadline_time=to_timestamp(revocation.deadline_time)
    )


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
