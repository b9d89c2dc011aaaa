"""A gateway whose certificate is replaced before its end goes on calling a service, over new connections."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import time
from pathlib import Path

import pytest

from modelkeep.devcerts import Issued
from modelkeep.gateway import Gateway, UpstreamCertificate, secrets
from modelkeep_common.serving import server as serving_module
from modelkeep_common.serving import start_server
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings
from support.callers import callers_file
from support.certificates import AUTHORITY, put, tls_settings
from support.gateways import running
from support.tokens import token_of, write_tokens

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

#: Seconds that the gateway's first certificate lasts, with some for a start on a busy machine.
LASTS_S = 20


def lasting(seconds: float) -> Issued:
    return AUTHORITY.issue(uri="spiffe://test/gateway", server=False, days=seconds / 86_400)


def ask(address: str) -> str:
    """The status of a list of models, and the answer."""
    shown = f"authorization: Bearer {token_of('eve')}"
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "--max-time",
            "30",
            "-w",
            "\n%{http_code}",
            "-H",
            shown,
            f"http://{address}/v1/models",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    body, _, status = done.stdout.rpartition("\n")
    return status if status == "200" else f"{status}: {body}{done.stderr}"


@pytest.mark.parametrize("renewed", [True, False])
async def test_a_gateways_calls_go_on_past_the_end_of_its_first_certificate_if_it_has_another(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, renewed: bool
) -> None:
    monkeypatch.setattr(serving_module, "CONNECTION_AGE_S", 2)
    settings = RecordSettings.for_test(
        data_dir / "data",
        **tls_settings(data_dir / "tls"),
        tls_callers_file=callers_file(data_dir / "callers.json", (), gateway=()),
        token_file=write_tokens(data_dir / "tokens.json", {"eve": ["viewer"]}),
        insecure=False,
    )
    server = await start_server(RecordApplication(settings), settings)
    try:
        cert, key = put(data_dir / "front", "gateway", lasting(LASTS_S))
        ends = time.time() + LASTS_S
        ca = data_dir / "tls" / "ca.pem"
        gateway = Gateway(
            {"record": [server.address]},
            upstream_tls=UpstreamCertificate(ca, ["spiffe://test/server"], cert, key),
            retries=0,
            secrets_at=data_dir / "secrets",
        )
        (data_dir / "secrets").mkdir()
        for name, content in secrets(gateway).items():
            (data_dir / "secrets" / name).write_text(json.dumps(content))
        context = running(dataclasses.replace(gateway), data_dir)
        address = await asyncio.to_thread(context.__enter__)
        try:
            assert await asyncio.to_thread(ask, address) == "200"
            if renewed:
                put(data_dir / "front", "gateway", lasting(600))
            answers = set[str]()
            while time.time() < ends + 6:
                answers.add(await asyncio.to_thread(ask, address))
                await asyncio.sleep(0.3)
            if renewed:
                assert answers == {"200"}
            else:
                assert await asyncio.to_thread(ask, address) != "200"
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)
    finally:
        await server.stop()
