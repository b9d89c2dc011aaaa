"""The TypeScript client as a page has it: gRPC-Web through a real Envoy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.client import Client
from modelkeep.suitefile import token_path
from support import typescript
from support.conformance import Ground, cases, ground
from support.installs import small_lora

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]  # the compiler may have to be fetched


@pytest.fixture(scope="module")
def there(folder: Path) -> Iterator[Ground]:
    typescript.built()
    with ground(folder, gateway_port=0) as made:
        yield made


def test_the_conformance_cases_hold(there: Ground) -> None:
    done = typescript.run("test/conformance", there.gateway, settings=there.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(cases())} passed\n"


def test_a_watch_goes_on_across_a_restart_of_the_service(there: Ground, folder: Path) -> None:
    suite = there.suite
    arguments = (there.gateway, str(token_path(suite.data_dir)))
    with Client(data_dir=suite.data_dir) as client:
        records = client.model_record_store
        key = client.model_install.register_path(small_lora(folder / "imports" / "watched.safetensors"))
        with typescript.running("test/page", *arguments, settings={}) as page:
            page.until("these there are")
            records.update_model(key, {"name": "before"})
            assert page.line() == f"{key} before"
            suite.kill("record")
            suite.restart("record")
            records.update_model(key, {"name": "after"})
            assert page.line() == f"{key} after"
            records.del_model(key)
            assert page.line() == f"removed: {key}"
            page.end()


def test_what_a_browser_loads_needs_nothing_of_nodes() -> None:
    compiled = typescript.built() / "src"
    shared = [path for path in compiled.rglob("*.js") if path.parent != compiled / "node"]
    assert compiled / "web" / "index.js" in shared
    needs = {
        name
        for path in shared
        for name in re.findall(r'from "([^"]+)"', path.read_text("utf-8"))
        if name[0] != "."
    }
    assert needs == {
        "@bufbuild/protobuf/codegenv2",
        "@bufbuild/protobuf/wkt",
        "@connectrpc/connect",
        "@connectrpc/connect-web",
    }
