"""Bad input, against the four real services: each answer has its reason, and nothing is changed by it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as download
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as install
from modelkeep.loader.v1 import capacity_pb2, hold_pb2, leases_pb2, load_pb2, resident_pb2, residents_pb2
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as record
from support import modelshapes
from support.failures import refused
from support.services import URL, Services

pytestmark = pytest.mark.timeout(60)

NOBODY = "0" * 32
FORGED = 10**9


@pytest.fixture(autouse=True)
def nothing_is_left(services: Services) -> Iterator[None]:
    """Each test begins without records."""
    yield
    for model in services.record.ListModels(record.ListModelsRequest()).models:
        services.record.DeleteModel(record.DeleteModelRequest(key=model.key))


def sent(service: Services, call: str, request: Any) -> Any:
    """Make a call, ``"record.GetModel"``; a stream is read to its end."""
    name, method = call.split(".")
    answer = getattr(getattr(service, name), method)(request, timeout=20)
    return list(answer) if hasattr(answer, "__iter__") else answer


def component(key: str, **fields: Any) -> resident_pb2.ComponentRef:
    return resident_pb2.ComponentRef(key=key, **fields)


def calls_with_key(key: str) -> Mapping[str, Any]:
    """Each call that takes the key of a model."""
    return {
        "record.GetModel": record.GetModelRequest(key=key),
        "record.ListModelFiles": record.ListModelFilesRequest(key=key),
        "record.UpdateModel": record.UpdateModelRequest(model=model_pb2.Model(key=key, name="x")),
        "record.DeleteModel": record.DeleteModelRequest(key=key),
        "install.UninstallModel": install.UninstallModelRequest(key=key, files=install.UNINSTALL_FILES_OWNED),
        "loader.LoadModel": load_pb2.LoadModelRequest(components=[component(key)]),
        "loader.HoldModel": hold_pb2.HoldModelRequest(components=[component(key)]),
        "loader.AcquireLease": hold_pb2.AcquireLeaseRequest(components=[component(key)]),
    }


def calls_with_number(id: int) -> Mapping[str, Any]:
    """Each call that takes the number of a job."""
    return {
        "download.GetDownload": download.GetDownloadRequest(id=id),
        "download.StartDownload": download.StartDownloadRequest(id=id),
        "download.PauseDownload": download.PauseDownloadRequest(id=id),
        "download.CancelDownload": download.CancelDownloadRequest(id=id),
        "download.UpdateDownload": download.UpdateDownloadRequest(
            download=download_pb2.Download(id=id, priority=1)
        ),
        "install.GetInstall": install.GetInstallRequest(id=id),
        "install.CancelInstall": install.CancelInstallRequest(id=id),
    }


# -- keys and numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", calls_with_key(NOBODY))
def test_a_key_is_unknown_or_no_key_at_all(services: Services, call: str) -> None:
    with refused("UNKNOWN_MODEL") as found:
        sent(services, call, calls_with_key(NOBODY)[call])
    assert found.metadata["key"] == NOBODY
    for key in ("", "xyz", "A" * 32, "../" * 10 + "ab"):
        with refused("FIELD_INVALID") as found:
            sent(services, call, calls_with_key(key)[call])
        assert "key" in found.violations[0].field


@pytest.mark.parametrize("call", calls_with_number(FORGED))
def test_a_job_is_unknown_or_no_number_of_a_job(services: Services, call: str) -> None:
    with refused("UNKNOWN_JOB"):
        sent(services, call, calls_with_number(FORGED)[call])
    for id in (0, -1):
        with refused("FIELD_INVALID") as found:
            sent(services, call, calls_with_number(id)[call])
        assert all(violation.field.endswith("id") for violation in found.violations)


def test_a_lease_is_unknown(services: Services) -> None:
    for call, request in (
        ("loader.GetLease", leases_pb2.GetLeaseRequest(lease_id="nobody's")),
        ("loader.RenewLease", hold_pb2.RenewLeaseRequest(lease_id="nobody's", lease_secret=bytes(32))),
        ("loader.ReleaseLease", hold_pb2.ReleaseLeaseRequest(lease_id="nobody's", lease_secret=bytes(32))),
    ):
        with refused("UNKNOWN_LEASE"):
            sent(services, call, request)


# -- values ---------------------------------------------------------------------------------------------

WRONG: Any = 999
SOURCE = install_pb2.InstallSource(url=URL)
LISTED: Any = [WRONG]
WRONG_ENUMS: Mapping[str, tuple[str, Any]] = {
    "type of a record": (
        "record.CreateModel",
        record.CreateModelRequest(model=model_pb2.Model(name="x", path="/x", base="sd-1", type=WRONG)),
    ),
    "type looked for": ("record.FindModel", record.FindModelRequest(name="x", base="sd-1", type=WRONG)),
    "order": ("record.ListModels", record.ListModelsRequest(order=WRONG)),
    "view": ("record.ListModels", record.ListModelsRequest(view=WRONG)),
    "filter": ("record.ListModels", record.ListModelsRequest(filter=record.ModelFilter(types=LISTED))),
    "watch": ("record.WatchModels", record.WatchModelsRequest(filter=record.ModelFilter(formats=LISTED))),
    "state of a download": ("download.ListDownloads", download.ListDownloadsRequest(states=LISTED)),
    "state of an install": ("install.ListInstalls", install.ListInstallsRequest(states=LISTED)),
    "override": (
        "install.ImportModel",
        install.ImportModelRequest(source=SOURCE, overrides=install_pb2.ModelOverrides(type=WRONG)),
    ),
    "override of a probe": (
        "install.ProbeModel",
        install.ProbeModelRequest(path="/x", overrides=install_pb2.ModelOverrides(format=WRONG)),
    ),
    "files": ("install.UninstallModel", install.UninstallModelRequest(key=NOBODY, files=WRONG)),
    "precision": (
        "loader.LoadModel",
        load_pb2.LoadModelRequest(components=[component(NOBODY, precision=WRONG)]),
    ),
    "submodel": (
        "loader.AcquireLease",
        hold_pb2.AcquireLeaseRequest(components=[component(NOBODY, submodel=WRONG)]),
    ),
    "delivery": (
        "loader.AcquireLease",
        hold_pb2.AcquireLeaseRequest(components=[component(NOBODY)], delivery=WRONG),
    ),
    "tier": ("loader.LoadModel", load_pb2.LoadModelRequest(components=[component(NOBODY)], tier=WRONG)),
    "submodel to evict": ("loader.EvictModel", load_pb2.EvictModelRequest(key=NOBODY, submodel=WRONG)),
}


@pytest.mark.parametrize("which", WRONG_ENUMS)
def test_a_wrong_enum_is_a_bad_field(services: Services, which: str) -> None:
    with refused("FIELD_INVALID"):
        sent(services, *WRONG_ENUMS[which])


def test_an_empty_update_is_refused(services: Services) -> None:
    made, job = services.create("/a.safetensors"), services.idle("empty.bin")
    with refused("FIELD_INVALID"):
        services.record.UpdateModel(record.UpdateModelRequest(model=model_pb2.Model(key=made.key)))
    with refused("FIELD_INVALID"):
        services.record.UpdateModel(record.UpdateModelRequest())
    with refused("FIELD_INVALID"):
        services.download.UpdateDownload(download.UpdateDownloadRequest())
    with refused("FIELD_INVALID"):
        services.download.UpdateDownload(
            download.UpdateDownloadRequest(
                download=download_pb2.Download(id=job.id), update_mask=FieldMask(paths=["nonsense"])
            )
        )
    assert services.record.GetModel(record.GetModelRequest(key=made.key)).model == made
    assert services.download.GetDownload(download.GetDownloadRequest(id=job.id)).download == job


def test_an_update_of_a_download_that_names_nothing_is_refused(services: Services) -> None:
    # A priority of 0 without a mask looks like this too: it would be lost without a word.
    job = services.idle("nothing.bin")
    request = download.UpdateDownloadRequest(download=download_pb2.Download(id=job.id, priority=0))
    with refused("FIELD_INVALID"):
        services.download.UpdateDownload(request)


def test_a_page_token_of_another_query_is_refused_by_every_list(services: Services) -> None:
    made = [services.create(f"/{name}.safetensors") for name in ("a", "b")]
    for name in ("page-1.bin", "page-2.bin"):
        services.idle(name)
    models = services.record.ListModels(record.ListModelsRequest(page_size=1)).next_page_token
    downloads = services.download.ListDownloads(download.ListDownloadsRequest(page_size=1)).next_page_token
    assert models
    assert downloads
    for token in (models, downloads, "nonsense", models[:-4]):
        for call, request in (
            ("record.ListModels", record.ListModelsRequest(descending=True)),
            ("record.ListModelFiles", record.ListModelFilesRequest(key=made[0].key)),
            ("download.ListDownloads", download.ListDownloadsRequest(all_queues=True)),
            ("install.ListInstalls", install.ListInstallsRequest()),
            ("loader.ListResidents", residents_pb2.ListResidentsRequest()),
            ("loader.ListLeases", leases_pb2.ListLeasesRequest()),
        ):
            request.page_token = token
            with refused("PAGE_TOKEN_MISMATCH"):
                sent(services, call, request)


def test_a_stale_etag_changes_nothing(services: Services) -> None:
    path = modelshapes.write_safetensors(services.models / "etag" / "v.safetensors", {"x": [1]})
    made, job = services.create(path), services.idle("etag.bin")
    for call, request in (
        (
            "record.UpdateModel",
            record.UpdateModelRequest(model=model_pb2.Model(key=made.key, name="new", etag="stale")),
        ),
        ("record.DeleteModel", record.DeleteModelRequest(key=made.key, etag="stale")),
        (
            "install.UninstallModel",
            install.UninstallModelRequest(
                key=made.key, etag="stale", files=install.UNINSTALL_FILES_ANY_ALLOWED_ROOT
            ),
        ),
        (
            "download.UpdateDownload",
            download.UpdateDownloadRequest(
                download=download_pb2.Download(id=job.id, priority=1, etag="stale")
            ),
        ),
    ):
        with refused("ETAG_MISMATCH"):
            sent(services, call, request)
    assert services.record.GetModel(record.GetModelRequest(key=made.key)).model == made
    assert services.download.GetDownload(download.GetDownloadRequest(id=job.id)).download == job
    assert path.exists()


def test_a_request_id_is_not_used_for_another_request(services: Services) -> None:
    path = modelshapes.write_safetensors(services.allowed / "odd.safetensors", {"odd": [1]})
    source = install_pb2.InstallSource(local_path=str(path))
    model = model_pb2.Model(
        name="x", path="/x", base="sd-1", type="MODEL_TYPE_VAE", format="MODEL_FORMAT_DIFFUSERS"
    )
    for call, one, another in (
        (
            "record.CreateModel",
            record.CreateModelRequest(model=model),
            record.CreateModelRequest(model=model, files=[model_pb2.ModelFile(path="f")]),
        ),
        (
            "download.CreateDownload",
            services.to_download(filename="reused.bin"),
            services.to_download(filename="reused.bin", priority=3),
        ),
        (
            "install.ImportModel",
            install.ImportModelRequest(source=source),
            install.ImportModelRequest(source=source, inplace=False),
        ),
    ):
        one.request_id = another.request_id = str(uuid.uuid4())
        sent(services, call, one)
        with refused("REQUEST_ID_REUSED"):
            sent(services, call, another)
        one.request_id = "no uuid"
        with refused("FIELD_INVALID"):
            sent(services, call, one)


# -- files ----------------------------------------------------------------------------------------------


def header(entries: object, data: int = 8) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LIES: Mapping[str, bytes] = {
    "a header longer than the file": struct.pack("<Q", 1 << 20) + b"{}",
    "a header of exabytes": struct.pack("<Q", 1 << 62) + b"{}",
    "a header cut off": header({"a": TENSOR})[:20],
    "weights cut off": header({"a": TENSOR}, 7),
    "more than it says": header({"a": TENSOR}, 4096),
    "a shape that does not fit its bytes": header({"a": {**TENSOR, "shape": [3]}}),
    "a shape of exabytes": header({"a": {**TENSOR, "shape": [1 << 40, 1 << 40]}}),
    "bytes that two tensors share": header({"a": TENSOR, "b": TENSOR}),
    "bytes before the beginning": header({"a": {**TENSOR, "data_offsets": [-8, 0]}}),
    "no JSON": struct.pack("<Q", 8) + b"\xff" * 16,
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_found_by_probe_install_and_load(services: Services, lie: str) -> None:
    path = services.allowed / f"{uuid.uuid4().hex}.safetensors"
    path.write_bytes(LIES[lie])
    with refused("INVALID_MODEL"):
        services.install.ProbeModel(install.ProbeModelRequest(path=str(path)))
    job = services.install.ImportModel(
        install.ImportModelRequest(source=install_pb2.InstallSource(local_path=str(path)))
    ).install
    request = install.WaitInstallsRequest(ids=[job.id], timeout={"seconds": 10})
    ended = services.install.WaitInstalls(request).installs[0]
    assert install_pb2.InstallState.Name(ended.state) == "INSTALL_STATE_ERROR"
    assert ended.error.reason == "INVALID_MODEL"
    # A record may say anything; the loader looks for itself.
    key = services.create(path).key
    with refused("INVALID_MODEL"):
        sent(services, "loader.LoadModel", load_pb2.LoadModelRequest(components=[component(key)]))


def test_a_path_outside_the_roots_is_forbidden_also_by_a_link(services: Services, tmp_path: Path) -> None:
    outside = modelshapes.write_safetensors(tmp_path / "m.safetensors", {"x": [1]})
    link, folder = services.allowed / "link.safetensors", services.allowed / "linked"
    away = services.models / "away"
    link.symlink_to(outside)
    folder.symlink_to(tmp_path)
    away.symlink_to(tmp_path)
    for path in (outside, link, folder / outside.name, services.allowed / ".." / ".." / "etc", folder):
        source = install_pb2.InstallSource(local_path=str(path))
        with refused("FORBIDDEN_PATH"):
            services.install.ImportModel(install.ImportModelRequest(source=source))
        with refused("FORBIDDEN_PATH"):
            services.install.ProbeModel(install.ProbeModelRequest(path=str(path)))
        local = download_pb2.DownloadSource(local_path=download_pb2.LocalPath(path=str(path)))
        with refused("FORBIDDEN_PATH"):
            services.download.CreateDownload(services.to_download(source=local))
    for destination in (f"{tmp_path}/", f"{away}/", f"{services.models}/../", f"{services.allowed}/"):
        with refused("FORBIDDEN_PATH"):
            services.download.CreateDownload(services.to_download(destination=destination))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors"]


@pytest.mark.parametrize("how", ["an absolute path", "a link in models_dir", "dots"])
def test_a_record_that_points_outside_is_neither_loaded_nor_deleted(
    services: Services, tmp_path: Path, how: str
) -> None:
    victim = modelshapes.write_safetensors(tmp_path / "v.safetensors", modelshapes.table("vae.ldm"))
    link = services.models / f"{uuid.uuid4().hex}.safetensors"
    link.symlink_to(victim)
    path = {
        "an absolute path": str(victim),
        "a link in models_dir": str(link),
        "dots": f"{services.allowed}/../../../../../..{victim}",
    }[how]
    key = services.create(path).key
    with refused("FORBIDDEN_PATH"):
        sent(services, "loader.LoadModel", load_pb2.LoadModelRequest(components=[component(key)]))
    with refused("FORBIDDEN_PATH"):
        sent(services, "loader.AcquireLease", hold_pb2.AcquireLeaseRequest(components=[component(key)]))
    deletion = install.UninstallModelRequest(key=key, files=install.UNINSTALL_FILES_ANY_ALLOWED_ROOT)
    with refused("FORBIDDEN_PATH"):
        services.install.UninstallModel(deletion)
    assert services.record.GetModel(record.GetModelRequest(key=key)).model.key == key
    # Only files inside models_dir are wanted: there are none, or the record is refused for its link.
    deletion.files = install.UNINSTALL_FILES_OWNED
    with contextlib.suppress(grpc.RpcError):
        services.install.UninstallModel(deletion)
    assert victim.exists()
    assert link.is_symlink()


def test_a_wrong_ticket_gets_no_descriptor(services: Services) -> None:
    path = services.loader.GetCapacity(capacity_pb2.GetCapacityRequest()).socket_path
    assert os.stat(path).st_mode & 0o077 == 0
    for ticket in (bytes(32), os.urandom(32)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(ticket)
            answer, descriptors, _, _ = socket.recv_fds(connection, 4096, 4)
        assert answer[:1] == b"\x01"
        assert b"FORBIDDEN_TICKET" in answer or answer == b"\x01"
        assert descriptors == []
