"""The file that describes the API over HTTP."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support import apidescriptors
from support.httprules import bindings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.interop
def test_the_committed_file_is_what_is_generated() -> None:
    script = ROOT / "scripts" / "openapi.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_has_every_verb_and_path() -> None:
    said = yaml.load((ROOT / "deploy" / "openapi.yaml").read_text(), yaml.CSafeLoader)
    told = {(verb, path) for path, verbs in said["paths"].items() for verb in verbs}
    assert told == {
        # It names fields as JSON does.
        (verb, re.sub(r"_([a-z])", lambda found: found[1].upper(), path))
        for method in apidescriptors.methods()
        for verb, path, _ in bindings(method)
    }
