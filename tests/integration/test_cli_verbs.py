"""The command line on a suite: naming models and suites, errors for programs, and the smaller verbs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelkeep.cli.main import app
from modelkeep.client import Client
from modelkeep.loader.v1 import hold_pb2
from modelkeep.loader.v1.loader_service_pb2_grpc import LoaderServiceStub
from modelkeep.rpc import open_channel
from modelkeep.supervisor import Suite
from support import modelshapes, tinymodels
from support.cli import run, run_json
from support.httpserver import HttpServer, Resource
from support.suite import service_suite


@pytest.fixture(scope="module")
def ink(suite: Suite, folder: Path) -> str:
    """Key of a LoRA called "Ink"."""
    path = modelshapes.write_safetensors(folder / "ink.safetensors", modelshapes.table("lora.sd-1.peft"))
    run(suite, "install", str(path), "--name", "Ink", "--set", "tags=fine")
    key: str = run_json(suite, "search", str(path))["models"][0]["key"]
    return key


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file of a person who has none yet."""
    monkeypatch.setenv("MODELKEEP_CONFIG", str(tmp_path / "conf" / "config.json"))
    return tmp_path / "conf" / "config.json"


def plain(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


# -- naming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["Ink", "ink", "INK", "ink:sd-1", "Ink:SD-1", "{key}", "{KEY}", "{part}", "{PART}"]
)
def test_a_model_is_named_by_name_name_and_base_or_a_part_of_its_key(
    suite: Suite, ink: str, name: str
) -> None:
    given = name.format(key=ink, KEY=ink.upper(), part=ink[:5], PART=ink[:4].upper())
    assert run_json(suite, "show", given)["model"]["key"] == ink


@pytest.mark.parametrize(
    ("name", "near"), [("Inc", "Did you mean Ink?"), ("ink:sdxl", ""), ("zzzzzz", ""), ("0" * 31, "")]
)
def test_what_no_model_is_called_is_told_with_what_is_near(
    suite: Suite, ink: str, name: str, near: str
) -> None:
    said = run(suite, "show", name, code=3).stderr
    assert near in said
    assert ("Did you mean" in said) == bool(near) or name == "ink:sdxl"


def test_of_models_with_one_name_the_candidates_are_told_and_the_base_chooses(
    suite: Suite, folder: Path
) -> None:
    keys = []
    for base in ("sd-1", "sd-2"):
        path = modelshapes.write_safetensors(
            folder / base / "twin.safetensors", modelshapes.table("lora.sd-1.peft"), metadata={"of": base}
        )
        run(suite, "install", str(path), "--name", "twin", "--set", "type=lora", "--again")
        keys.append(run_json(suite, "search", str(path))["models"][0]["key"])
    run(suite, "edit", keys[1], "base=sd-2")
    said = run(suite, "show", "TWIN", code=1).stderr
    assert f"twin:sd-1 (lora, {keys[0][:12]})" in said
    assert f"twin:sd-2 (lora, {keys[1][:12]})" in said
    assert run_json(suite, "show", "twin:sd-2")["model"]["key"] == keys[1]
    both = run_json(suite, "rm", "twin:sd-1", "twin:sd-2", "--keep-files")
    assert [one["key"] for one in both["removed"]] == keys


