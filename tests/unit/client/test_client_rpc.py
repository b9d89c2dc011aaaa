"""Channels that show a token, what is repeated by gRPC itself, and folders that are one user's alone."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelkeep import rpc
from modelkeep.exceptions import CredentialsMissingException
from modelkeep.private import MAX_SOCKET_BYTES, UnsafeFolderError, make_private, runtime_folder
from support.commonapp import App, Client, serving
from support.commoncalls import echo, error_of
from support.cutlink import CutLink, cut_link

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")


def test_what_grpc_repeats_are_the_unary_methods_that_say_they_are_harmless() -> None:
    option, text = rpc.with_retries()
    assert option == "grpc.service_config"
    (entry,) = json.loads(text)["methodConfig"]
    repeated = {name["method"] for name in entry["name"]}
    expected = {
        method.name
        for method in rpc.methods().values()
        if rpc.is_repeatable(method) and not method.server_streaming
    }
    assert repeated == expected
    assert "GetModel" in repeated
    assert repeated.isdisjoint({"CreateModel", "ImportModel", "WatchModels", "HoldModel"})


def test_a_token_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path, other = tmp_path / "token", tmp_path / "other"
    path.write_text("first\n")
    clients, services = rpc.TokenFile(path), rpc.TokenFile(path, lasting=True)
    assert (clients(), services()) == ("first", "first")
    other.write_text("second\n")
    link = tmp_path / "link"
    link.symlink_to(other)
    link.replace(path)  # as Kubernetes turns it
    assert (clients(), services()) == ("second", "second")
    for spoil in (path.unlink, lambda: path.write_text(""), lambda: path.write_text("two words")):
        spoil()
        with pytest.raises(CredentialsMissingException):
            clients()
        assert services() == "second"
    path.write_text("third")
    assert (clients(), services()) == ("third", "third")


def test_a_service_shows_its_peers_what_its_token_file_says_by_now(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(CredentialsMissingException, match="correct the setting peer_token_file") as caught:
        rpc.peer("record", "127.0.0.1:1", path)
    assert "--token-file" not in caught.value.message
    path.write_text("first")
    token = rpc.peer("record", "127.0.0.1:1", path).token
    assert token is not None
    assert token() == "first"
    path.write_text("second")
    assert token() == "second"
    path.unlink()
    assert token() == "second"


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff\xfe"])
def test_a_file_without_one_token_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CredentialsMissingException, match=str(path)) as caught:
        rpc.TokenFile(path)()
    assert "two words" not in caught.value.message


def test_an_address_does_not_show_its_token_when_it_is_printed(tmp_path: Path) -> None:
    address = rpc.Address("record", "127.0.0.1:1", "the test", token=lambda: "secret-secret")
    assert "secret" not in repr(address)


def test_a_private_folder_is_closed_to_others_and_the_same_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    make_private(folder)
    folder.chmod(0o755)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert runtime_folder(tmp_path, "x.sock") == runtime_folder(tmp_path / ".", "x.sock")
    with pytest.raises(UnsafeFolderError, match="XDG_RUNTIME_DIR"):
        runtime_folder(tmp_path, "x" * MAX_SOCKET_BYTES)


def test_a_link_in_the_place_of_a_private_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFolderError):
        make_private(tmp_path / "link")


@as_root
@pytest.mark.parametrize("which", ["folder", "folder/above"])
def test_a_folder_of_another_user_is_refused_and_what_to_do_is_said(tmp_path: Path, which: str) -> None:
    folder = tmp_path / "folder" / "above"
    folder.mkdir(parents=True)
    os.chown(tmp_path / which, 65534, 65534)
    with pytest.raises(UnsafeFolderError, match="XDG_RUNTIME_DIR"):
        make_private(folder)


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnsafeFolderError, match="File exists; set XDG_RUNTIME_DIR"):
        make_private(tmp_path / "file" / "mine")


def test_a_folder_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="chmod go-w"):
        make_private(tmp_path / "open" / "mine")


@as_root
def test_a_runtime_folder_of_another_user_in_the_environment_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(tmp_path, 65534, 65534)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert not runtime_folder(tmp_path, "x.sock").is_relative_to(tmp_path)


async def test_a_service_at_the_other_end_of_the_world_is_reached(data_dir: Path) -> None:
    async with serving(App({"Echo": echo}), data_dir) as (server, _):
        link = CutLink(server.address, delay_s=0.4)
        await link.mend()
        address = rpc.Address("record", link.address, "the test")
        async with rpc.open_async_channel(address) as channel:
            assert (await Client(channel).unary("Echo", "far", timeout=20)).value == "far"
        await link.cut()


async def test_a_connection_that_is_lost_in_a_call_is_no_trouble_of_tls(data_dir: Path) -> None:
    begun = asyncio.Event()

    async def wait(request: Any, context: Any) -> Any:
        begun.set()
        await asyncio.sleep(60)

    async with serving(App({"Wait": wait}), data_dir) as (server, _), cut_link(server.address) as link:
        address = rpc.Address("record", link.address, "the test")
        async with rpc.open_async_channel(address) as channel:
            failed = asyncio.create_task(error_of(Client(channel).unary("Wait", timeout=20)))
            await begun.wait()
            await link.cut()
            assert "Start the suite" in str(rpc.decode(await failed, address))
