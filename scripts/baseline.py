"""The API as it was promised, ``proto/baseline.binpb``, beside the API as it is.

Without arguments: fail where the .proto files break what was promised, or where the baseline was renewed
without a decision. With the path of a decision record: renew the baseline, and note that in the record::

    scripts/baseline.py docs/adr/0010-the-api-takes-its-breaking-changes-now.md
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = Path("proto") / "baseline.binpb"
DECISIONS = Path("docs") / "adr"
_NOTE = re.compile(r"^Baseline of the API: sha256 ([0-9a-f]{64})$", re.MULTILINE)


def buf(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run buf in the repository."""
    command = [str(Path(sys.executable).parent / "buf"), *arguments]
    return subprocess.run(command, cwd=root, text=True, capture_output=True, check=False)


def problems(root: Path = ROOT) -> list[str]:
    """What breaks the promise, or was renewed without a decision."""
    compared = buf("breaking", "proto", "--against", str(BASELINE), root=root)
    found = (compared.stdout + compared.stderr).splitlines() if compared.returncode else []
    noted = {digest for path in (root / DECISIONS).glob("*.md") for digest in _NOTE.findall(path.read_text())}
    if digest_of(root / BASELINE) not in noted:
        found.append(f"{BASELINE} was renewed, and no decision in {DECISIONS}/ says so")
    if found:
        found.append("An API that must break needs a decision record; CONTRIBUTING.md says how.")
    return found


def renew(record: Path, root: Path = ROOT) -> None:
    """Make the API as it is the baseline, and note its digest at the end of a decision record."""
    text = record.read_text()
    built = buf("build", "proto", "--exclude-source-info", "-o", str(BASELINE), root=root)
    if built.returncode:
        raise SystemExit(built.stderr)
    note = f"Baseline of the API: sha256 {digest_of(root / BASELINE)}"
    record.write_text(f"{_NOTE.sub('', text).rstrip()}\n\n{note}\n")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Check, or renew; returns the exit code."""
    if len(sys.argv) > 1:
        renew(Path(sys.argv[1]))
        return 0
    found = problems()
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
