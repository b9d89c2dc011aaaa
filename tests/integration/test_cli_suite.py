"""The command line against a real suite: what it prints, how it ends, and what Ctrl-C leaves behind."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelkeep.cli.main import app
from modelkeep.supervisor import Suite
from support import modelshapes
from support.cli import run, run_json
from support.httpserver import Cut, HttpServer, Resource, Status
from support.waiting import wait_until


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    tensors = modelshapes.table("lora.sd-1.peft")
    return modelshapes.write_safetensors(tmp_path / "sketch.safetensors", tensors)


def start(suite: Suite, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "modelkeep.cli", *arguments],
        env={
            **os.environ,
            "MODELKEEP_DATA_DIR": "/nowhere" if "--data-dir" in arguments else str(suite.data_dir),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_model_is_installed_looked_at_changed_and_removed(suite: Suite, lora: Path) -> None:
    installed = run(suite, "install", str(lora), "--name", "sketch", "--set", "description=quick lines")
    found = re.search(r"Installed sketch as ([0-9a-f]{32}) \(lora, sd-1", installed.stdout)
    assert found is not None, installed.output
    key = found[1]

    assert key in run(suite, "list", "--type", "lora").stdout
    assert key not in run(suite, "list", "--type", "vae").stdout
    assert key in run(suite, "search", "quick", "sketch").stdout
    assert key in run(suite, "search", str(lora)).stdout

    shown = run_json(suite, "show", "sketch")
    assert shown["model"]["key"] == key
    assert shown["model"]["type"] == "MODEL_TYPE_LORA"
    assert [file["path"] for file in shown["files"]] == [lora.name]
    assert run_json(suite, "list")["models"][0]["size_bytes"] == str(lora.stat().st_size)

    edited = run_json(suite, "edit", "sketch", 'tags=["ink", "paper"]', "description=")
    assert (edited["tags"], edited["description"]) == (["ink", "paper"], "")
    assert key in run(suite, "list", "--tag", "ink", "--tag", "paper").stdout

    assert run_json(suite, "installs", "list")["installs"][0]["model_key"] == key
    assert f"Removed sketch ({key})" in run(suite, "rm", "sketch").stdout
    assert lora.exists()
    run(suite, "show", key, code=3)


def test_the_command_that_is_told_of_an_installed_model_makes_another(suite: Suite, lora: Path) -> None:
    for how in ([], ["--copy"]):
        run(suite, "install", str(lora), *how)
        said = run(suite, "install", str(lora), *how).stderr
        advised = re.search("`(--again[^`]*)` makes another", said)
        assert advised is not None, said
        run(suite, "install", str(lora), *advised[1].split(), *how)
        keys = run(suite, "list", "-q", "--filter", f"name={lora.stem}").stdout.split()
        assert len(keys) == 2
        run(suite, "rm", "-y", *keys)


def test_what_is_installed_already_is_said_and_another_one_is_made_only_when_asked_for(
    suite: Suite, lora: Path
) -> None:
    installed = run(suite, "install", str(lora), "--copy")
    key = re.search("[0-9a-f]{32}", installed.stdout)[0]  # type: ignore[index]
    for more in ([], ["--name", "other"]):
        again = run(suite, "install", str(lora), "--copy", *more)
        assert re.match(f"Installed already: {lora.stem} as {key} ", again.stdout)
        assert "--again" in again.stderr
        told = run(suite, "install", str(lora), "--copy", "--dry-run", *more)
        assert told.stdout == again.stdout
    dry = run(suite, "install", str(lora), "--copy", "--again", "--dry-run")
    assert re.search(rf"would install: +{lora.stem}\n", dry.stdout)
    assert re.search(rf"to: +{re.escape(str(suite.data_dir))}.*/models\n", dry.stdout)
    assert re.search(rf"same content: +{key}", dry.stdout)
    assert len(run_json(suite, "list")["models"]) == 1
    other = run(suite, "install", str(lora), "--copy", "--again")
    assert key not in other.stdout
    assert f"The same content is installed as {key}" in other.stderr
    one = run(suite, "install", str(lora), "--one-copy")
    assert one.stdout.startswith("Installed already: ")
    assert len(run_json(suite, "list")["models"]) == 2
    run(suite, "install", str(lora), "--one-copy", "--again", code=2)
    for model in run_json(suite, "list")["models"]:
        run(suite, "rm", model["key"])


def test_a_moved_model_is_offered_when_its_content_is_installed_and_relinked_by_command(
    suite: Suite, lora: Path
) -> None:
    run(suite, "install", str(lora), "--name", "moving")
    key = run_json(suite, "show", "moving")["model"]["key"]
    moved = lora.rename(lora.with_name("elsewhere.safetensors"))
    again = run(suite, "install", str(moved))
    assert f"The files of {key} had this content and are gone." in again.stderr
    other = re.search("[0-9a-f]{32}", again.stdout)[0]  # type: ignore[index]
    advised = re.findall("`modelkeep ([^`]+)`", again.stderr)
    assert [text.split()[0] for text in advised] == ["rm", "relink"]
    for text in advised:
        run(suite, *text.split(), *(["-y"] if text.startswith("rm") else []))
    run(suite, "show", other, code=3)
    assert run_json(suite, "show", "moving")["model"]["path"] == str(moved)
    assert moved.exists()
    told = run(suite, "relink", "moving", str(moved), "--dry-run")
    assert f"can be linked to {moved}" in told.stdout
    run(suite, "rm", "moving", "-y")


def test_a_copied_model_loses_its_files_with_its_record(suite: Suite, lora: Path) -> None:
    run(suite, "install", str(lora), "--copy", "--name", "copied")
    path = suite.data_dir / "models" / run_json(suite, "show", "copied")["model"]["path"]
    assert path.exists()
    removed = run_json(suite, "rm", "copied")
    assert removed["deleted_paths"] == [str(path)]
    assert not path.exists()
    assert lora.exists()


def test_probe_says_what_a_file_holds_and_changes_nothing(suite: Suite, lora: Path) -> None:
    text = run(suite, "probe", str(lora)).stdout
    assert re.search(r"type: +lora", text)
    assert re.search(r"base: +sd-1", text)
    result = run_json(suite, "probe", str(lora))
    assert result["type"] == "MODEL_TYPE_LORA"
    assert result["evidence"]
    assert run_json(suite, "list")["models"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "nobody"], 3, "modelkeep list"),
        (["show", "0" * 32], 3, "UNKNOWN_MODEL"),
        (["install", "/nowhere/at-all.safetensors"], 3, "SOURCE_NOT_FOUND"),
        (["install", "https://"], 2, "FIELD_INVALID"),
        (["installs", "watch", "99999"], 3, "UNKNOWN_JOB"),
        (["installs", "cancel", "99999"], 3, "UNKNOWN_JOB"),
        (["downloads", "pause", "99999"], 3, "UNKNOWN_JOB"),
        (["downloads", "watch", "99999"], 3, "UNKNOWN_JOB"),
        (["list", "--type", "nonsense"], 2, "control_lora"),
        (["load", "0" * 32], 3, "UNKNOWN_MODEL"),
        (["cache", "revoke", "lease-of-nobody"], 3, "UNKNOWN_LEASE"),
        (["rm", "nobody", "--files", "any"], 2, "--yes"),
        (["edit", "nobody", "nonsense"], 2, "FIELD=VALUE"),
        (["downloads", "pause", "x"], 2, "integer"),
        (["install", ""], 2, "empty"),
        (["probe", ""], 2, "empty"),
        (["installs", "list", "nonsense"], 0, "'nonsense'"),
        (["list", "--base", "nonsense"], 0, "filters"),
    ],
)
def test_errors_have_a_code_and_say_what_to_do(
    suite: Suite, arguments: list[str], code: int, said: str
) -> None:
    result = run(suite, *arguments, code=code)
    assert said in result.stderr
    assert result.stdout == ""


def test_a_model_without_a_name_is_no_model_even_if_there_is_only_one(suite: Suite, lora: Path) -> None:
    run(suite, "install", str(lora), "--name", "only")
    for command in (["rm", ""], ["show", ""], ["edit", "", "name=x"], ["load", ""], ["cache", "evict", ""]):
        assert "empty" in run(suite, *command, code=2).stderr
    assert run_json(suite, "show", "only")["model"]["name"] == "only"
    run(suite, "rm", "only")


def test_what_cannot_be_changed_is_not_passed_over_in_silence(suite: Suite, lora: Path) -> None:
    run(suite, "install", str(lora), "--name", "fixed")
    for change, said in (
        ("key=1", "cannot be changed"),
        ("name=", "name cannot be cleared"),
        ("revision=7", "revision"),
        ("nonsense=1", "nonsense"),
    ):
        assert said in run(suite, "edit", "fixed", change, code=2).stderr
    key = run_json(suite, "show", "fixed")["model"]["key"]
    assert run_json(suite, "edit", "fixed", f"key={key}", "tags=ink")["tags"] == ["ink"]
    refused = run(suite, "install", str(lora), "--set", "upcast_attention=no", code=2)
    assert "upcast_attention: 'no' is neither true nor false" in refused.stderr
    run(suite, "rm", "fixed")


def test_a_name_that_two_models_have_is_refused_with_their_keys(suite: Suite, tmp_path: Path) -> None:
    tensors = modelshapes.table("lora.sd-1.peft")
    keys = []
    for folder in ("one", "two"):
        path = modelshapes.write_safetensors(tmp_path / folder / "twin.safetensors", tensors)
        run(suite, "install", str(path), "--name", "twin")
        keys.append(run_json(suite, "search", str(path))["models"][0]["key"])
    result = run(suite, "show", "twin", code=1)
    assert all(key[:12] in result.stderr for key in keys)
    for key in keys:
        run(suite, "rm", key)


def test_the_cache_is_shown_and_emptied_by_command(suite: Suite) -> None:
    capacity = run_json(suite, "cache", "capacity")
    assert capacity["tiers"][0]["tier"] == "TIER_RAM"
    assert run_json(suite, "cache", "residents") == {"residents": []}
    assert run_json(suite, "cache", "leases") == {"leases": []}
    assert "ram:" in run(suite, "cache").stdout


def test_ctrl_c_leaves_the_install_running_and_the_same_command_joins_it(suite: Suite, lora: Path) -> None:
    body = lora.read_bytes()
    with HttpServer() as server:
        # Slow enough to be interrupted, until it is followed again.
        url = server.put("/slow.safetensors", Resource(body, rate=len(body) // 600))
        first = start(suite, "install", url)
        wait_until(
            lambda: any(
                job["source"].get("url") == url and int(job["progress"]["bytes_done"]) > 0
                for job in run_json(suite, "installs", "list")["installs"]
                if "progress" in job
            ),
            "the download does not begin",
        )
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=20)
        assert first.returncode == 130, said
        id = re.search(r"Detached; install (\d+) goes on", said)
        assert id is not None, said
        assert f"modelkeep installs watch {id[1]}" in said
        assert f"modelkeep installs cancel {id[1]}" in said

        second = start(suite, "install", url, "--json")
        assert second.stderr is not None
        assert f"Install {id[1]}: " in second.stderr.readline()
        server.resources["/slow.safetensors"].rate = None
        out, said = second.communicate(timeout=30)
        assert second.returncode == 0, said
        job = json.loads(out)
        assert (job["id"], job["state"]) == (id[1], "INSTALL_STATE_COMPLETED")
        assert server.bytes_served("/slow.safetensors") == len(body)
        run(suite, "rm", job["model_key"])


def test_a_download_is_paused_resumed_and_followed_by_command(suite: Suite, lora: Path) -> None:
    body = lora.read_bytes()
    with HttpServer() as server:
        resource = Resource(body, rate=len(body) // 6)
        url = server.put("/held.safetensors", resource)
        run(suite, "install", url, "--detach")
        wait_until(lambda: server.bytes_served("/held.safetensors") > 0, "the download does not begin")
        (job,) = [
            job for job in run_json(suite, "downloads", "list")["downloads"] if job["source"]["url"] == url
        ]
        assert run_json(suite, "downloads", "pause", job["id"])["state"] == "DOWNLOAD_STATE_PAUSED"
        assert "paused" in run(suite, "downloads").stdout
        resource.rate = None
        run(suite, "downloads", "resume", job["id"])
        run(suite, "downloads", "watch", job["id"])
        (install,) = [
            item
            for item in run_json(suite, "installs", "list")["installs"]
            if item["source"].get("url") == url
        ]
        lines = run(suite, "installs", "watch", install["id"], "--json").stdout.splitlines()
        assert json.loads(lines[-1])["state"] == "INSTALL_STATE_COMPLETED"
        run(suite, "rm", install["model_key"])


def test_a_download_whose_address_ran_out_goes_on_at_a_new_one_by_command(suite: Suite, lora: Path) -> None:
    body = lora.read_bytes()
    with HttpServer() as server:
        ran_out = Resource(body, faults=[Cut(len(body) // 2), Status(403, body=b"Request has expired")])
        run(suite, "downloads", "add", server.put("/old.safetensors", ran_out), code=1)
        (job,) = run_json(suite, "downloads", "list", "--filter", "source~old.safetensors")["downloads"]
        assert job["error"]["reason"] == "ADDRESS_EXPIRED"
        new = server.put("/new.safetensors", Resource(body))
        run(suite, "downloads", "resume", job["id"], "--url", new)
        run(suite, "downloads", "watch", job["id"])
        assert server.bytes_served("/new.safetensors") == len(body) - len(body) // 2


def test_an_install_is_cancelled_by_command_and_jobs_are_pruned(suite: Suite, lora: Path) -> None:
    body = lora.read_bytes()
    with HttpServer() as server:
        url = server.put("/endless.safetensors", Resource(body, rate=len(body) // 60))
        run(suite, "install", url, "--detach")
        wait_until(lambda: server.bytes_served("/endless.safetensors") > 0, "the download does not begin")
        id = run_json(suite, "installs", "list", "endless")["installs"][0]["id"]
        assert "cancelled" in run(suite, "installs", "cancel", id).stdout
    assert run(suite, "installs", "prune", "--failed").stdout == "Forgot 0 installs.\n"
    assert run(suite, "installs", "prune", "--older-than", "0.5").stdout == "Forgot 0 installs.\n"
    assert run(suite, "installs", "rm", id).stdout == "Forgot 1 install.\n"
    run(suite, "installs", "rm", id, code=3)
    run(suite, "installs", "prune")
    assert run_json(suite, "installs", "list") == {"installs": []}
    wait_until(
        lambda: (
            run_json(suite, "downloads", "prune") is not None
            and run_json(suite, "downloads", "list") == {"downloads": []}
        ),
        "the downloads are not pruned",
    )


def test_a_terminal_gets_a_progress_bar_and_tables(suite: Suite, lora: Path) -> None:
    body = lora.read_bytes()
    columns = {"list": "40"}  # narrower than all columns: some are left out
    terminal, side = os.openpty()
    with HttpServer() as server:
        url = server.put("/shown.safetensors", Resource(body, rate=len(body)))
        for arguments in (["install", url, "--name", "shown"], ["list"], ["cache"], ["rm", "shown"]):
            process = subprocess.Popen(
                [sys.executable, "-m", "modelkeep.cli", *arguments],
                env={
                    **os.environ,
                    "MODELKEEP_DATA_DIR": str(suite.data_dir),
                    "TERM": "xterm",
                    "COLUMNS": columns.get(arguments[0], "120"),
                },
                stdout=side,
                stderr=side,
            )
            shown = b""
            while process.poll() is None or select.select([terminal], [], [], 0)[0]:
                if select.select([terminal], [], [], 0.1)[0]:
                    shown += os.read(terminal, 65536)
            assert process.returncode == 0, shown
            if arguments[0] == "install":
                assert b"downloading" in shown
                assert "━".encode() in shown
                assert b"MB/s" in shown
            if arguments[0] == "list":
                assert re.search(rb"shown +[0-9a-f]{12} ", shown)
    os.close(terminal)
    os.close(side)


def test_nothing_at_the_address_is_exit_code_4_with_advice() -> None:
    result = CliRunner().invoke(app, ["list"], env={"MODELKEEP_CLIENT_RECORD_ADDRESS": "127.0.0.1:1"})
    assert result.exit_code == 4
    assert "modelkeep up" in result.stderr


def test_an_output_that_nobody_reads_is_no_error_and_a_full_disk_is_told(suite: Suite) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "modelkeep.cli", "list", "--json"]
    environment = {**os.environ, "MODELKEEP_DATA_DIR": str(suite.data_dir)}
    # Without it, what is printed waits in a buffer until the program ends.
    environment.pop("PYTHONUNBUFFERED", None)
    with open(writer, "wb") as unread, open("/dev/full", "wb") as full:
        for output, code, said in (
            (unread, 0, ""),
            (full, 1, "Error: The output cannot be written: No space left on device.\n"),
        ):
            done = subprocess.run(
                command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment, check=False
            )
            assert (done.returncode, done.stderr) == (code, said)


def test_the_data_folder_is_named_by_flag_too(suite: Suite) -> None:
    process = start(suite, "--data-dir", str(suite.data_dir), "list", "--json")
    out, said = process.communicate(timeout=30)
    assert (process.returncode, list(json.loads(out))) == (0, ["models"]), said


def test_the_token_is_printed_and_another_one_can_be_shown(suite: Suite, tmp_path: Path) -> None:
    owners = suite.data_dir / "run" / "tokens" / "owner"
    assert run(suite, "token").stdout == owners.read_text()
    wrong = tmp_path / "token"
    wrong.write_text("not-a-token-of-this-suite\n")
    refused = run(suite, "--token-file", str(wrong), "list", code=1)
    assert "CREDENTIALS_INVALID" in refused.stderr
    missing = run(suite, "--token-file", str(tmp_path / "none"), "token", code=1)
    assert str(tmp_path / "none") in missing.stderr