def test_the_shell_completes_names_keys_and_tags_but_nothing_that_steers_it(suite: Suite, ink: str) -> None:
    run(suite, "edit", "Ink", "tags=fine")

    def completed(*words: str) -> list[str]:
        line = ["modelkeep", *words]
        done = subprocess.run(
            [sys.executable, "-m", "modelkeep.cli"],
            env={
                **os.environ,
                "_MODELKEEP_COMPLETE": "complete_bash",
                "COMP_WORDS": " ".join(line),
                "COMP_CWORD": str(len(line) - 1),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split("\n")

    at = ("--data-dir", str(suite.data_dir))
    assert "Ink" in completed("show", *at, "In")
    assert ink in completed("show", *at, ink[:4])
    assert "fine" in completed("list", *at, "--tag", "f")
    run(suite, "edit", "Ink", "name=Ink\u202e")
    assert not any("\u202e" in one for one in completed("show", *at, "In"))
    run(suite, "edit", ink, "name=Ink")


def test_filters_of_models_take_commas_any_case_and_the_names_of_the_wire(suite: Suite, ink: str) -> None:
    for wish in ("LoRA", "vae,lora", "MODEL_TYPE_LORA"):
        assert ink in run(suite, "list", "--type", wish, "-q").stdout.split()
    for wish in ("SD-1", "sdxl,Sd_1"):
        assert ink in run(suite, "list", "--base", wish, "-q").stdout.split()
    assert ink in run(suite, "list", "--filter", "type=LORA", "--filter", "name~in", "-q").stdout.split()
    assert "Did you mean lora?" in run(suite, "list", "--type", "lorra", code=2).stderr
    assert "Did you mean sd-1?" in run(suite, "list", "--base", "sd1").stderr


# -- which suite ----------------------------------------------------------------------------------------


def test_a_data_folder_without_a_suite_is_an_error_before_and_after_the_verb(
    suite: Suite, tmp_path: Path
) -> None:
    environ = {f"MODELKEEP_CLIENT_{name.upper()}_ADDRESS": to for name, to in suite.addresses.items()}
    for arguments in (["--data-dir", str(tmp_path), "list"], ["list", "--data-dir", str(tmp_path)]):
        refused = CliRunner().invoke(app, arguments, env=environ)
        assert refused.exit_code == 4, refused.output
        assert f"no suite runs on {tmp_path}" in refused.stderr


def test_options_after_the_verb_win_over_those_before_it(suite: Suite, ink: str, tmp_path: Path) -> None:
    found = plain("--data-dir", str(tmp_path), "list", "-q", "--data-dir", str(suite.data_dir))
    assert ink in found.stdout


def test_every_service_may_be_named_by_its_address(suite: Suite, ink: str, tmp_path: Path) -> None:
    record = f"Record={suite.addresses['record']}"
    assert ink in plain("list", "-q", "--data-dir", str(tmp_path), "--address", record).stdout
    refused = plain("list", "--address", "nobody=x:1", "--json")
    assert (refused.exit_code, json.loads(refused.stderr)["reason"]) == (2, "USAGE")


def test_contexts_name_suites(suite: Suite, ink: str, config: Path, tmp_path: Path) -> None:
    assert "has no contexts" in plain("context").stderr
    assert plain("context", "add", "here", "--data-dir", str(suite.data_dir)).exit_code == 0
    assert plain("context", "add", "away", "--address", "record=127.0.0.1:1").exit_code == 0
    assert config.stat().st_mode & 0o077 == 0
    assert ink in plain("list", "-q", "--context", "here").stdout
    assert plain("context", "use", "away").exit_code == 0
    assert plain("list").exit_code == 4
    assert ink in plain("list", "-q", "--data-dir", str(suite.data_dir)).stdout
    shown = json.loads(plain("context", "ls", "--json").stdout)["contexts"]
    assert [(one["name"], one["current"]) for one in shown] == [("away", True), ("here", False)]
    assert "Did you mean here?" in plain("context", "use", "hree").stderr
    plain("context", "use", "here")
    assert plain("list", "-q").stdout.split()
    plain("context", "rm", "here")
    assert "No context is in use." in plain("context", "show").stdout


def test_a_configuration_file_that_cannot_be_read_is_told_and_left_alone(config: Path) -> None:
    config.parent.mkdir()
    config.write_text("{")
    assert str(config) in plain("list").stderr
    assert plain("context", "use", "-").exit_code == 2
    assert config.read_text() == "{"


# -- errors for programs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["show", "nobody"], 3, "UNKNOWN_MODEL"),
        (["installs", "show", "99999"], 3, "UNKNOWN_JOB"),
        (["list", "--type", "nonsense"], 2, "USAGE"),
        (["list", "--nonsense"], 2, "USAGE"),
        (["show"], 2, "USAGE"),
        (["list", "--sort", "nonsense"], 2, "USAGE"),
        (["install", "/nowhere/at-all.safetensors"], 3, "SOURCE_NOT_FOUND"),
    ],
)
def test_with_json_an_error_is_one_object_on_stderr(
    suite: Suite, arguments: list[str], code: int, reason: str
) -> None:
    for wish in (["--json"], ["-o", "json"]):
        result = run(suite, *arguments, *wish, code=code)
        said = json.loads(result.stderr)
        assert (said["reason"], result.stdout) == (reason, "")
        assert {"message", "metadata", "remedy"} <= set(said)


