"""``modelkeep auth``: tokens are kept for a suite in its file, are used at once, and are shown to nobody."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelkeep.cli.main import app
from modelkeep.source_tokens import tokens_path
from modelkeep.supervisor import Suite
from support.cli import run, run_json
from support.httpserver import HttpServer, Resource

TOKEN = "s3cret-of-a-person"


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


def login(data_dir: Path, *arguments: str, given: str = TOKEN) -> Result:
    arguments = ("auth", "login", "--with-token", "--data-dir", str(data_dir), *arguments)
    return CliRunner().invoke(app, arguments, input=f"{given}\n")


def test_a_token_that_is_kept_opens_what_is_fetched_next(suite: Suite, web: HttpServer) -> None:
    host = f"127.0.0.1:{web.port}"
    url = web.put("/model.bin", Resource(b"\0" * 5000, authorization=f"Bearer {TOKEN}"))
    refused = run(suite, "downloads", "add", url, code=1)
    assert f"modelkeep auth login {host}" in refused.stderr
    said = login(suite.data_dir, host)
    assert (said.exit_code, TOKEN in said.output) == (0, False), said.output
    assert "not checked" in said.stdout
    assert tokens_path(suite.data_dir).stat().st_mode & 0o777 == 0o600
    assert Path(run_json(suite, "downloads", "add", url)["path"]).stat().st_size == 5000
    kept = run_json(suite, "auth", "status")["tokens"]
    assert kept == [{"host": host, "kept_in": "file"}]
    assert host in run(suite, "auth").stdout
    assert TOKEN not in run(suite, "auth", "status", "-o", "wide").output
    assert run(suite, "auth", "logout", host).stdout == f"Forgot the token for {host}.\n"
    assert "no token" in run(suite, "auth", "logout", host, code=3).stderr
    run(suite, "downloads", "add", url, code=1)


def test_the_advice_on_a_refused_token_says_how_to_keep_another(suite: Suite, web: HttpServer) -> None:
    host = f"127.0.0.1:{web.port}"
    url = web.put("/model.bin", Resource(b"\0" * 5000, authorization="Bearer another"))
    login(suite.data_dir, host)
    refused = run(suite, "downloads", "add", url, code=1)
    assert f"keep another one: modelkeep auth login {host}" in refused.stderr
    assert TOKEN not in refused.output
    run(suite, "auth", "logout", host)


def test_without_a_suite_that_runs_the_file_is_written_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert login(folder).exit_code == 2  # no data folder, and none is made in passing
    assert not folder.exists()
    folder.mkdir(mode=0o700)
    assert login(folder).exit_code == 0
    listed = CliRunner().invoke(app, ["auth", "status", "--json", "--data-dir", str(folder)])
    assert json.loads(listed.stdout)["tokens"] == [{"host": "huggingface.co", "kept_in": "file"}]
    assert "does not answer" in listed.stderr
    tokens_path(folder).chmod(0o644)
    told = login(folder, "civitai.com")
    assert (told.exit_code, f"chmod 600 {tokens_path(folder)}" in " ".join(told.output.split())) == (2, True)


def test_what_is_no_host_and_no_token_is_refused(tmp_path: Path) -> None:
    for host in ("*", "a/b", "ftp://h", ""):
        assert login(tmp_path, host).exit_code == 2
    for token in ("", "two words", "bücher"):
        told = login(tmp_path, given=token)
        assert told.exit_code == 2
        assert not token or token not in told.output
    assert not tokens_path(tmp_path).exists()
    silent = CliRunner().invoke(app, ["auth", "login", "--data-dir", str(tmp_path)], input=TOKEN)
    assert (silent.exit_code, "--with-token" in silent.output) == (2, True)


def test_a_suite_elsewhere_is_sent_no_token() -> None:
    away = ["--address", "download=127.0.0.1:1"]
    told = CliRunner().invoke(app, ["auth", "login", "--with-token", *away], input=TOKEN)
    assert told.exit_code == 2
    assert "on its own host" in " ".join(told.output.split())


def test_at_a_terminal_the_token_is_asked_for_and_not_shown(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "modelkeep.cli", "auth", "login", "--data-dir", str(tmp_path)]
    process = subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, start_new_session=True, close_fds=True
    )
    os.close(child)
    shown, asked, until = b"", False, time.monotonic() + 25
    while time.monotonic() < until:
        if not select.select([parent], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(parent, 1000)
        except OSError:  # the other side has closed it
            break
        if not piece:
            break
        shown += piece
        if not asked and b"not shown" in shown:
            asked = True
            os.write(parent, f"{TOKEN}\n".encode())
    os.close(parent)
    assert process.wait(5) == 0, shown
    assert asked
    assert TOKEN.encode() not in shown
    assert TOKEN in tokens_path(tmp_path).read_text()
