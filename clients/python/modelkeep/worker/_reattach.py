"""A lease is taken up again at a loader that was away: killed and started anew, or out of reach for a while.

What this process maps is never touched. The lease only says that the loader counts on it again, so it must be
one on the very memory that is mapped.
"""

from __future__ import annotations

import os

import grpc

from modelkeep.exceptions import LeaseRevokedException, UnknownLeaseException
from modelkeep.loader.v1 import hold_pb2, resident_pb2, residents_pb2
from modelkeep.messages import made
from modelkeep.worker._binding import Binding, Lender

#: Seconds that a loader may take to answer who wants his lease back, for which it has nothing to load.
_PATIENCE_S = 10.0


def take_up(lender: Lender, request: hold_pb2.HoldModelRequest, before: Binding) -> Binding:
    """Take a lease up again; where it has ended meanwhile, a new one on the same memory.

    Args:
        lender: The loader.
        request: With which the lease was asked for.
        before: What kept it until now. It is left as it is.

    Returns:
        What keeps it from now on. The process is known to the loader again.

    Raises:
        UnknownLeaseException: The lease is gone, and the loader does not have its memory any more.
        LeaseRevokedException: Somebody ended it.
        ModelkeepError: Whatever else the loader answers, and that it does not.
    """
    again = hold_pb2.HoldModelRequest()
    again.CopyFrom(request)
    again.lease_id, again.lease_secret = before.grant.lease.id, before.grant.lease_secret
    try:
        return _on_same_memory(lender, again, before)
    except LeaseRevokedException:
        raise
    except UnknownLeaseException:
        if not _are_there(lender, before.grant):
            raise
    again.ClearField("lease_id")
    again.ClearField("lease_secret")
    again.ClearField("max_wait")  # it is there, or of no use
    return _on_same_memory(lender, again, before)


def _on_same_memory(lender: Lender, request: hold_pb2.HoldModelRequest, before: Binding) -> Binding:
    found, descriptors = lender.bind(request, _PATIENCE_S)
    for descriptor in descriptors:
        os.close(descriptor)  # what is mapped is the same
    if not before.memory:  # it is demoted
        return found.without_memory()
    if found.memory == before.memory:
        return found
    lender.release(found.grant)
    found.close()
    raise UnknownLeaseException(
        f"The loader has the components of the lease {before.grant.lease.id} in other memory now.",
        metadata={"lease_id": before.grant.lease.id},
    )


def _are_there(lender: Lender, grant: hold_pb2.Grant) -> bool:
    """Whether the loader has the components of a lease: a new one must not make it load them."""
    wanted = {manifest.resident_id for manifest in grant.manifests}
    for key in {manifest.component.key for manifest in grant.manifests}:
        request = made(residents_pb2.ListResidentsRequest, key=key)
        while True:
            try:
                page = lender.stub.ListResidents(request)
            except grpc.RpcError as error:
                raise lender.decode(error) from None
            wanted -= {
                resident.id
                for resident in page.residents
                if resident.state == resident_pb2.RESIDENT_STATE_RESIDENT
            }
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    return not wanted
