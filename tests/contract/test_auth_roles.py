"""Each role and each method of each service, over real servers; and what the listeners tell of a caller."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.wrappers_pb2 import StringValue

from modelkeep.install.v1 import install_pb2, paths_pb2
from modelkeep.install.v1 import install_service_pb2 as install_pb
from modelkeep.install.v1.install_service_pb2_grpc import InstallServiceStub
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceStub
from modelkeep_common.auth import ROLES
from modelkeep_common.auth.table import ALLOWED, EVERYBODY
from modelkeep_common.calls import current_call
from modelkeep_common.serving import Application, start_server
from modelkeep_common.serving.newer_protos import additions
from modelkeep_common.settings import ServiceSettings
from modelkeep_common.startup import StartupError
from modelkeep_download.app import DownloadApplication
from modelkeep_download.config import DownloadSettings
from modelkeep_install.app import InstallApplication
from modelkeep_install.config import InstallSettings
from modelkeep_loader.app import LoaderApplication
from modelkeep_loader.config import LoaderSettings
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings
from support.callers import WAYS, by_token
from support.commonapp import SERVICE, App, AppSettings, Client, serving
from support.commoncalls import echo, error_of, reason_of
from support.failures import failure_of
from support.records import vae
from support.tokens import bearer, write_tokens
from support.waiting import until

REFUSALS = {"ROLE_REQUIRED", "CREDENTIALS_MISSING", "CREDENTIALS_INVALID"}

SERVICES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "record": (RecordApplication, RecordSettings, {}),
    "download": (DownloadApplication, DownloadSettings, {}),
    "install": (InstallApplication, InstallSettings, {"record_address": "127.0.0.1:9"}),
    "loader": (LoaderApplication, LoaderSettings, {"record_address": "127.0.0.1:9"}),
}


@contextlib.asynccontextmanager
async def started(service: str, data_dir: Path, **more: Any) -> AsyncIterator[str]:
    """A real service; gives its address."""
    make, settings_of, values = SERVICES[service]
    if service == "loader":
        values = {**values, "descriptor_dir": data_dir / "fd"}
    settings: ServiceSettings = settings_of.for_test(data_dir, **{**values, "insecure": False, **more})
    app: Application = make(settings)
    server = await start_server(app, settings)
    try:
        yield server.address
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def with_tokens(service: str, data_dir: Path, **more: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A real service that knows one caller for each role by a token, called by it."""
    async with (
        started(service, data_dir, **{**by_token(data_dir).settings, **more}) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


def methods_of(app: Any) -> list[MethodDescriptor]:
    pool = descriptor_pool.Default()
    names = (*app.full_names, "modelkeep.server.v1.ServerService")
    return [method for name in names for method in pool.FindServiceByName(name).methods]


async def call(channel: grpc.aio.Channel, service: str, method: Any, metadata: Any) -> str:
    """Call with an empty request; the reason of the failure, or "OK"."""
    request_of = message_factory.GetMessageClass(method.input_type)
    answer_of = message_factory.GetMessageClass(method.output_type)
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    if method.client_streaming:
        make = channel.stream_stream
    stub = make(f"/{service}/{method.name}", request_of.SerializeToString, answer_of.FromString)
    request = iter([request_of()]) if method.client_streaming else request_of()
    made = stub(request, metadata=metadata, timeout=10)
    try:
        if method.server_streaming:
            await made.read()
            made.cancel()
        else:
            await made
    except grpc.aio.AioRpcError as error:
        return failure_of(error).reason or error.code().name
    return "OK"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("service", SERVICES)
async def test_each_role_may_call_what_the_table_says_and_nothing_else(
    service: str, way: str, data_dir: Path
) -> None:
    known = WAYS[way](data_dir / "callers")
    async with started(service, data_dir, **known.settings) as address:
        for role in sorted(known.roles):
            async with known.channel(address, role) as channel:
                methods = methods_of(SERVICES[service][0])
                shown = known.metadata(role)
                calls = [call(channel, one.containing_service.full_name, one, shown) for one in methods]
                for method, answer in zip(methods, await asyncio.gather(*calls), strict=True):
                    name = f"{method.containing_service.full_name}/{method.name}"
                    assert answer != "UNIMPLEMENTED", name
                    assert (answer not in REFUSALS) == (role in ALLOWED[name]), (name, role, answer)
                    assert answer in {"OK", "ROLE_REQUIRED"} or role in ALLOWED[name]


async def test_without_credentials_only_health_answers(data_dir: Path) -> None:
    async with with_tokens("record", data_dir) as channel:
        for method in methods_of(RecordApplication):
            answer = await call(channel, method.containing_service.full_name, method, ())
            assert answer == "CREDENTIALS_MISSING"
        for name, roles in ALLOWED.items():
            service, _, method_name = name.partition("/")
            if not service.startswith("grpc."):
                continue
            described = additions() if "v1alpha" not in name else descriptor_pool.Default()
            found = described.FindServiceByName(service).methods_by_name[method_name]
            answer = await call(channel, service, found, ())
            assert answer == ("OK" if roles is EVERYBODY else "CREDENTIALS_MISSING"), name


async def test_a_method_that_is_not_in_the_table_is_refused_to_everybody(data_dir: Path) -> None:
    app = App({"Echo": echo})
    async with serving(app, data_dir, allowed={f"{SERVICE}/Echo": frozenset()}) as (_, client):
        assert reason_of(await error_of(client.unary("Echo"))) == "ROLE_REQUIRED"


async def who(request: StringValue, context: Any) -> StringValue:
    principal = current_call().principal
    return StringValue(value=f"{principal.name}: {' '.join(sorted(principal.roles))}")


async def test_who_calls_is_told_by_the_listener_and_the_token(data_dir: Path) -> None:
    everyone = {f"{SERVICE}/Who": ROLES}
    tokens = write_tokens(data_dir / "t.json", {"ci": ["operator"]})
    path = data_dir / "sockets" / "s.sock"
    settings: dict[str, Any] = {
        "token_file": tokens,
        "unix_socket": path,
        "anonymous": "viewer",
        "insecure": False,
    }
    async with (
        serving(App({"Who": who}), data_dir, allowed=everyone, **settings) as (_, client),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        assert (await client.unary("Who")).value == "anonymous: viewer"
        assert (await client.unary("Who", metadata=bearer("ci"))).value == "ci: operator"
        assert (await Client(channel).unary("Who")).value == "owner: admin owner"
        assert (await Client(channel).unary("Who", metadata=bearer("ci"))).value == "ci: operator"


async def test_nothing_that_a_caller_over_tcp_sends_makes_him_the_owner(data_dir: Path) -> None:
    tokens = write_tokens(data_dir / "t.json", {"ci": ["operator"]})
    path = data_dir / "sockets" / "s.sock"
    lies = [
        ("x-forwarded-for", "unix:"),
        ("forwarded", "for=unix:"),
        ("x-real-ip", "unix:"),
        ("peer", "unix:"),
        ("x-request-id", "unix:"),
        ("user-agent", "unix:"),
    ]
    options = [("grpc.default_authority", "unix:"), ("grpc.primary_user_agent", "unix:")]
    everyone = {f"{SERVICE}/Who": ROLES}
    settings: dict[str, Any] = {
        "token_file": tokens,
        "unix_socket": path,
        "anonymous": "viewer",
        "insecure": False,
    }
    async with (
        serving(App({"Who": who}), data_dir, allowed=everyone, **settings) as (server, _),
        grpc.aio.insecure_channel(server.address, options=options) as channel,
    ):
        assert (await Client(channel).unary("Who", metadata=lies)).value == "anonymous: viewer"


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer nonsense-nonsense")],
        [("authorization", "Basic YWRtaW46YWRtaW4=")],
        [("authorization", "")],
        [("authorization", "Bearer ")],
        [*bearer("ci"), ("authorization", "Bearer nonsense-nonsense")],
        [*bearer("ci"), *bearer("ci")],
    ],
)
@pytest.mark.parametrize("anonymous", ["none", "viewer"])
async def test_wrong_credentials_are_refused_and_never_taken_for_none(
    headers: list[tuple[str, str]], anonymous: str, data_dir: Path
) -> None:
    tokens = write_tokens(data_dir / "t.json", {"ci": ["operator"]})
    everyone = {f"{SERVICE}/Who": ROLES}
    settings: dict[str, Any] = {"token_file": tokens, "anonymous": anonymous, "insecure": False}
    async with serving(App({"Who": who}), data_dir, allowed=everyone, **settings) as (_, client):
        error = await error_of(client.unary("Who", metadata=headers))
    assert (error.code().name, reason_of(error)) == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")
    assert "nonsense" not in str(error.details())


