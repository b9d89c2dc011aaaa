"""The lines of docs/security.md, and the scripts of clients/grpcurl, on a suite that speaks TLS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.defaults import DEFAULT_PORTS
from modelkeep.devcerts import make_certificates
from modelkeep.supervisor import Suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    make_certificates(folder / "certs")
    try:
        with Suite(
            folder / "modelkeep-data",
            services=("record",),
            certs=folder / "certs",
            anonymous="none",
            gateway_port=0,
        ) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(suite: Suite, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    places = [ROOT / ".cache" / "bin", Path(sys.executable).parent]
    path = os.pathsep.join([*map(str, places), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=suite.data_dir.parent,
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_lines_of_the_documentation_work_as_they_stand_there(suite: Suite) -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    blocks = re.findall(r"^<!-- grpcurl -->\n```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    port = suite.addresses["record"].rpartition(":")[2]
    done = run(suite, "\n".join(blocks).replace(str(DEFAULT_PORTS["record"]), port))
    assert done.returncode == 0, done.stderr
    assert "{" in done.stdout
    assert "no models" in done.stdout + done.stderr


def test_the_scripts_call_by_tls_with_the_files_that_the_environment_names(suite: Suite) -> None:
    assert suite.certs is not None
    environment = {
        "MODELKEEP_CLIENT_RECORD_ADDRESS": suite.addresses["record"],
        "MODELKEEP_CA_FILE": str(suite.certs / "ca.pem"),
        "MODELKEEP_CERT_FILE": str(suite.certs / "client.pem"),
        "MODELKEEP_KEY_FILE": str(suite.certs / "client.key"),
        "MODELKEEP_TOKEN_FILE": "/none",
    }
    done = run(suite, str(ROOT / "clients" / "grpcurl" / "list.sh"), **environment)
    assert done.returncode == 0, done.stderr


def test_the_suites_gateway_calls_by_its_certificate_and_passes_tokens_on(suite: Suite) -> None:
    assert suite.gateway is not None
    assert suite.gateway.address, suite.gateway.refusal
    token = (suite.data_dir / "run" / "tokens" / "owner").read_text().strip()
    url = f"{suite.gateway.address}/v1/models"

    def status(**headers: str) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert status(authorization=f"Bearer {token}") == 200
    assert status() == 401
