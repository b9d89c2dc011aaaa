"""The one composed interceptor: what happens to every call, in this order.

1. **request id** (request_id.py): taken from ``x-request-id`` or made; sent back; names the call.
2. **deadline** (deadline.py): the caller's, or the server's for a unary call without one.
3. **who calls** (../auth): by the listener and the token, and whether he has a role that the method takes.
   Health takes none.
4. **admission** (admission.py): so many calls of each class at once, of everybody and of one principal, the
   rest SERVER_BUSY. Health is a class of its own: a busy server is not a dead one.
5. **validation** (validation.py): the request against the rules in its .proto.
6. **errors** (errors.py): whatever goes wrong, here or in the handler, becomes a ``google.rpc.Status``;
   the text of an unexpected exception never leaves the process.
7. **telemetry** (telemetry.py): one log line per call, with its outcome.

They are composed once per method into a single function around its handler, instead of a chain of
gRPC interceptors, because each of those costs several percent of a unary call. Requests are parsed and
responses serialised inside it too: otherwise a failure to do so would reach the client as it is.
"""

from .call import CallInfo, current_call

__all__ = ["CallInfo", "current_call"]
