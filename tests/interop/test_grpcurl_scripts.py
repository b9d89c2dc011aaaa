"""The scripts of clients/grpcurl, run with a real grpcurl against a real suite."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client
from modelkeep.supervisor import DEFAULT_PORTS, Suite, read_suite_file
from support.httpserver import HttpServer, Resource, pattern
from support.installs import small_lora
from support.invokeai import InvokeAI
from support.pictures import png
from support.suite import service_suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(90)]

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "clients" / "grpcurl"


@pytest.fixture(scope="module")
def grpcurl() -> str:
    cached = ROOT / ".cache" / "bin" / "grpcurl"
    found = str(cached) if cached.exists() else shutil.which("grpcurl")
    if found is None:
        pytest.fail(
            "grpcurl is missing: GOBIN=$PWD/.cache/bin go install "
            "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
        )
    return found


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    try:
        with service_suite(folder / "modelkeep-data") as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def environment(suite: Suite, grpcurl: str) -> dict[str, str]:
    addresses = {f"MODELKEEP_CLIENT_{name.upper()}_ADDRESS": at for name, at in suite.addresses.items()}
    return {"PATH": os.environ["PATH"], "GRPCURL": grpcurl, **addresses}


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    # Imported here: importing torch takes seconds, and only these tests need it.
    from support import tinymodels

    folder = tmp_path / 'a "quoted" vae'
    tinymodels.vae().save_pretrained(folder)
    return folder


def run(environment: dict[str, str], script: str, *arguments: str, code: int = 0, given: str = "") -> str:
    done = subprocess.run(
        [str(SCRIPTS / script), *arguments],
        env=environment,
        cwd="/",
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def messages(text: str) -> list[Any]:
    """The JSON messages of a stream, one after the other."""
    decoder, found = json.JSONDecoder(), []
    text = text.strip()
    while text:
        message, end = decoder.raw_decode(text)
        found.append(message)
        text = text[end:].strip()
    return found


@pytest.mark.timeout(120)
def test_install_watch_list_and_lease_do_the_main_job(
    environment: dict[str, str], suite: Suite, vae: Path
) -> None:
    made = json.loads(run(environment, "install.sh", str(vae)))["install"]
    assert made["source"]["localPath"] == str(vae)
    with Client(data_dir=suite.data_dir) as client:
        client.model_install.wait_for_job(int(made["id"]), timeout=30)

    frames = messages(run(environment, "watch.sh", made["id"], "2"))
    jobs = [event["put"] for frame in frames for event in frame.get("events", ())]
    assert jobs[-1]["state"] == "INSTALL_STATE_COMPLETED"
    assert frames[0]["phase"] == "WATCH_PHASE_SNAPSHOT"

    (model,) = json.loads(run(environment, "list.sh", "quoted"))["models"]
    assert model["key"] == made["modelKey"]
    assert "models" not in json.loads(run(environment, "list.sh", "nothing-like-it"))

    grant = json.loads(run(environment, "lease.sh", model["key"], "", "30"))["grant"]
    assert grant["lease"]["components"][0]["key"] == model["key"]
    with Client(data_dir=suite.data_dir) as client:
        assert [lease.id for lease in client.model_loader.leases()] == [grant["lease"]["id"]]
    mine = grant["lease"]["id"]
    demoted = json.loads(run(environment, "demote.sh", mine, given=grant["leaseSecret"]))["lease"]
    assert (demoted["id"], demoted.get("demoted", False)) == (mine, False), "it has nothing to let go of"
    back = json.loads(run(environment, "promote.sh", mine, "2", given=grant["leaseSecret"]))["grant"]
    assert back["lease"]["id"] == mine
    run(environment, "demote.sh", mine, given="bm90IGl0", code=71)  # permission denied
    full = json.loads(run(environment, "capacity.sh"))
    assert full["leaseCount"] == 1
    assert messages(run(environment, "capacity.sh", "2"))[0]["capacity"]["leaseCount"] == 1
    (listed,) = json.loads(run(environment, "leases.sh"))["leases"]
    assert (listed["id"], listed["lastChange"]) == (grant["lease"]["id"], "LEASE_CHANGE_RENEWED")
    (frame, *_) = messages(run(environment, "leases.sh", "watch", "2"))
    assert [event["put"]["id"] for event in frame["events"]] == [grant["lease"]["id"]]
    (left,) = messages(run(environment, "leases.sh", "drain"))
    assert (left["leaseCount"], left["done"]) == (1, True)
    assert json.loads(run(environment, "leases.sh", "undrain"))["wasDrained"] is True
    (pin,) = json.loads(run(environment, "pin.sh", model["key"]))["pins"]
    assert (pin["component"]["key"], pin["resident"]) == (model["key"], True)
    assert "evicted" not in json.loads(run(environment, "evict.sh", "--all"))  # the lease holds it
    (needs,) = json.loads(run(environment, "estimate.sh", model["key"]))["components"]
    assert needs["state"] == "RESIDENT_STATE_RESIDENT"
    (taken,) = json.loads(run(environment, "unpin.sh", model["key"]))["components"]
    assert taken["key"] == model["key"]
    relinked = json.loads(run(environment, "relink.sh", model["key"], str(vae)))["model"]
    assert (relinked["key"], relinked["path"]) == (model["key"], str(vae))
    ended = json.loads(run(environment, "revoke.sh", grant["lease"]["id"], 'the "night" shift'))["lease"]
    assert (ended["end"], ended["endMessage"]) == ("LEASE_END_REVOKED", 'the "night" shift')
    assert json.loads(run(environment, "evict.sh", model["key"]))["evictedCount"] == 1


def test_a_picture_is_set_fetched_and_removed_by_a_script(
    environment: dict[str, str], suite: Suite, tmp_path: Path
) -> None:
    key = json.loads(run(environment, "register.sh", str(small_lora(tmp_path / "ink.safetensors"))))["key"]
    (tmp_path / "in.png").write_bytes(png(extra_bytes=100_000))
    made = json.loads(run(environment, "cover.sh", "set", key, str(tmp_path / "in.png")))["model"]
    assert made["coverImage"]["mediaType"] == "image/png"
    assert run(environment, "cover.sh", "get", key, str(tmp_path / "out.png")) == ""
    assert (tmp_path / "out.png").read_bytes() == png(extra_bytes=100_000)
    assert "coverImage" not in json.loads(run(environment, "cover.sh", "rm", key))["model"]


def test_a_path_is_registered_and_copied_by_a_script(
    environment: dict[str, str], suite: Suite, tmp_path: Path
) -> None:
    lora = small_lora(tmp_path / "ink.safetensors")
    done = json.loads(run(environment, "register.sh", str(lora)))
    assert (done["install"]["localPath"], done["key"]) == (str(lora), done["install"]["modelKey"])
    copied = json.loads(run(environment, "register.sh", str(lora), "copy"))
    assert Path(copied["install"]["localPath"]).is_relative_to(suite.data_dir)
    assert copied["key"] != done["key"]


def test_installs_are_steered_by_a_script(environment: dict[str, str], suite: Suite, tmp_path: Path) -> None:
    body = small_lora(tmp_path / "slow.safetensors").read_bytes()
    with HttpServer() as server:
        url = server.put("/slow.safetensors", Resource(body, rate=len(body) // 60))
        id = json.loads(run(environment, "install.sh", url))["install"]["id"]
        paused = json.loads(run(environment, "installs.sh", "pause", id))["install"]
        assert paused["state"] == "INSTALL_STATE_PAUSED"
        resumed = json.loads(run(environment, "installs.sh", "resume", id))["install"]
        assert resumed["id"] == id
        run(environment, "installs.sh", "retry", id, code=64 + 9)
        gone = json.loads(run(environment, "installs.sh", "delete", id))["install"]
        assert gone["state"] == "INSTALL_STATE_CANCELLED"
        run(environment, "installs.sh", "pause", id, code=64 + 5)


def test_records_are_exported_and_imported_by_scripts(environment: dict[str, str], suite: Suite) -> None:
    with Client(data_dir=suite.data_dir) as client:
        store = client.model_record_store
        config = {
            "name": 'a "quoted" ink',
            "path": "/m/ink",
            "base": "sd-1",
            "type": "lora",
            "format": "lycoris",
        }
        key = store.add_model(None, config).key
        lines = "".join(f"{line}\n" for line in store.export(keys=[key]))
        store.del_model(key)
    rehearsed = json.loads(run(environment, "import.sh", "fail", "--dry-run", given=lines))["results"]
    done = json.loads(run(environment, "import.sh", "fail", given=lines))["results"]
    assert rehearsed == done == [{"key": key, "outcome": "IMPORT_OUTCOME_CREATED"}]
    (again,) = json.loads(run(environment, "import.sh", "skip", given=lines))["results"]
    assert again["outcome"] == "IMPORT_OUTCOME_UNCHANGED"
    frames = messages(run(environment, "export.sh", "lora"))
    assert key in [one["model"]["key"] for frame in frames for one in frame["models"]]
    assert key not in run(environment, "export.sh", "control-lora")
    run(environment, "import.sh", code=2)
    copy = Path(json.loads(run(environment, "backup.sh", "by-a-script"))["path"])
    assert copy.parent == suite.data_dir / "record" / "backups"
    run(environment, "backup.sh", "by-a-script", code=64 + 6)


def test_limits_of_downloads_are_shown_and_set(environment: dict[str, str]) -> None:
    before = json.loads(run(environment, "limits.sh"))["limits"]
    narrow = '{"maxParallelDownloads": 1, "queues": [{"queue": "nightly", "maxParallelDownloads": 2}]}'
    limits = json.loads(run(environment, "limits.sh", narrow))["limits"]
    assert limits["maxParallelDownloads"] == 1
    assert limits["queues"] == [{"queue": "nightly", "maxParallelDownloads": 2}]
    assert json.loads(run(environment, "limits.sh", '{"reset": true}'))["limits"] == before


def test_downloads_are_steered_by_a_script(environment: dict[str, str], suite: Suite) -> None:
    with HttpServer() as server, Client(data_dir=suite.data_dir) as client:
        url = server.put("/held.bin", Resource(b"x" * 300_000, rate=10_000))
        queue = client.create_download_queue("grpcurl")
        job, other = (
            queue.create_download_job(url, suite.data_dir / "downloads", f"held-{n}.bin") for n in range(2)
        )
        assert json.loads(run(environment, "downloads.sh", "pause-all", "grpcurl")) == {"pausedCount": "2"}
        started = json.loads(run(environment, "downloads.sh", "start-all", "grpcurl"))
        assert started == {"startedCount": "2"}
        failed = json.loads(run(environment, "downloads.sh", "fail", str(job.id), 'the "night" shift'))
        assert failed["download"]["id"] == str(job.id)
        queue.cancel_job(other)
        queue.join(timeout=20)
        assert "the 'night' shift" in str(queue.id_to_job(job.id).error)
        again = json.loads(run(environment, "downloads.sh", "retry", str(job.id)))["download"]
        assert again["retryOfId"] == str(job.id)
        cancelled = json.loads(run(environment, "downloads.sh", "cancel-all", "grpcurl"))
        assert cancelled == {"cancelledCount": "1"}
    run(environment, "downloads.sh", "fail", code=2)


def test_a_source_is_looked_up_and_fetched_alone_or_with_others(
    environment: dict[str, str], suite: Suite, web: HttpServer
) -> None:
    bodies = {"a.bin": pattern(1000), "b two.bin": pattern(2000, seed=1)}
    urls = [web.put(f"/{n}.bin", Resource(body)) for n, body in enumerate(bodies.values())]
    plan = json.loads(run(environment, "downloads.sh", "resolve", urls[0]))["plan"]
    assert (plan["kind"], plan["bytesTotal"]) == ("SOURCE_KIND_URL", "1000")
    folder = suite.data_dir / "downloads" / "scripts"
    one = json.loads(run(environment, "downloads.sh", "add", urls[0], str(folder)))["download"]
    listed = [text for url, path in zip(urls, bodies, strict=True) for text in (url, path)]
    several = json.loads(run(environment, "downloads.sh", "add-files", f"{folder}/set", *listed))["download"]
    assert several["fileCount"] == 2
    with Client(data_dir=suite.data_dir) as client:
        client.download_queue.join(timeout=20)
        for job in (one, several):
            assert client.download_queue.id_to_job(int(job["id"])).status == "completed"
    assert (folder / "0.bin").read_bytes() == bodies["a.bin"]
    assert {path.name: path.read_bytes() for path in (folder / "set").iterdir()} == bodies
    run(environment, "downloads.sh", "add-files", str(folder), urls[0], code=2)


def test_a_lease_without_a_time_lives_as_long_as_the_script(
    environment: dict[str, str], suite: Suite, vae: Path
) -> None:
    with Client(data_dir=suite.data_dir) as client:
        job = client.model_install.import_model(vae)
        client.model_install.wait_for_job(job, timeout=30)
        script = subprocess.Popen(
            [str(SCRIPTS / "lease.sh"), job.model_key],
            env=environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            until_leases(client, job.model_key, labels={"lease.sh"})
        finally:
            os.killpg(script.pid, 9)
            script.communicate()
        until_leases(client, job.model_key, labels=set())


def until_leases(client: Client, key: str, *, labels: set[str]) -> None:
    deadline = time.monotonic() + 30
    while True:
        found = {lease.holder.label for lease in client.model_loader.leases(key)} - {""}
        if found == labels:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.mark.parametrize(
    "script", ["install.sh", "register.sh", "cover.sh", "installs.sh", "lease.sh", "downloads.sh"]
)
def test_a_script_without_arguments_says_how_it_is_used(environment: dict[str, str], script: str) -> None:
    run(environment, script, code=2)


def test_a_submodel_may_be_written_as_everywhere_else(environment: dict[str, str]) -> None:
    # It gets as far as the service, which does not know the key.
    for submodel in ("vae", "VAE"):
        run(environment, "lease.sh", "0" * 32, submodel, "5", code=69)


def test_the_lines_of_the_readme_work_as_they_stand_there(suite: Suite, grpcurl: str) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^<!-- grpcurl -->\n```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    script = "\n".join(["set -euo pipefail", *blocks])
    for way in ("-plaintext -d", "$(modelkeep token)", '"unix:$socket"'):
        assert way in script
    for service, port in DEFAULT_PORTS.items():
        script = script.replace(f"127.0.0.1:{port}", over_tcp(suite)[service])
    path = os.pathsep.join([str(Path(grpcurl).parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=suite.data_dir.parent,
        env={"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "modelkeep.record.v1.RecordService" in done.stdout


def test_the_scripts_show_the_token_of_a_suite_that_they_call_over_tcp(
    suite: Suite, environment: dict[str, str], tmp_path: Path
) -> None:
    ports = {f"MODELKEEP_CLIENT_{name.upper()}_ADDRESS": at for name, at in over_tcp(suite).items()}
    token = str(suite.data_dir / "run" / "tokens" / "owner")
    lease = ("lease.sh", "0" * 32, "", "5")
    # With the token it gets as far as the service, which does not know the key; without it is refused.
    run({**environment, **ports, "MODELKEEP_TOKEN_FILE": token}, *lease, code=64 + 5)
    run({**environment, **ports, "MODELKEEP_TOKEN_FILE": str(tmp_path / "none")}, *lease, code=64 + 7)
    run({**environment, **ports, "MODELKEEP_TOKEN_FILE": str(tmp_path / "none")}, "list.sh")


def over_tcp(suite: Suite) -> Mapping[str, str]:
    said = read_suite_file(suite.data_dir)
    assert said is not None
    return said.addresses


def test_an_unknown_key_fails_with_the_services_code(environment: dict[str, str]) -> None:
    # grpcurl ends with 64 + the status code; NOT_FOUND is 5.
    run(environment, "lease.sh", "0" * 32, "", "5", code=69)


def test_a_folder_is_scanned_by_a_script(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" folder'
    small_lora(folder / "style.safetensors", metadata={"by": "scan.sh"})
    (folder / "broken.safetensors").write_bytes(b"no header")
    found = json.loads(run(environment, "scan.sh", str(folder)))["findings"]
    assert [(Path(one["path"]).name, one["kind"]) for one in found] == [
        ("broken.safetensors", "SCAN_FINDING_KIND_UNKNOWN"),
        ("style.safetensors", "SCAN_FINDING_KIND_NEW"),
    ]
    assert found[0]["error"]["reason"] == "INVALID_MODEL"


def test_an_invokeai_is_imported_by_a_script(environment: dict[str, str], tmp_path: Path) -> None:
    root = InvokeAI(tmp_path / "invoke ai")
    root.add(1, name="ink")
    for arguments in (("plan",), ()):
        told = run(environment, "import_invokeai.sh", str(root.path), *arguments)
        assert [event for event in ("started", "models", "ended") if f'"{event}": {{' in told] == [
            *("started", "models", "ended"),
        ]
        assert '"outcome": "INVOKE_AI_OUTCOME_NEW"' in told
    assert '"outcome": "INVOKE_AI_OUTCOME_UNCHANGED"' in run(
        environment, "import_invokeai.sh", str(root.path)
    )
