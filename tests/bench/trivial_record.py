"""RecordService's peer: GetModel and UpdateModel answer a constant through the same interceptors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep_common.serving import Service, run
from modelkeep_record.config import RecordSettings


class TrivialApplication:
    """As small as an application can be."""

    full_names = ("modelkeep.record.v1.RecordService",)

    def __init__(self, response: pb.GetModelResponse) -> None:
        self._response = response

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        """Nothing to open, to tell or to drain."""
        yield Service(self._register, dict, functools.partial(asyncio.sleep, 0))

    def _register(self, server: grpc.aio.Server) -> None:
        """Only these two answer."""
        updated = pb.UpdateModelResponse(model=self._response.model, revision=self._response.model.revision)

        async def get_model(request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
            return self._response

        async def update_model(request: pb.UpdateModelRequest, context: Any) -> pb.UpdateModelResponse:
            return updated

        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "GetModel": grpc.unary_unary_rpc_method_handler(
                get_model,
                request_deserializer=pb.GetModelRequest.FromString,
                response_serializer=pb.GetModelResponse.SerializeToString,
            ),
            "UpdateModel": grpc.unary_unary_rpc_method_handler(
                update_model,
                request_deserializer=pb.UpdateModelRequest.FromString,
                response_serializer=pb.UpdateModelResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.full_names[0], handlers),))


def main() -> int:
    """``trivial_record.py RESPONSE_FILE PORT TOKEN_FILE``."""
    response = pb.GetModelResponse.FromString(Path(sys.argv[1]).read_bytes())
    settings = RecordSettings(port=int(sys.argv[2]), token_file=Path(sys.argv[3]))
    return run(lambda _: TrivialApplication(response), settings)


if __name__ == "__main__":
    raise SystemExit(main())
