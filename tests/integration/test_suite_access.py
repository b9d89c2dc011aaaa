"""Who may do what with a suite that was started with its defaults, or with the choices that `up` offers."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelkeep.client import Client, find_addresses, find_token
from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as download
from modelkeep.download.v1.download_service_pb2_grpc import DownloadServiceStub
from modelkeep.exceptions import (
    CredentialsInvalidException,
    CredentialsMissingException,
    ModelkeepError,
    RoleRequiredException,
)
from modelkeep.record.v1 import record_service_pb2 as record
from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceStub
from modelkeep.rpc import Address, TokenFile, decode, open_channel
from modelkeep.supervisor import Suite
from support.installs import small_lora

pytestmark = pytest.mark.timeout(120)

NEIGHBOUR = Path(__file__).parents[1] / "support" / "neighbour.py"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that other users may look into: only the modes of what the suite makes protect it."""
    made = Path(tempfile.mkdtemp(prefix="mk-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def suite(folder: Path) -> Iterator[Suite]:
    """A suite as `modelkeep up` starts it, which has installed something."""
    (folder / "data").mkdir(0o755)
    before = os.umask(0o022)
    try:
        with Suite(folder / "data") as started, Client(data_dir=folder / "data") as client:
            client.model_install.import_model(small_lora(folder / "a.safetensors"), inplace=False)
            client.model_install.wait_for_installs(timeout=30)
            yield started
    finally:
        os.umask(before)


def refusal(address: str, stub: Any, method: str, request: Any, metadata: Any = ()) -> ModelkeepError | None:
    """What a call over TCP is refused with."""
    where = Address("record", address, "the test")
    with open_channel(where) as channel:
        try:
            getattr(stub(channel), method)(request, metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return decode(error, where)
    return None


def test_the_owner_is_found_by_the_socket_and_may_do_everything(suite: Suite) -> None:
    found = find_addresses(data_dir=suite.data_dir)
    assert {name: at.target for name, at in found.items()} == suite.sockets
    with Client(data_dir=suite.data_dir) as client:
        (model,) = client.model_record_store.all_models()
        client.model_record_store.update_model(model.key, {"description": "by its owner"})


def test_without_a_token_a_caller_over_tcp_may_look_and_nothing_else(suite: Suite, folder: Path) -> None:
    at = suite.addresses
    assert refusal(at["record"], RecordServiceStub, "ListModels", record.ListModelsRequest()) is None
    source = download_pb2.DownloadSource(
        local_path=download_pb2.LocalPath(path=str(folder / "a.safetensors"))
    )
    asked = download.CreateDownloadRequest(source=source, destination=f"{suite.data_dir}/downloads/")
    error = refusal(at["download"], DownloadServiceStub, "CreateDownload", asked)
    assert isinstance(error, RoleRequiredException)
    assert error.metadata["principal"] == "anonymous"
    assert "modelkeep token" in error.message


def test_the_token_that_the_command_prints_is_the_owners(suite: Suite) -> None:
    header = (("authorization", f"Bearer {find_token(suite.data_dir)}"),)
    for metadata, raised in ((header, None), ((("authorization", "Bearer x"),), CredentialsInvalidException)):
        request = download.PruneDownloadsRequest()
        error = refusal(suite.addresses["download"], DownloadServiceStub, "PruneDownloads", request, metadata)
        assert (type(error) if error else None) is raised


def test_a_client_that_cannot_reach_the_socket_shows_the_owners_token(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(".sock"))
    found = find_addresses(data_dir=suite.data_dir)
    assert {name: at.target for name, at in found.items()} == suite.addresses
    with Client(data_dir=suite.data_dir) as client:
        assert client.download_queue.prune_jobs() == 0


def test_the_owners_token_is_shown_to_nobody_but_his_suite(suite: Suite) -> None:
    found = find_addresses({"record": "203.0.113.1:50051"}, data_dir=suite.data_dir, environ={})
    assert found["record"].token is None
    home = {"MODELKEEP_DATA_DIR": str(suite.data_dir)}
    elsewhere = {**home, "MODELKEEP_CLIENT_RECORD_ADDRESS": "203.0.113.1:50051"}
    assert find_addresses(environ=elsewhere)["record"].token is None
    at_home = {**home, "MODELKEEP_CLIENT_RECORD_ADDRESS": suite.addresses["record"]}
    assert find_addresses(environ=at_home)["record"].token is not None


def test_all_that_a_suite_keeps_is_its_users_alone(suite: Suite) -> None:
    open_to_others = []
    for path in (suite.data_dir, *suite.data_dir.rglob("*"), *_sockets(suite)):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & (0o037 if path.is_file() else 0o077):
            open_to_others.append(f"{path} {mode:o}")
    assert open_to_others == []


def _sockets(suite: Suite) -> list[Path]:
    paths = [Path(socket.removeprefix("unix:")) for socket in suite.sockets.values()]
    return [*paths, *{path.parent for path in paths}]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_reads_moves_and_deletes_nothing(suite: Suite, folder: Path) -> None:
    victim = folder / "diary.txt"
    victim.touch(0o600)
    victim.write_text("mine")
    before = sorted(str(path) for path in suite.data_dir.rglob("*"))
    order = {
        "tcp": suite.addresses,
        "sockets": suite.sockets,
        "data": str(suite.data_dir),
        "victim": str(victim),
    }
    done = subprocess.run(
        [sys.executable, str(NEIGHBOUR), json.dumps(order)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tried = json.loads(done.stdout)
    assert len(tried) > 30
    assert {what: answer for what, answer in tried.items() if answer not in _HARMLESS} == {}
    assert victim.read_text() == "mine"
    assert [path for path in before if not Path(path).exists()] == []
    loot = [path for path in suite.data_dir.rglob("*") if path.is_file() and path.read_bytes() == b"mine"]
    assert loot == []


#: How the attempts of another user end.
_HARMLESS = {"PermissionError", "ROLE_REQUIRED", "UPSTREAM_UNAVAILABLE"}


def test_anonymous_callers_can_be_shut_out(data_dir: Path) -> None:
    with Suite(data_dir, services=("record",), anonymous="none") as suite:
        request = record.ListModelsRequest()
        error = refusal(suite.addresses["record"], RecordServiceStub, "ListModels", request)
        assert isinstance(error, CredentialsMissingException)
        with Client(data_dir=data_dir) as client:
            assert list(client.model_record_store.all_models()) == []


def test_insecure_wants_no_token_and_has_nothing_read_from_outside_the_import_roots(data_dir: Path) -> None:
    path = small_lora(data_dir / "private.safetensors")
    asked = {"MODELKEEP_DOWNLOAD_ALLOW_ANY_IMPORT_ROOT": "true"}
    with Suite(data_dir / "data", services=("download",), env=asked, insecure=True) as suite:
        at = suite.addresses["download"]
        assert refusal(at, DownloadServiceStub, "PruneDownloads", download.PruneDownloadsRequest()) is None
        source = download_pb2.DownloadSource(local_path=download_pb2.LocalPath(path=str(path)))
        wish = download.CreateDownloadRequest(source=source, destination=f"{suite.data_dir}/downloads/")
        for address in (at, suite.sockets["download"]):
            error = refusal(address, DownloadServiceStub, "CreateDownload", wish)
            assert error is not None
            assert error.reason == "FORBIDDEN_PATH"
        assert path.exists()


def test_the_tokens_of_an_earlier_start_are_void_and_clients_read_the_new_ones(data_dir: Path) -> None:
    token = TokenFile(data_dir / "run" / "tokens" / "owner")
    with Suite(data_dir, services=("download",)) as suite:
        first = token()
    with Suite(data_dir, services=("download",)) as suite:
        assert token() != first
        at, request = suite.addresses["download"], download.PruneDownloadsRequest()
        for shown, raised in ((first, CredentialsInvalidException), (token(), type(None))):
            metadata = (("authorization", f"Bearer {shown}"),)
            assert type(refusal(at, DownloadServiceStub, "PruneDownloads", request, metadata)) is raised


def test_services_call_each_other_where_no_other_user_can_stand_in_for_one(suite: Suite) -> None:
    called = set()
    for pid in suite.pids.values():
        for entry in Path(f"/proc/{pid}/environ").read_text().split("\0"):
            name, _, value = entry.partition("=")
            if name.startswith("MODELKEEP_") and name.endswith("_ADDRESS"):
                assert value in suite.sockets.values(), name
                called.add(name.removeprefix("MODELKEEP_"))
    install = {f"INSTALL_{peer}_ADDRESS" for peer in ("RECORD", "DOWNLOAD", "LOADER")}
    assert called == {*install, "LOADER_RECORD_ADDRESS"}


def test_no_token_is_in_the_arguments_or_the_environment_of_a_service(suite: Suite) -> None:
    tokens = [
        path.read_text().strip()
        for path in (suite.data_dir / "run" / "tokens").iterdir()
        if path.name != "accepted.json"
    ]
    assert len(tokens) == 5
    for pid in suite.pids.values():
        for name in ("cmdline", "environ"):
            said = Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
            assert [token for token in tokens if token in said] == []
    for path in (*(suite.data_dir / "logs").iterdir(), suite.data_dir / "run" / "suite.json"):
        assert [token for token in tokens if token in path.read_text()] == []