async def test_tokens_come_and_go_while_a_service_runs(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = write_tokens(data_dir / "t.json", {"ci": ["operator"]})
    settings: dict[str, Any] = {"token_file": tokens, "insecure": False}
    app = App({"Who": who})
    async with serving(app, data_dir, allowed={f"{SERVICE}/Who": ROLES}, **settings) as (_, client):

        async def told(name: str, said: str) -> None:
            async with asyncio.timeout(30):
                while await answer(name) != said:  # noqa: ASYNC110  it is asked anew
                    await asyncio.sleep(0.02)

        async def answer(name: str) -> str:
            try:
                return str((await client.unary("Who", metadata=bearer(name))).value)
            except grpc.aio.AioRpcError as error:
                return reason_of(error)

        assert (await answer("ci"), await answer("new")) == ("ci: operator", "CREDENTIALS_INVALID")
        tokens.write_text("nonsense")
        await until(lambda: "what it said before still counts" in caplog.text, 30)
        assert await answer("ci") == "ci: operator"
        write_tokens(tokens, {"new": ["viewer"]})
        await told("new", "new: viewer")
        assert await answer("ci") == "CREDENTIALS_INVALID"


async def test_a_refusal_says_which_role_is_needed_and_how_to_show_it(data_dir: Path) -> None:
    tokens = write_tokens(data_dir / "t.json", {"ci": ["viewer"]})
    settings: dict[str, Any] = {"token_file": tokens, "anonymous": "viewer", "insecure": False}
    async with serving(App({"Echo": echo}), data_dir, **settings) as (_, client):
        error = await error_of(client.unary("Echo", metadata=bearer("ci")))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "Bearer" in str(error.details())
    assert "modelkeep token" in str(error.details())
    failure = failure_of(error)
    told = {"role": "admin", "method": f"{SERVICE}/Echo", "principal": "ci"}
    assert failure.metadata.items() >= told.items()


async def test_without_tokens_and_insecure_every_caller_may_do_everything_but_what_is_the_owners(
    data_dir: Path,
) -> None:
    async with serving(App({"Who": who}), data_dir) as (_, client):
        assert (await client.unary("Who")).value == "anybody: admin"


async def test_where_the_files_of_a_model_are_is_said_by_the_installer_or_an_admin_only(
    data_dir: Path,
) -> None:
    async with with_tokens("record", data_dir) as channel:
        stub: Any = RecordServiceStub(channel)
        made = await stub.CreateModel(pb.CreateModelRequest(model=vae("a")), metadata=bearer("install"))
        key = made.model.key
        files = [model_pb2.ModelFile(path="other.safetensors")]
        place = FieldMask(paths=["path", "root_id"])
        for who_asks in ("operator", "install", "admin"):
            for number, request in enumerate(
                (
                    pb.UpdateModelRequest(
                        model=model_pb2.Model(key=key, path=f"/elsewhere/{who_asks}"), update_mask=place
                    ),
                    pb.UpdateModelRequest(model=model_pb2.Model(key=key, path=f"b/{who_asks}", root_id="r")),
                    pb.UpdateModelRequest(model=model_pb2.Model(key=key), files=files, replace_files=True),
                )
            ):
                if who_asks != "operator":
                    await stub.UpdateModel(request, metadata=bearer(who_asks))
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.UpdateModel(request, metadata=bearer(who_asks))
                failure = failure_of(caught.value)
                field = "files" if request.replace_files else "model.path"
                assert (failure.reason, failure.metadata.get("field")) == ("ROLE_REQUIRED", field), number
        same = model_pb2.Model(key=key, path="b/admin", description="an operator's words")
        answer = await stub.UpdateModel(pb.UpdateModelRequest(model=same), metadata=bearer("operator"))
        assert answer.model.description == "an operator's words"


async def test_files_outside_models_dir_are_deleted_for_an_admin_only(data_dir: Path) -> None:
    async with with_tokens("install", data_dir) as channel:
        stub: Any = InstallServiceStub(channel)
        request = install_pb.UninstallModelRequest(key="0" * 32, files="UNINSTALL_FILES_ANY_ALLOWED_ROOT")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.UninstallModel(request, metadata=bearer("operator"))
        assert failure_of(caught.value).reason == "ROLE_REQUIRED"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.UninstallModel(request, metadata=bearer("admin"))
        assert failure_of(caught.value).reason == "UPSTREAM_UNAVAILABLE"


async def test_models_are_moved_for_an_admin_only(data_dir: Path) -> None:
    async with with_tokens("install", data_dir) as channel:
        stub: Any = InstallServiceStub(channel)
        path = str(data_dir / "nothing.safetensors")
        source = install_pb2.InstallSource(local_path=path)
        for call, request in (
            (stub.ImportModel, install_pb.ImportModelRequest(source=source, move=True)),
            (stub.InstallPath, paths_pb2.InstallPathRequest(path=path, move=True)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request, metadata=bearer("operator"))
            failure = failure_of(caught.value)
            assert (failure.reason, failure.metadata["field"]) == ("ROLE_REQUIRED", "move")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request, metadata=bearer("admin"))
            assert failure_of(caught.value).reason == "FORBIDDEN_PATH"


@pytest.mark.parametrize("service", ["download", "install", "loader"])
async def test_any_import_root_is_refused_at_start_where_others_than_the_owner_may_install(
    service: str, data_dir: Path
) -> None:
    with pytest.raises(StartupError, match="import_roots"):
        async with with_tokens(service, data_dir, allow_any_import_root=True):
            pass
    with pytest.raises(StartupError, match="import_roots"):
        async with with_tokens(service, data_dir, allow_any_import_root=True, token_file=None, insecure=True):
            pass


async def test_a_socket_is_locked_before_it_is_taken_and_a_dead_servers_socket_is_no_obstacle(
    data_dir: Path,
) -> None:
    path = data_dir / "s" / "x.sock"
    async with serving(App({"Echo": echo}), data_dir, unix_socket=path) as (_, _client):
        path.unlink()  # nothing listens at the name any more: only the lock tells that it is taken
        with pytest.raises(StartupError, match="in use") as caught:
            await start_server(App({}), AppSettings.for_test(data_dir, unix_socket=path))
        assert caught.value.exit_code == 98
    path.touch()
    async with (
        serving(App({"Echo": echo}), data_dir, unix_socket=path) as (_, _client),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        assert (await Client(channel).unary("Echo", "x")).value == "x"


async def test_a_socket_in_a_folder_of_another_user_is_refused(data_dir: Path) -> None:
    folder = data_dir / "s"
    folder.mkdir()
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        with pytest.raises(StartupError, match="not a folder of yours"):
            await start_server(App({}), AppSettings.for_test(data_dir, unix_socket=folder / "x.sock"))
        os.chown(folder, 0, 0)
    async with serving(App({}), data_dir, unix_socket=folder / "x.sock"):
        assert folder.stat().st_mode & 0o777 == 0o700
