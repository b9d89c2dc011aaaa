"""Another user of the machine, and all that he tries with somebody else's suite.

``neighbour.py ORDER``: ORDER is JSON with ``tcp`` and ``sockets`` (service to address), ``data`` (the data
folder) and ``victim`` (a private file of the suite's user). Started by root; prints JSON: what was tried →
how it ended.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as download
from modelkeep.exceptions import ModelkeepError
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as install
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as record
from modelkeep.rpc import Address, decode, methods, open_channel

NOBODY = 65534


class Neighbour:
    """Tries, and notes how it ends."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.ended: dict[str, str] = {}

    def attempt(self, what: str, work: Callable[[], object]) -> None:
        """Note "worked", or the kind of the failure."""
        try:
            work()
        except ModelkeepError as error:
            self.ended[what] = error.reason
        except OSError as error:
            self.ended[what] = type(error).__name__
        else:
            self.ended[what] = "worked"

    def call(self, target: str, request: Any) -> None:
        """Call the method that a request is of."""
        method = methods()[request.DESCRIPTOR.full_name]
        answer = message_factory.GetMessageClass(method.output_type)
        path = f"/{method.containing_service.full_name}/{method.name}"
        where = Address("record", target, "the neighbour")
        with open_channel(where) as channel:
            make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
            stub = make(path, type(request).SerializeToString, answer.FromString)
            try:
                answered = stub(request, timeout=5)
                if method.server_streaming:
                    next(answered)
                    answered.cancel()
            except grpc.RpcError as error:
                raise decode(error, where) from None

    def wishes(self) -> list[Any]:
        """Requests that would read, move or delete the victim's file or the installed model."""
        victim, data = self.order["victim"], self.order["data"]
        local = download_pb2.LocalPath(path=victim)
        moved = download_pb2.LocalPath(path=victim, move=True)
        model = model_pb2.Model(
            name="n",
            type=taxonomy_pb2.MODEL_TYPE_VAE,
            format=taxonomy_pb2.MODEL_FORMAT_CHECKPOINT,
            base="sd-1",
            path=victim,
        )
        made = [
            download.CreateDownloadRequest(
                source=download_pb2.DownloadSource(local_path=place), destination=f"{data}/downloads/loot.txt"
            )
            for place in (local, moved)
        ]
        key = self.key()
        return [
            *made,
            record.CreateModelRequest(
                model=model, files=[model_pb2.ModelFile(path=os.path.basename(victim))]
            ),
            record.UpdateModelRequest(model=model_pb2.Model(key=key, path=victim)),
            record.DeleteModelRequest(key=key),
            install.ImportModelRequest(source=install_pb2.InstallSource(local_path=victim), inplace=True),
            install.ProbeModelRequest(path=victim),
            *(
                install.UninstallModelRequest(key=key, files=f"UNINSTALL_FILES_{files}")
                for files in ("KEEP", "OWNED", "ANY_ALLOWED_ROOT")
            ),
        ]

    def key(self) -> str:
        """The key of the installed model; looking is allowed."""
        where = Address("record", self.order["tcp"]["record"], "the neighbour")
        with open_channel(where) as channel:
            method: Any = channel.unary_unary(
                "/modelkeep.record.v1.RecordService/ListModels",
                record.ListModelsRequest.SerializeToString,
                record.ListModelsResponse.FromString,
            )
            return str(method(record.ListModelsRequest(), timeout=5).models[0].key)

    def run(self) -> None:
        """Everything."""
        data, victim = Path(self.order["data"]), Path(self.order["victim"])
        self.attempt("read the file", victim.read_bytes)
        self.attempt("list the data folder", lambda: list(data.iterdir()))
        for name in ("record/record.db", "install/install.db", "download/download.db", "run/suite.json"):
            self.attempt(f"read {name}", (data / name).read_bytes)
        for name in ("run/tokens/owner", "run/tokens/accepted.json", "logs/record.jsonl"):
            self.attempt(f"read {name}", (data / name).read_bytes)
        self.attempt("list the models", lambda: list((data / "models").iterdir()))
        for name, at in self.order["sockets"].items():
            path = at.removeprefix("unix:")
            with socket.socket(socket.AF_UNIX) as connection:
                self.attempt(f"connect to the socket of {name}", partial(connection.connect, path))
        wished = self.wishes()
        for number, request in enumerate(wished):
            method = methods()[request.DESCRIPTOR.full_name]
            service = method.containing_service.full_name.split(".")[1]
            for kind in ("tcp", "sockets"):
                target = self.order[kind][service]
                self.attempt(f"{number} {method.name} over {kind}", partial(self.call, target, request))
        for name, method in methods().items():
            if method.name.startswith(("Get", "BatchGet", "Find", "List", "Watch", "Wait", "Estimate")):
                continue
            service = method.containing_service.full_name.split(".")[1]
            empty = message_factory.GetMessageClass(method.input_type)()
            target = self.order["tcp"][service]
            self.attempt(f"{name} over tcp", partial(self.call, target, empty))


def main() -> None:
    """Become the other user, try, tell."""
    neighbour = Neighbour(json.loads(sys.argv[1]))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    neighbour.run()
    print(json.dumps(neighbour.ended))


if __name__ == "__main__":
    main()
