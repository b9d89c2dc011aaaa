"""The message of a call whose request does not stream in.

gRPC's own handlers for one message wait for it before anything of this package runs, for as long as the
caller likes, and end in silence where it never comes: such a call has no answer, and its stream and what gRPC
keeps of it stay until the connection ends. So the message is taken here, from a caller who is known, within a
time, and a call that ends without one has an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from modelkeep.exceptions import DeadlineExceededException, FieldInvalidException

from .deadline import Limiter

#: Seconds that a message may take from its call's first byte on.
ARRIVES_S = 60.0


async def message_of(context: Any, limiter: Limiter) -> bytes:
    """The message.

    Raises:
        DeadlineExceededException: It has not come in time.
        FieldInvalidException: The call ended without one.
    """
    try:
        raw = await limiter.run(context.read())
    except DeadlineExceededException:
        late = f"The call's message did not come within {limiter.limit_s:g} s."
        raise DeadlineExceededException(late, metadata={"limit_seconds": f"{limiter.limit_s:g}"}) from None
    except grpc.aio.UsageError as error:
        # The server has stopped meanwhile.
        raise asyncio.CancelledError from error
    if raw is grpc.aio.EOF:
        raise FieldInvalidException(
            "The call ended without a message: the method takes one, if an empty one."
        )
    return raw  # type: ignore[no-any-return]  # of a handler without a deserializer
