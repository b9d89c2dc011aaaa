"""Further pitfalls of Python gRPC, from number 10 on: handlers, addresses, deadlines, slow readers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_status import rpc_status

from modelkeep.exceptions import (
    DiskFullException,
    FieldInvalidException,
    FieldViolation,
    UnknownModelException,
    WatcherTooSlowException,
)
from modelkeep_common.serving import start_server
from modelkeep_common.sqlite import Connection, Database, Migration
from modelkeep_common.startup import StartupError
from modelkeep_common.watch import Frame, WatchHub, stream_frames
from modelkeep_common.watch.sqlite_log import SqliteLog, append_change
from support.commonapp import SERVICE, App, AppSettings, Client, serving
from support.commoncalls import echo, error_of, reason_of
from support.waiting import until

# 10


async def test_pitfall_10_all_four_kinds_of_handlers_keep_their_kind(data_dir: Path) -> None:
    async def generator(request: StringValue, context: Any) -> Any:
        yield request
        yield request

    async def writer(request: StringValue, context: Any) -> None:
        await context.write(request)
        await context.write(request.SerializeToString())

    async def upload(requests: Any, context: Any) -> StringValue:
        return StringValue(value="".join([request.value async for request in requests]))

    async def chat(requests: Any, context: Any) -> Any:
        async for request in requests:
            yield request

    handlers = {"Echo": echo, "StreamG": generator, "StreamW": writer, "UploadAll": upload, "ChatBack": chat}
    async with serving(App(handlers), data_dir) as (_, client):
        assert (await client.unary("Echo", "a")).value == "a"
        for method in ("StreamG", "StreamW"):
            assert [m.value async for m in client.stream(method, "b")] == ["b", "b"]
        messages = [StringValue(value=text) for text in "cd"]
        codec = (StringValue.SerializeToString, StringValue.FromString)
        uploading: Any = client.channel.stream_unary(f"/{SERVICE}/UploadAll", *codec)
        assert (await uploading(iter(messages))).value == "cd"
        chatting: Any = client.channel.stream_stream(f"/{SERVICE}/ChatBack", *codec)
        assert [m.value async for m in chatting(iter(messages))] == ["c", "d"]
        error = await error_of(client.unary("Missing"))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_pitfall_10_a_handler_that_is_not_async_stops_the_start(data_dir: Path) -> None:
    def sync(request: Any, context: Any) -> Any:
        return request

    app = App({"Sync": sync})
    with pytest.raises(TypeError, match="async def"):
        await start_server(app, AppSettings.for_test(data_dir))
    assert app.calls == ["open", "register", "close"]


# 11


async def test_pitfall_11_a_handlers_own_abort_passes_untouched_and_once(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def aborts(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as said")

    async def aborts_midway(request: Any, context: Any) -> None:
        await context.write(request)
        await context.abort(grpc.StatusCode.DATA_LOSS, "as said")

    async with serving(App({"Abort": aborts, "StreamAbort": aborts_midway}), data_dir) as (_, client):
        for call in (client.unary("Abort"), client.stream("StreamAbort")):
            error = await error_of(call)
            assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "as said")
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


# 12


class _SyncView:
    """What grpc_status wants of a call, of an aio error."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.details = error.code, error.details
        self.trailing_metadata = error.trailing_metadata


