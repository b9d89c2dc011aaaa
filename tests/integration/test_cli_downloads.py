"""The verbs that steer downloads, one or all of them, against a real suite."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest

from modelkeep.supervisor import Suite
from support.cli import run, run_json
from support.httpserver import Hang, HttpServer, Resource, pattern
from support.terminal import session
from support.waiting import wait_until

BODY = pattern(300_000)


def test_all_downloads_with_a_label_are_paused_resumed_and_cancelled_by_command(suite: Suite) -> None:
    with HttpServer() as server:
        url = server.put("/held.bin", Resource(BODY, rate=len(BODY) // 30))
        ids = [
            run_json(suite, "downloads", "add", url, "--name", f"held-{n}.bin", "--label", "run=all", "-d")[
                "id"
            ]
            for n in range(2)
        ]
        wait_until(lambda: len(server.requests_of("/held.bin")) == 2, "the downloads do not begin")
        mine = ("--all", "--label", "run=all")
        assert run(suite, "downloads", "pause", *mine).stdout == "Paused 2 downloads.\n"
        states = {run_json(suite, "downloads", "show", id)["state"] for id in ids}
        assert states == {"DOWNLOAD_STATE_PAUSED"}
        assert run_json(suite, "downloads", "resume", *mine, "--queue", "") == {"started_count": "2"}
        assert run(suite, "downloads", "cancel", *mine, "--yes").stdout == "Cancelled 2 downloads.\n"
        assert run_json(suite, "downloads", "cancel", *mine, "--queue", "other") == {"cancelled_count": "0"}
        for id in ids:
            run(suite, "downloads", "watch", id, code=1)
    assert list((Path(suite.data_dir) / "downloads" / ".staging").glob("*")) == []


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_one_download_or_all_must_be_named(suite: Suite, verb: str) -> None:
    for arguments in ([], ["3", "--all"], ["3", "--queue", "x"], ["3", "--label", "a=b"]):
        assert "ID" in run(suite, "downloads", verb, *arguments, code=2).stderr


def test_a_download_is_failed_by_command_with_a_message(suite: Suite) -> None:
    with HttpServer() as server:
        url = server.put("/held.bin", Resource(BODY, rate=len(BODY) // 30))
        id = run_json(suite, "downloads", "add", url, "--name", "unwanted.bin", "-d")["id"]
        wait_until(lambda: server.requests_of("/held.bin"), "the download does not begin")
        run(suite, "downloads", "fail", id, "--message", "not this one")
        assert "not this one" in run(suite, "downloads", "watch", id, code=1).stderr
    assert run_json(suite, "downloads", "show", id)["error"]["reason"] == "FAILED_BY_CALLER"


def test_a_download_that_failed_is_made_anew_by_command(suite: Suite) -> None:
    with HttpServer() as server:
        url = server.put("/later.bin", Resource(BODY))
        resource = server.resources.pop("/later.bin")
        run(suite, "downloads", "add", url, code=3)
        (old,) = run_json(suite, "downloads", "list", "--filter", "source~later.bin")["downloads"]
        server.resources["/later.bin"] = resource
        new = run_json(suite, "downloads", "retry", old["id"])
        assert (new["retry_of_id"], new["state"]) == (old["id"], "DOWNLOAD_STATE_COMPLETED")
        assert run(suite, "downloads", "retry", new["id"], code=1).stderr != ""


def test_what_there_is_after_an_error_is_kept_by_command_and_a_retry_goes_on_from_it(suite: Suite) -> None:
    with HttpServer() as server:
        url = server.put("/half.bin", Resource(BODY, faults=[Hang(100_000)]))
        id = run_json(suite, "downloads", "add", url, "--keep-partial", "-d")["id"]
        wait_until(lambda: run_json(suite, "downloads", "show", id)["progress"]["bytes_done"] == "100000", "")
        run(suite, "downloads", "fail", id)
        new = run_json(suite, "downloads", "retry", id, "-d")
        run(suite, "downloads", "watch", new["id"])
        assert [request.range for request in server.requests_of("/half.bin")] == [None, "bytes=100000-"]


def test_a_source_is_looked_up_by_command_and_not_fetched(suite: Suite, tmp_path: Path) -> None:
    with HttpServer() as server:
        url = server.put("/seen.bin?token=s3cret", Resource(BODY))
        plan = run_json(suite, "downloads", "resolve", url)
        assert (plan["kind"], plan["bytes_total"]) == ("SOURCE_KIND_URL", "300000")
        assert [file["path"] for file in plan["files"]] == ["seen.bin"]
        told = run(suite, "downloads", "resolve", url).stdout
        assert "1 file, 300.0 kB" in told
        assert "s3cret" not in told
        assert (
            "nothing that a hub names"
            in run(suite, "downloads", "add", url, "--variant", "fp16", code=2).stderr
        )
        run(suite, "downloads", "resolve", server.url("/missing.bin"), code=3)
        assert not run_json(suite, "downloads", "list", "--filter", "source~seen.bin")["downloads"]


def test_at_a_terminal_each_of_several_files_has_a_line_that_is_gone_at_the_end(
    suite: Suite, tmp_path: Path
) -> None:
    into = Path(suite.data_dir) / "downloads" / "drawn"
    with HttpServer() as server:
        urls = [server.put(f"/drawn-{n}.bin", Resource(BODY, rate=len(BODY) // 3)) for n in range(3)]
        listed = tmp_path / "files.txt"
        listed.write_text("\n".join(urls))
        environ = {"MODELKEEP_DATA_DIR": str(suite.data_dir)}
        shown = session(["downloads", "add-files", str(listed), str(into)], env=environ)
    assert shown.code == 0, shown.raw
    for n in range(3):
        assert re.search(rf"^  drawn-{n}\.bin +.* %", shown.plain, re.MULTILINE), shown.plain
    assert "\x1b[3A" in shown.raw
    assert re.search(r"^Download \d+ is completed", shown.raw.rpartition("\x1b[J")[2].strip())


def test_a_priority_may_be_below_zero(suite: Suite) -> None:
    with HttpServer() as server:
        url = server.put("/first.bin", Resource(BODY))
        id = run_json(suite, "downloads", "add", url, "--no-start", "--priority", "-1")["id"]
        assert run_json(suite, "downloads", "priority", id, "-5")["priority"] == -5
        assert "priority" in run(suite, "downloads", "priority", id, "-x", code=2).stderr
        run(suite, "downloads", "cancel", id)


def test_a_file_is_replaced_by_command_only_when_told(suite: Suite) -> None:
    with HttpServer() as server:
        url = server.put("/replaced.bin", Resource(BODY))
        path = Path(run_json(suite, "downloads", "add", url)["path"])
        server.put("/replaced.bin", Resource(BODY[::-1]))
        assert "replace_existing" in run(suite, "downloads", "add", url, code=1).stderr
        assert path.read_bytes() == BODY
        run(suite, "downloads", "add", url, "--replace")
    assert path.read_bytes() == BODY[::-1]


def test_several_files_are_fetched_as_one_download_by_command(suite: Suite, tmp_path: Path) -> None:
    with HttpServer() as server:
        first, second = server.put("/one.bin", Resource(BODY)), server.put("/x/two.bin", Resource(BODY[::-1]))
        listed = tmp_path / "files.txt"
        listed.write_text(f"# a set\n{first}\n\n{second} sub/two.bin {sha256(BODY[::-1]).hexdigest()}\n")
        into = Path(suite.data_dir) / "downloads" / "pair"
        added = run_json(suite, "downloads", "add-files", str(listed), str(into))
        assert (added["state"], added["file_count"]) == ("DOWNLOAD_STATE_COMPLETED", 2)
        assert [(into / "one.bin").read_bytes(), (into / "sub/two.bin").read_bytes()] == [BODY, BODY[::-1]]
        assert "2 of 2" in run(suite, "downloads", "show", added["id"]).stdout
        assert "and 1 more" in run(suite, "downloads", "list", "-o", "wide", "--no-trunc").stdout
        run(suite, "downloads", "add-files", str(listed), str(into), code=1)
        run(suite, "downloads", "add-files", str(listed), str(into), "--replace")
    for text in ("", "no-address\n", f"{first} a {'ab' * 32} more\n"):
        listed.write_text(text)
        assert "LIST" in run(suite, "downloads", "add-files", str(listed), str(into), code=2).stderr
