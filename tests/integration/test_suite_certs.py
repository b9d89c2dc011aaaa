"""`modelkeep up --certs`: a suite that is called over TCP by who has a certificate."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelkeep.cli.main import app
from modelkeep.client import Client
from modelkeep.devcerts import make_certificates
from modelkeep.exceptions import CredentialsMissingException, UpstreamUnavailableException
from modelkeep.supervisor import Suite, SuiteError
from support.installs import small_lora

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    make_certificates(folder / "certs")
    services = ("record", "download", "install")
    try:
        with Suite(folder / "data", services=services, certs=folder / "certs", anonymous="none") as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def certificate_of(suite: Suite, name: str) -> dict[str, Any]:
    assert suite.certs is not None
    files = {"ca_file": "ca.pem", "cert_file": f"{name}.pem", "key_file": f"{name}.key"}
    return {setting: suite.certs / file for setting, file in files.items()}


def test_the_owner_has_the_sockets_and_over_tcp_his_certificate(suite: Suite, tmp_path: Path) -> None:
    with Client(data_dir=suite.data_dir) as client:
        assert client.addresses["install"].target.startswith("unix:")
        client.model_install.import_model(small_lora(tmp_path / "a.safetensors"), inplace=False)
        client.model_install.wait_for_installs(timeout=60)
        known = client.model_record_store.all_models()
    assert len(known) == 1
    record, install = suite.addresses["record"], suite.addresses["install"]
    with Client(record=record, install=install, **certificate_of(suite, "client")) as client:
        # its digests are still being taken, which changes the record
        assert [model.key for model in client.model_record_store.all_models()] == [known[0].key]
        client.model_install.delete(known[0].key)
    # Where his sockets are out of reach the suite's file tells of the certificate.
    text = (suite.data_dir / "run" / "suite.json").read_text()
    elsewhere = tmp_path / "data"
    (elsewhere / "run").mkdir(parents=True)
    (elsewhere / "run" / "suite.json").write_text(text.replace(".sock", ".none"))
    with Client(data_dir=elsewhere) as client:
        assert client.addresses["record"].target == record
        assert client.model_record_store.all_models() == []


def test_others_do_not_get_in_and_the_gateway_is_nobody_by_itself(suite: Suite) -> None:
    record = suite.addresses["record"]
    with Client(record=record) as client, pytest.raises(UpstreamUnavailableException, match="--ca-file"):
        client.model_record_store.all_models()
    with (
        Client(record=record, **certificate_of(suite, "gateway")) as client,
        pytest.raises(CredentialsMissingException),
    ):
        client.model_record_store.all_models()
    token = suite.data_dir / "run" / "tokens" / "owner"
    with Client(record=record, token_file=token, **certificate_of(suite, "gateway")) as client:
        client.model_record_store.all_models()


def cli(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def test_the_command_line_takes_files_by_option_environment_and_context(suite: Suite, tmp_path: Path) -> None:
    config = {"MODELKEEP_CONFIG": str(tmp_path / "config.json"), "MODELKEEP_DATA_DIR": ""}
    files = {name: str(path) for name, path in certificate_of(suite, "client").items()}
    options = [text for name, path in files.items() for text in (f"--{name.replace('_', '-')}", path)]
    at = ("--address", f"record={suite.addresses['record']}")
    assert cli("list", *at, *options, **config).exit_code == 0
    assert cli(*options, "list", *at, **config).exit_code == 0
    variables = {f"MODELKEEP_{name.upper()}": path for name, path in files.items()}
    assert cli("list", *at, **config, **variables).exit_code == 0
    assert cli("context", "add", "site", *at, *options, **config).exit_code == 0
    assert files["cert_file"] in cli("context", "show", "site", **config).stdout
    assert cli("list", "--context", "site", **config).exit_code == 0
    refused = cli("list", *at, **config)
    assert refused.exit_code == 4
    assert "--ca-file" in refused.stderr
    both = cli("up", "--insecure", "--certs", str(suite.certs), **config)
    assert (both.exit_code, "--insecure lets everybody in" in both.stderr) == (2, True)


def test_a_folder_without_certificates_is_refused_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="certs dev") as caught:
        Suite(tmp_path / "data", services=("record",), certs=tmp_path).start()
    assert caught.value.exit_code == 78
