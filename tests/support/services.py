"""Calls to all four services of a suite, whose import roots are one folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as download
from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceStub
from modelkeep.install.v1.install_service_pb2_grpc import InstallServiceStub
from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceStub
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as record
from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceStub
from support.suite import OwnersSuite, service_suite

URL = "http://127.0.0.1:9/file.bin"


@dataclass(frozen=True)
class Services:
    """Stubs of a suite, whose import roots are one folder."""

    suite: OwnersSuite
    #: The one folder, besides models_dir, that models may be taken from.
    allowed: Path
    record: Any
    download: Any
    install: Any
    loader: Any

    @property
    def models(self) -> Path:
        return self.suite.data_dir / "models"

    def create(self, path: Path | str, **fields: Any) -> model_pb2.Model:
        """Make a record of a VAE at a path; RecordService grants nothing by it, and takes any."""
        values = {"name": "vae", "type": "MODEL_TYPE_VAE", "format": "MODEL_FORMAT_CHECKPOINT"} | fields
        model = model_pb2.Model(path=str(path), base="sd-1", **values)
        files = [model_pb2.ModelFile(path=Path(path).name)]
        request = record.CreateModelRequest(model=model, files=files)
        created: model_pb2.Model = self.record.CreateModel(request).model
        return created

    def idle(self, name: str) -> download_pb2.Download:
        """A download that is not started."""
        request = self.to_download(destination=f"{self.suite.data_dir}/downloads/{name}")
        created: download_pb2.Download = self.download.CreateDownload(request).download
        return created

    def to_download(self, **fields: Any) -> download.CreateDownloadRequest:
        values = {
            "source": download_pb2.DownloadSource(url=URL),
            "destination": f"{self.suite.data_dir}/downloads/",
            **fields,
        }
        return download.CreateDownloadRequest(start=False, **values)


@contextlib.contextmanager
def all_services(folder: Path) -> Iterator[Services]:
    """A suite in a folder, and stubs of its services; they may import from ``folder/allowed``."""
    allowed = folder / "allowed"
    allowed.mkdir()
    env = {}
    for service in ("DOWNLOAD", "INSTALL", "LOADER"):
        env[f"MODELKEEP_{service}_ALLOW_ANY_IMPORT_ROOT"] = "false"
        env[f"MODELKEEP_{service}_IMPORT_ROOTS"] = str(allowed)
    with service_suite(folder / "data", env=env) as suite, contextlib.ExitStack() as stack:
        stubs = {
            name: stub(stack.enter_context(grpc.insecure_channel(suite.addresses[name])))
            for name, stub in (
                ("record", RecordServiceStub),
                ("download", DownloadServiceStub),
                ("install", InstallServiceStub),
                ("loader", LoaderServiceStub),
            )
        }
        yield Services(suite, allowed, **stubs)