def test_a_job_that_failed_ends_the_command_with_the_code_of_its_error(suite: Suite) -> None:
    with HttpServer() as server:
        url = server.put("/there.safetensors", Resource(b"x")).replace("there", "gone")
        result = run(suite, "install", url, code=3)
        assert "SOURCE_NOT_FOUND" in result.stderr
        lines = run(suite, "install", url, "--json", code=3).stderr.splitlines()
        assert json.loads(lines[-1])["reason"] == "SOURCE_NOT_FOUND"


# -- verbs ----------------------------------------------------------------------------------------------


def test_where_prints_a_path_that_is_there(suite: Suite, ink: str, folder: Path) -> None:
    assert run(suite, "where", "ink").stdout == f"{folder}/ink.safetensors\n"
    run(suite, "install", str(folder / "ink.safetensors"), "--copy", "--again", "--name", "inside")
    path = Path(run(suite, "where", "inside").stdout.strip())
    assert path.is_absolute()
    assert path.exists()
    assert run_json(suite, "show", "inside")["absolute_path"] == str(path)
    assert f"path: {path}" in " ".join(run(suite, "show", "inside").stdout.split())
    run(suite, "rm", "inside")


def test_tags_are_put_on_taken_off_and_counted(suite: Suite, ink: str) -> None:
    assert run(suite, "tag", "add", "ink", "sketch", "fine", "fine").stdout == "Ink: fine, sketch\n"
    assert {"tag": "sketch", "count": 1} in run_json(suite, "tag", "ls")["tags"]
    assert run(suite, "tag", "rm", "ink", "SKETCH").stdout == "Ink: fine\n"
    assert run(suite, "tag", "ls", "ink", "-q").stdout == "fine\n"


@pytest.mark.parametrize(
    ("verb", "shown"),
    [(["list", "--filter", "name=Ink"], "ink-on-paper"), (["tag", "ls"], "ink-on-paper\t1")],
)
def test_a_list_that_is_watched_tells_of_a_change(
    suite: Suite, ink: str, verb: list[str], shown: str
) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "modelkeep.cli", *verb, "-w", "--data-dir", str(suite.data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        assert "TAG" in watching.stdout.readline()
        run(suite, "tag", "add", "Ink", "ink-on-paper")
        assert any(shown in line for line in iter(watching.stdout.readline, ""))
    finally:
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=20)
        run(suite, "tag", "rm", "Ink", "ink-on-paper")
    assert (watching.returncode, said) == (130, "")


def test_a_field_that_is_written_nearly_right_is_told(suite: Suite, ink: str) -> None:
    for command in (["edit", "ink", "description_=x"], ["install", "/nowhere", "--set", "description_=x"]):
        assert "Did you mean description?" in run(suite, *command, code=2).stderr


def test_verify_tells_what_is_not_as_recorded(suite: Suite, ink: str, folder: Path) -> None:
    path = modelshapes.write_safetensors(
        folder / "v.safetensors", modelshapes.table("lora.sd-1.peft"), metadata={"a": "b"}
    )
    run(suite, "install", str(path), "--name", "v")
    assert "v: as recorded" in run(suite, "verify", "v").stdout
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    assert (
        f"has {len(before) - 1} bytes, not {len(before)}"
        in run(suite, "verify", "v", "--quick", code=1).stdout
    )
    path.unlink()
    answer = json.loads(run(suite, "verify", "v", "ink", "--json", code=1).stdout)["models"]
    assert [bool(one["wrong"]) for one in answer] == [True, False]
    run(suite, "verify", code=2)
    run(suite, "rm", "v")


def test_status_tells_services_models_jobs_and_memory(suite: Suite, ink: str) -> None:
    told = run(suite, "status").stdout
    for word in ("record", "loader", "models folder:", "lora", "ram:", "free"):
        assert word in told
    data = run_json(suite, "status")
    assert {one["service"] for one in data["services"]} == {"record", "download", "install", "loader"}
    assert int(data["store"]["model_count"]) >= 1
    assert data["disks"][0]["path"] == os.path.realpath(suite.data_dir / "models")


