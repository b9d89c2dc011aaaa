"""Where the client looks for the services."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelkeep.client import find_addresses
from modelkeep.exceptions import ForbiddenPathException, UpstreamUnavailableException
from modelkeep.rpc import open_channel


def suite_file(folder: Path, text: str) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "suite.json").write_text(text)


def test_the_argument_wins_over_everything(tmp_path: Path) -> None:
    suite_file(tmp_path, json.dumps({"addresses": {"record": "suite:1"}}))
    environ = {"MODELKEEP_CLIENT_RECORD_ADDRESS": "variable:1"}
    found = find_addresses({"record": "argument:1"}, data_dir=tmp_path, environ=environ)["record"]
    assert (found.target, found.origin) == ("argument:1", "the caller")


def test_the_environment_wins_over_the_running_suite(tmp_path: Path) -> None:
    suite_file(tmp_path, json.dumps({"addresses": {"record": "suite:1", "install": "suite:3"}}))
    environ = {"MODELKEEP_CLIENT_RECORD_ADDRESS": "variable:1", "MODELKEEP_DATA_DIR": str(tmp_path)}
    found = find_addresses(environ=environ)
    assert found["record"].target == "variable:1"
    assert "MODELKEEP_CLIENT_RECORD_ADDRESS" in found["record"].origin
    assert found["install"].target == "suite:3"
    assert found["install"].origin.endswith("run/suite.json")


def test_a_data_folder_that_the_caller_names_wins_over_the_environment(tmp_path: Path) -> None:
    suite_file(tmp_path, json.dumps({"addresses": {"record": "suite:1"}}))
    environ = {"MODELKEEP_CLIENT_RECORD_ADDRESS": "variable:1", "MODELKEEP_DATA_DIR": "/nowhere"}
    assert find_addresses(data_dir=tmp_path, environ=environ)["record"].target == "suite:1"


@pytest.mark.parametrize("by_environment", [False, True])
def test_where_the_data_folder_that_is_named_has_no_suite_no_other_suite_is_called(
    tmp_path: Path, by_environment: bool
) -> None:
    environ = {"MODELKEEP_DATA_DIR": str(tmp_path)} if by_environment else {}
    found = find_addresses(data_dir=None if by_environment else tmp_path, environ=environ)
    for address in found.values():
        assert address.target == ""
        with pytest.raises(UpstreamUnavailableException, match=f"no suite runs on {tmp_path}"):
            open_channel(address)
    assert find_addresses({"record": "argument:1"}, data_dir=tmp_path)["record"].target == "argument:1"


def test_a_service_that_the_suite_runs_without_is_not_called_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modelkeep-data").mkdir()
    suite_file(tmp_path / "modelkeep-data", json.dumps({"addresses": {"record": "suite:1"}}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UpstreamUnavailableException, match="runs without it"):
        open_channel(find_addresses(environ={})["loader"])


def test_the_default_ports_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_addresses(environ={})
    assert [found[name].target for name in ("record", "download", "install", "loader")] == [
        "127.0.0.1:50051",
        "127.0.0.1:50052",
        "127.0.0.1:50053",
        "127.0.0.1:50054",
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"addresses": 3}', '{"pid": 1}', '{"addresses": null}'])
def test_a_suite_file_that_cannot_be_read_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "modelkeep-data").mkdir()
    suite_file(tmp_path / "modelkeep-data", text)
    monkeypatch.chdir(tmp_path)
    assert find_addresses(environ={})["loader"].origin == "the default port"


def test_the_data_folder_is_found_by_the_environment_and_by_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("named", "modelkeep-data"):
        (tmp_path / name).mkdir()
        suite_file(tmp_path / name, json.dumps({"addresses": {"record": f"{name}:1"}}))
    monkeypatch.chdir(tmp_path)
    assert find_addresses(environ={})["record"].target == "modelkeep-data:1"
    named = {"MODELKEEP_DATA_DIR": str(tmp_path / "named")}
    assert find_addresses(environ=named)["record"].target == "named:1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")
@pytest.mark.parametrize(
    "strangers", ["modelkeep-data", "modelkeep-data/run", "modelkeep-data/run/suite.json"]
)
def test_a_suite_of_another_user_that_lies_where_one_stands_is_not_called_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strangers: str
) -> None:
    folder = tmp_path / "modelkeep-data"
    folder.mkdir()
    suite_file(folder, json.dumps({"addresses": {"record": "planted:1"}}))
    os.chown(tmp_path / strangers, 65534, 65534)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ForbiddenPathException, match="--data-dir"):
        find_addresses(environ={})
    for named in (
        find_addresses(data_dir="modelkeep-data", environ={}),
        find_addresses(environ={"MODELKEEP_DATA_DIR": "modelkeep-data"}),
    ):
        assert named["record"].target == "planted:1"
