"""Generate the Python stubs from proto/ into clients/python; with --check, fail if that changes anything.

Those of other languages are made by scripts/proto_clients.py. This uses the pinned grpcio-tools of the
environment, so that the floor of grpcio and protobuf in pyproject.toml is what the stubs need. A lock keeps
two runs apart.
"""

from __future__ import annotations

import fcntl
import filecmp
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

import grpc_tools
import yaml
from google.api import annotations_pb2, http_pb2
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "clients" / "python"
SOURCES = (ROOT / "proto", ROOT / "third_party" / "proto")
#: Descriptor set of the whole API with its rules for HTTP: for gateways, and for `grpcurl -protoset` where
#: reflection is off.
DESCRIPTORS = Path("modelkeep") / "api.binpb"
#: The rules, in the form of a service configuration (`google.api.Service`).
HTTP_RULES = SOURCES[0] / "http.yaml"


def generate(out: Path) -> list[Path]:
    """Write all stubs below `out`; returns their paths relative to it."""
    ours = sorted(p.relative_to(SOURCES[0]) for p in SOURCES[0].rglob("*.proto"))
    vendored = [Path("buf/validate/validate.proto")]
    # What a client needs to read errors, though no service refers to it.
    details = [Path("google/rpc/error_details.proto"), Path("google/rpc/status.proto")]
    include = [f"-I{source}" for source in SOURCES] + [f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    bin_dir = Path(sys.executable).parent
    command = [
        "protoc",
        *include,
        f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--pyi_out={out}",
    ]
    services = [p for p in ours if p.stem.endswith("_service")]
    (out / DESCRIPTORS).parent.mkdir(parents=True, exist_ok=True)
    run([*command, *map(str, ours + vendored)])
    run([*command[:-2], f"--grpc_python_out={out}", f"--mypy_grpc_out={out}", *map(str, services)])
    run(
        [
            "protoc",
            *include,
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={out / DESCRIPTORS}",
            *map(str, ours + details),
        ]
    )
    finish(out / DESCRIPTORS)
    return sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())


def finish(path: Path) -> None:
    """Write the rules for HTTP into a descriptor set, and take out comments that are not ours."""
    files = FileDescriptorSet.FromString(path.read_bytes())
    without_foreign_comments(files)
    annotate(files, http_rules())
    path.write_bytes(files.SerializeToString(deterministic=True))


def without_foreign_comments(files: FileDescriptorSet) -> None:
    """Leave the comments of our files and of the errors' details: half of the size."""
    for file in files.file:
        if not file.name.startswith(("modelkeep/", "google/rpc/")):
            file.ClearField("source_code_info")


def http_rules() -> dict[str, http_pb2.HttpRule]:
    """Full name of a method to its rule, as an option of the method has it."""
    said = yaml.safe_load(HTTP_RULES.read_text(encoding="utf-8"))
    rules = json_format.ParseDict(said["http"], http_pb2.Http()).rules
    found = {rule.selector: rule for rule in rules}
    if len(found) != len(rules):
        raise SystemExit(
            f"{HTTP_RULES.name}: a method has two rules; further paths are its additional_bindings"
        )
    for rule in found.values():
        rule.ClearField("selector")
    return found


def annotate(files: FileDescriptorSet, rules: dict[str, http_pb2.HttpRule]) -> None:
    """Give methods their rules as the option `google.api.http`."""
    methods = {
        f"{file.package}.{service.name}.{method.name}": method
        for file in files.file
        for service in file.service
        for method in service.method
    }
    if unknown := sorted(rules.keys() - methods.keys()):
        raise SystemExit(f"{HTTP_RULES.name}: there is no method {', '.join(unknown)}")
    for name, rule in rules.items():
        methods[name].options.Extensions[annotations_pb2.http].CopyFrom(rule)


def run(command: list[str]) -> None:
    """Call protoc in this process; its own words are the error message."""
    if protoc.main(command) != 0:
        raise SystemExit(f"protoc failed: {' '.join(command[-3:])}")


def is_generated(path: Path) -> bool:
    """Whether the file is one that this script makes."""
    return path.name.endswith(("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")) or path == DESCRIPTORS


def settle(scratch: Path, out: Path, made: Collection[Path], present: Iterable[Path], *, remedy: str) -> int:
    """Bring what was just made below `scratch` to `out`, or only say what differs; returns the exit code.

    Args:
        scratch: Where it was made.
        out: Where it is committed.
        made: The files, relative to both.
        present: Those that were made before, relative to `out`; what is not made any more is removed.
        remedy: What makes it current, for a check; "": do it.
    """
    stale = sorted({*present} - {*made})
    changed = [
        p for p in made if not (out / p).exists() or not filecmp.cmp(out / p, scratch / p, shallow=False)
    ]
    if remedy:
        for path in stale + changed:
            print(f"not current: {(out / path).relative_to(ROOT)} (run: {remedy})", file=sys.stderr)
        return 1 if stale or changed else 0
    for path in stale:
        (out / path).unlink()
    for path in changed:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scratch / path, out / path)
    print(f"{len(made)} files, {len(changed)} changed, {len(stale)} removed")
    return 0


def main() -> int:
    """Generate, or check; returns the exit code."""
    check = sys.argv[1:] == ["--check"]
    lock = Path(tempfile.gettempdir()) / "modelkeep-proto.lock"
    with lock.open("w") as handle, tempfile.TemporaryDirectory() as scratch:
        fcntl.flock(handle, fcntl.LOCK_EX)
        made = generate(Path(scratch))
        present = [
            p.relative_to(OUT) for p in OUT.rglob("*") if p.is_file() and is_generated(p.relative_to(OUT))
        ]
        return settle(Path(scratch), OUT, made, present, remedy="" if not check else "make proto")


if __name__ == "__main__":
    sys.exit(main())