def test_status_of_a_service_that_is_away_is_exit_code_4_and_the_others_are_told(suite: Suite) -> None:
    result = run(suite, "status", "--address", "loader=127.0.0.1:1", code=4)
    assert "loader\taway" in result.stdout
    assert "does not answer at 127.0.0.1:1" in result.stdout
    assert "record\tup" in result.stdout


def test_a_suite_that_runs_without_a_service_is_well(folder: Path) -> None:
    with service_suite(folder / "small", services=("record", "download", "install")) as small:
        result = run(small, "status")
        assert "loader\tnot run" in result.stdout
        assert "runs without it" in run(small, "cache", "residents", code=4).stderr
        path = modelshapes.write_safetensors(folder / "s.safetensors", modelshapes.table("lora.sd-1.peft"))
        run(small, "install", str(path), "--name", "s")
        assert "leases not known" in run(small, "rm", "s", "--dry-run").stdout
        run(small, "rm", "s")
    assert "no suite runs on" in run(small, "status", code=4).stdout


def test_du_sums_up(suite: Suite, ink: str) -> None:
    (room,) = [one for one in run_json(suite, "du", "--by", "TYPE")["usage"] if one["name"] == "lora"]
    assert int(room["size_bytes"]) > 0
    assert "Ink" in run(suite, "du").stdout


def test_a_download_is_added_shown_and_listed(suite: Suite, ink: str, folder: Path) -> None:
    with HttpServer() as server:
        body = (folder / "ink.safetensors").read_bytes()
        url = server.put("/some.safetensors", Resource(body))
        into = suite.data_dir / "downloads" / "mine"
        added = run_json(suite, "downloads", "add", url, str(into), "--name", "other.safetensors")
        assert added["state"] == "DOWNLOAD_STATE_COMPLETED"
        assert Path(added["path"]).read_bytes() == body
        shown = run(suite, "downloads", "show", added["id"]).stdout
        assert url in shown
        assert (
            added["id"] in run(suite, "downloads", "list", "--filter", "state=completed", "-q").stdout.split()
        )
        default = run_json(suite, "downloads", "add", url)
        assert default["path"] == os.path.realpath(suite.data_dir / "downloads" / "some.safetensors")
        missing = run(suite, "downloads", "add", url + "x", str(into), code=3)
        assert "SOURCE_NOT_FOUND" in missing.stderr
    assert "no address" in run(suite, "downloads", "add", "http://", str(into), code=2).stderr
    assert run(suite, "downloads", "rm", added["id"]).stdout == "Forgot 1 download.\n"
    assert Path(added["path"]).exists()
    assert (
        run_json(suite, "downloads", "prune", "--state", "Completed", "--older-than", "1h")["pruned_count"]
        == "0"
    )


def test_downloads_get_limits_and_priorities(suite: Suite) -> None:
    with HttpServer() as server:
        url = server.put("/slow.bin", Resource(b"\0" * 300_000, rate=5_000))
        into = str(suite.data_dir / "downloads" / "slow")
        added = run_json(suite, "downloads", "add", url, into, "-d", "--rate", "40k", "--priority", "4")
        assert (added["max_bytes_per_second"], added["priority"]) == ("40000", 4)
        assert "40.0 kB a second" in run(suite, "downloads", "show", added["id"]).stdout
        said = run(suite, "downloads", "limit", added["id"], "--rate", "1.5MiB").stdout
        assert said == f"Download {added['id']} has at most 1.6 MB a second.\n"
        assert run_json(suite, "downloads", "limit", added["id"], "--rate", "none")["priority"] == 4
        said = run(suite, "downloads", "priority", added["id"], "2").stdout
        assert said == f"Download {added['id']} has priority 2.\n"
        run(suite, "downloads", "cancel", added["id"])
    before = run_json(suite, "downloads", "limit")
    changed = run_json(suite, "downloads", "limit", "--rate", "20M", "--parallel", "3")
    assert (changed["max_bytes_per_second"], changed["max_parallel_downloads"]) == ("20000000", 3)
    run(suite, "downloads", "limit", "--queue", "nightly", "--parallel", "1")
    changed = run_json(suite, "downloads", "limit", "--connections-per-file", "4", "--connections", "20")
    assert (changed["max_connections_per_file"], changed["max_connections"]) == (4, 20)
    told = run(suite, "downloads", "limit").stdout
    for part in ("at once:", "3", "at most 20.0 MB a second", "queue nightly:", "1 at once", "4 for a file"):
        assert part in told
    assert run_json(suite, "downloads", "limit", "--reset") == before
    for wrong in (
        ["--rate", "fast"],
        ["--rate", "20i"],
        ["3"],
        ["3", "--parallel", "1"],
        ["3", "--connections", "1"],
        ["--queue", "q"],
    ):
        run(suite, "downloads", "limit", *wrong, code=2)