async def test_pitfall_12_code_and_message_of_call_and_status_are_the_same_and_details_stay_small(
    data_dir: Path,
) -> None:
    async def unknown(request: StringValue, context: Any) -> Any:
        raise UnknownModelException("No model has this key.", metadata={"key": "k" * 32})

    async def huge(request: StringValue, context: Any) -> Any:
        raise FieldInvalidException(
            "ü" * 5000,
            metadata={f"key{number}": "x" * 400 for number in range(50)},
            violations=[FieldViolation(f"field[{number}]", "is bad " * 30) for number in range(500)],
            retry_after=3,
        )

    async def full(request: StringValue, context: Any) -> Any:
        raise DiskFullException(
            "No room.\nReally\x00 none.", metadata={"path": "/tmp/\udcff"}, retry_after=1.5
        )

    async with serving(App({"Unknown": unknown, "Huge": huge, "Full": full}), data_dir) as (_, client):
        for method, reason in (
            ("Unknown", "UNKNOWN_MODEL"),
            ("Huge", "FIELD_INVALID"),
            ("Full", "DISK_FULL"),
        ):
            error = await error_of(client.unary(method))
            rich = rpc_status.from_call(_SyncView(error))  # raises if they differ
            assert rich is not None
            assert rich.ByteSize() < 4096
            # From 8 KiB on the client's gRPC drops the answer at random.
            sizes = [len(key) + len(value) * 4 // 3 + 32 for key, value in error.trailing_metadata() or ()]
            assert sum(sizes) + len(quote(rich.message)) < 7500
            assert reason_of(error) == reason
            assert error.code().value[0] == rich.code


# 13


def test_pitfall_13_a_running_server_may_spawn_and_wait_for_processes(data_dir: Path) -> None:
    script = (
        "import asyncio, os, sys; from pathlib import Path; import modelkeep_common\n"
        "from support.commonapp import App, serving\n"
        "async def spawn(request, context):\n"
        "    process = await asyncio.create_subprocess_exec(sys.executable, '-S', '-c', 'print(1)')\n"
        "    assert await process.wait() == 0\n"
        "    return request\n"
        "async def main():\n"
        "    async with serving(App({'Spawn': spawn}), Path(sys.argv[1])) as (_, client):\n"
        "        await asyncio.gather(*(client.unary('Spawn', timeout=15) for _ in range(5)))\n"
        "    print(os.environ['GRPC_ENABLE_FORK_SUPPORT'])\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(data_dir)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["1"] * 5 + ["0"]


# 14


@pytest.mark.parametrize("loops", [2])
def test_pitfall_14_servers_in_one_loop_after_another_do_not_disturb_each_other(
    data_dir: Path, loops: int
) -> None:
    async def once() -> str:
        async with serving(App({"Echo": echo}), data_dir) as (_, client):
            return str((await client.unary("Echo", "x")).value)

    assert [asyncio.run(once()) for _ in range(loops)] == ["x"] * loops


async def raising(request: Any, context: Any) -> Any:
    raise ValueError("only the second server does this")


async def test_pitfall_14_two_servers_in_one_loop_are_apart(data_dir: Path) -> None:
    async with (
        serving(App({"Echo": echo}), data_dir) as (first, client),
        serving(App({"Echo": raising}), data_dir) as (second, other),
    ):
        assert first.port != second.port
        assert (await client.unary("Echo", "x")).value == "x"
        assert (await error_of(other.unary("Echo"))).code() == grpc.StatusCode.INTERNAL


# 15


async def test_pitfall_15_a_port_is_never_shared_with_another_server(data_dir: Path) -> None:
    app = App({"Echo": echo})
    async with serving(App({"Echo": echo}), data_dir) as (server, _):
        with pytest.raises(StartupError, match="is taken") as caught:
            await start_server(app, AppSettings.for_test(data_dir, port=server.port))
    assert caught.value.exit_code == 98
    assert app.calls == []  # its stores were not touched


async def test_pitfall_15_a_unix_socket_in_use_is_never_taken_over(data_dir: Path) -> None:
    path = data_dir / "s.sock"
    async with serving(App({"Echo": echo}), data_dir, unix_socket=path) as (_, _client):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(StartupError, match="already listens") as caught:
            await start_server(App({}), AppSettings.for_test(data_dir, unix_socket=path))
        assert caught.value.exit_code == 98
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert (await Client(channel).unary("Echo", "x")).value == "x"
    assert not path.exists()
    path.touch()  # what a killed process leaves behind is no obstacle
    path.unlink()


# 20


async def test_pitfall_20_a_handler_is_cancelled_at_the_deadline_and_its_write_is_carried_through(
    data_dir: Path,
) -> None:
    db = await Database.open(data_dir / "t.db", [Migration(1, "CREATE TABLE t (x TEXT);")], "test")
    go_on = threading.Event()
    seen: list[str] = []

    async def insert(request: StringValue, context: Any) -> StringValue:
        try:
            await db.write(
                lambda conn: (go_on.wait(5), conn.execute("INSERT INTO t VALUES ('a')"))[1].rowcount
            )
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return request

    async with serving(App({"Insert": insert}), data_dir) as (server, client):
        error = await error_of(client.unary("Insert", timeout=0.2))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: server.admission.write.active == 0)
        assert seen == ["cancelled"]
        go_on.set()
        await db.write(lambda conn: None)
        assert await db.read(lambda conn: conn.execute("SELECT count(*) FROM t").fetchone()[0]) == 1
    await db.close()


async def test_pitfall_20_a_call_without_a_deadline_gets_the_servers(data_dir: Path) -> None:
    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    async def own_timeout(request: Any, context: Any) -> Any:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    handlers = {"Slow": slow, "OwnTimeout": own_timeout}
    async with serving(App(handlers), data_dir, max_unary_s=0.2) as (_, client):
        error = await error_of(client.unary("Slow"))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason_of(error) == "DEADLINE_EXCEEDED"
        # A time-out of the handler's own is a bug that it did not handle, not the caller's deadline.
        assert (await error_of(client.unary("OwnTimeout"))).code() == grpc.StatusCode.INTERNAL


# 26


def to_response(frame: Frame[bytes]) -> StringValue:
    return StringValue(
        value=",".join(f"{e.revision}:{len(e.put or b'')}" for e in frame.events) + "x" * 64_000
    )


async def test_pitfall_26_a_stalled_reader_slows_nobody_and_is_ended_with_its_last_token(
    data_dir: Path,
) -> None:
    db = await Database.open(data_dir / "t.db", [], "test")
    hub: WatchHub[bytes] = WatchHub(SqliteLog(db, "items"), parse=lambda payload: payload, stall_s=1.0)
    ended: dict[str, BaseException] = {}

    async def nothing(conn: Connection) -> AsyncIterator[tuple[str, bytes]]:
        for row in conn.execute("SELECT '', NULL WHERE 0"):
            yield row

    async def watch(request: StringValue, context: Any) -> None:
        try:
            await stream_frames(context, hub.watch(snapshot=nothing), to_response)
        except BaseException as error:
            ended[request.value] = error
            raise

    async with serving(App({"StreamWatch": watch}), data_dir) as (server, client):
        stalled = client.stream("StreamWatch", "stalled")
        # A second connection: flow control of the first must not be what holds this one up.
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            healthy = Client(channel).stream("StreamWatch", "healthy")
            await until(lambda: hub.watchers == 2)
            await healthy.read()
            for number in range(400):
                revision = await db.write(lambda conn: append_change(conn, "items", "a", b"y"))
                while True:
                    message = await asyncio.wait_for(healthy.read(), 20)
                    if f"{revision}:1" in message.value:
                        break
                if "stalled" in ended and number > 200:
                    break
                await asyncio.sleep(0.005)
            await until(lambda: "stalled" in ended)
            assert isinstance(ended["stalled"], WatcherTooSlowException)
            token = ended["stalled"].metadata["resume_token"]
            assert token
            assert hub.watchers == 1
            # Once it reads again it gets what was on its way, and then the reason.
            error = await error_of(stalled)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(error) == "WATCHER_TOO_SLOW"
            healthy.cancel()
        await hub.drain(0.5)
    await db.close()
