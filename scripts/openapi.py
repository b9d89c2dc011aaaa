"""Generate deploy/openapi.yaml, the API over HTTP; with --check, fail if that changes anything.

It is made by gnostic's protoc-gen-openapi (scripts/tools.sh builds it) from the descriptor set that
scripts/proto.py makes, which has the rules of proto/http.yaml.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from proto import DESCRIPTORS, OUT, ROOT, run, settle

_PLUGIN: Final = ROOT / ".cache" / "bin" / "protoc-gen-openapi"
_MADE: Final = Path("openapi.yaml")
_OPTIONS: Final = "title=modelkeep,version=1,naming=json,enum_type=string,fq_schema_naming=false"


def main() -> int:
    """Generate, or check; returns the exit code."""
    if not _PLUGIN.exists():
        raise SystemExit("protoc-gen-openapi is missing: scripts/tools.sh protoc-gen-openapi")
    descriptors = OUT / DESCRIPTORS
    files = FileDescriptorSet.FromString(descriptors.read_bytes()).file
    with tempfile.TemporaryDirectory() as scratch:
        run(
            [
                "protoc",
                f"--plugin=protoc-gen-openapi={_PLUGIN}",
                f"--descriptor_set_in={descriptors}",
                f"--openapi_out={scratch}",
                f"--openapi_opt={_OPTIONS}",
                *(file.name for file in files if file.service and file.package.startswith("modelkeep.")),
            ]
        )
        remedy = "make proto-clients" if "--check" in sys.argv else ""
        return settle(Path(scratch), ROOT / "deploy", [_MADE], [], remedy=remedy)


if __name__ == "__main__":
    sys.exit(main())