def test_an_install_is_shown_with_all_that_is_known(suite: Suite, ink: str) -> None:
    (id,) = [
        job["id"]
        for job in run_json(suite, "installs", "list", "ink.safetensors")["installs"]
        if job["model_key"] == ink
    ][:1]
    shown = run(suite, "installs", "show", id).stdout
    assert "Ink" in shown
    assert ink in shown


def test_a_model_whose_files_are_gone_is_listed_as_missing(suite: Suite, folder: Path) -> None:
    tensors = modelshapes.table("lora.sd-1.peft")
    path = modelshapes.write_safetensors(folder / "m.safetensors", tensors, metadata={"m": "m"})
    run(suite, "install", str(path), "--name", "gone", "--label", "who=me")
    with Client(data_dir=suite.data_dir) as client:
        key = client.model_record_store.search_by_name("gone")[0].key
    path.unlink()
    assert run(suite, "list", "--missing", "-q").stdout.split() == [key]
    assert run(suite, "list", "--filter", "state=missing", "-q").stdout.split() == [key]
    assert key not in run(suite, "list", "--present", "-q").stdout
    assert "missing" in run(suite, "list", "--label", "who=me").stdout
    assert "missing_time" in run(suite, "show", "gone").stdout
    run(suite, "rm", "gone")


def test_a_change_that_loses_settings_is_told_and_wants_a_yes(suite: Suite, folder: Path) -> None:
    tensors = modelshapes.table("lora.sd-1.peft")
    path = modelshapes.write_safetensors(folder / "e.safetensors", tensors, metadata={"e": "e"})
    run(suite, "install", str(path), "--name", "e", "--set", "rank=8")
    would = run_json(suite, "edit", "e", "type=vae", "format=checkpoint", "--dry-run")
    assert "lora.rank" in would["lost_fields"]
    refused = run(suite, "edit", "e", "type=vae", "format=checkpoint", code=2)
    assert "would lose" in refused.stderr
    assert run_json(suite, "show", "e")["model"]["type"] == "MODEL_TYPE_LORA"
    run(suite, "edit", "e", "type=vae", "format=checkpoint", "--yes")
    assert run_json(suite, "show", "e")["model"]["type"] == "MODEL_TYPE_VAE"
    run(suite, "rm", "e")


@pytest.mark.long  # the loader's helper imports torch
@pytest.mark.timeout(90)
def test_a_model_that_a_lease_holds_is_removed_by_force_alone(suite: Suite, folder: Path) -> None:
    tinymodels.save_vae_file(folder / "held.safetensors")
    run(suite, "install", str(folder / "held.safetensors"), "--set", "base=sd-1", "--name", "held")
    with Client(data_dir=suite.data_dir) as client:
        key = client.model_record_store.search_by_name("held")[0].key
        run(suite, "load", "held")
        with open_channel(client.addresses["loader"]) as channel:
            request = hold_pb2.AcquireLeaseRequest(components=[{"key": key}], delivery=hold_pb2.DELIVERY_NONE)
            request.ttl.seconds = 60
            lease = LoaderServiceStub(channel).AcquireLease(request, timeout=60).grant.lease
    assert "held" in run(suite, "cache", "residents").stdout
    assert "held" in run(suite, "cache", "leases").stdout
    would = run_json(suite, "rm", "held", "--dry-run")
    assert (would["would_remove"][0]["lease_ids"], would["needs_force"]) == ([lease.id], True)
    assert "without --force nothing is removed" in run(suite, "rm", "held", "--dry-run").stdout
    assert run_json(suite, "rm", "held", "--dry-run", "--force")["needs_force"] is False
    refused = run(suite, "rm", "held", code=1).stderr
    assert "MODEL_IN_USE" in refused
    assert "--force" in refused
    assert "Removed held" in run(suite, "rm", "held", "--force").stdout
