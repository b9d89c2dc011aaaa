"""What clients/README.md says is run as it stands there, Go and TypeScript by the tests of those clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from modelkeep.client import Client
from modelkeep.defaults import DEFAULT_PORTS
from support.compilers import java_classpath, rust_program
from support.installs import small_lora
from support.suite import OwnersSuite, service_suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "clients" / "README.md").read_text("utf-8")
_RECORD = f"127.0.0.1:{DEFAULT_PORTS['record']}"


def snippet(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(text)


@pytest.fixture(scope="module")
def suite(folder: Path) -> Iterator[OwnersSuite]:
    """A suite with a LoRA."""
    with service_suite(folder / "data") as started, Client(data_dir=folder / "data") as client:
        client.model_install.register_path(small_lora(folder / "ink.safetensors"))
        yield started


def said(*command: str, **environment: str) -> str:
    places = [ROOT / ".cache" / "bin", Path(sys.executable).parent]
    path = os.pathsep.join([*map(str, places), os.environ["PATH"]])
    whole: Mapping[str, str] = {"PATH": path, "HOME": os.environ.get("HOME", "/"), **environment}
    done = subprocess.run(
        command, cwd=ROOT, env=whole, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pythons_lines_tell_the_models(suite: OwnersSuite) -> None:
    program = snippet("python")
    assert " ink" in said(sys.executable, "-c", program, MODELKEEP_DATA_DIR=str(suite.data_dir))


def test_grpcurls_line_tells_the_models(suite: OwnersSuite) -> None:
    line = snippet("sh")
    assert _RECORD in line
    assert '"name": "ink"' in said("bash", "-c", line.replace(_RECORD, suite.over_tcp["record"]))


def test_its_line_for_protoc_takes_every_file_of_the_api(folder: Path) -> None:
    (flags,) = re.findall(r"`protoc (-I[^`]+)`", README)
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "proto").rglob("*.proto"))]
    out = folder / "api.binpb"
    said(sys.executable, "-m", "grpc_tools.protoc", *flags.split(), f"--descriptor_set_out={out}", *files)
    assert (
        sorted(f"proto/{file.name}" for file in FileDescriptorSet.FromString(out.read_bytes()).file) == files
    )


def test_its_templates_are_there() -> None:
    named = re.findall(r"`(\w+/buf\.gen\.yaml)`", README)
    assert sorted(named) == ["go/buf.gen.yaml", "java/buf.gen.yaml", "typescript/buf.gen.yaml"]
    for name in named:
        assert (ROOT / "clients" / name).is_file()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_rusts_lines_tell_the_models(suite: OwnersSuite) -> None:
    program = (ROOT / "clients" / "rust" / "examples" / "list_models.rs").read_text("utf-8")
    assert textwrap.indent(snippet("rust"), " " * 4) in program
    address = suite.over_tcp["record"]
    assert " ink\n" in said(str(rust_program("examples/list_models")), f"http://{address}")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_stubs_for_java_compile_and_its_lines_tell_the_models(suite: OwnersSuite) -> None:
    program = (ROOT / "clients" / "java" / "example" / "ListModels.java").read_text("utf-8")
    assert textwrap.indent(snippet("java"), " " * 8) in program
    classpath = java_classpath()
    compiled = {path.stem for path in (ROOT / ".cache" / "java" / "classes").rglob("*Grpc.class")}
    services = ("RecordService", "DownloadService", "InstallService", "LoaderService", "ServerService")
    assert compiled == {f"{service}Grpc" for service in services}
    assert " ink\n" in said("java", "-cp", classpath, "ListModels", suite.over_tcp["record"])
