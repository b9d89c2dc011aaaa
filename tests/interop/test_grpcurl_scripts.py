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


def run(environment: dict[str, str], script: str, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(SCRIPTS / script), *arguments],
        env=environment,
        cwd="/",
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
    relinked = json.loads(run(environment, "relink.sh", model["key"], str(vae)))["model"]
    assert (relinked["key"], relinked["path"]) == (model["key"], str(vae))
    ended = json.loads(run(environment, "revoke.sh", grant["lease"]["id"], 'the "night" shift'))["lease"]
    assert (ended["end"], ended["endMessage"]) == ("LEASE_END_REVOKED", 'the "night" shift')


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


@pytest.mark.parametrize("script", ["install.sh", "lease.sh"])
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
