"""Generate the committed stubs of other languages; with --check, fail if that changes anything.

Usage: scripts/proto_clients.py [--check] [LANGUAGE ...]   (without languages: all)

What is made, and by which plugins, each language's buf.gen.yaml says; the plugins are looked for in
.cache/bin, where scripts/tools.sh puts them, in what npm has installed, and in PATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from proto import ROOT, settle

#: Language, which is a folder of clients/, to how the names of the files end that are made there.
COMMITTED: Final = {"go": ".pb.go", "typescript": "_pb.ts"}
_PLUGINS: Final = (ROOT / ".cache" / "bin", ROOT / "clients" / "typescript" / "node_modules" / ".bin")
_BUF: Final = Path(sys.executable).with_name("buf")


def template_of(language: str) -> Path:
    """The buf template of a language."""
    return ROOT / "clients" / language / "buf.gen.yaml"


def generate(language: str, out: Path) -> None:
    """Make what a language's template says, below `out` in place of the repository.

    Raises:
        SystemExit: A plugin is missing or failed; buf has said which.
    """
    path = os.pathsep.join([*map(str, _PLUGINS), os.environ["PATH"]])
    command = [str(_BUF), "generate", "--template", str(template_of(language)), "--output", str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=False)
    if done.returncode:
        gets = "scripts/tools.sh gets the plugins for Go, scripts/npm.sh that for TypeScript"
        raise SystemExit(f"The stubs for {language} were not made; {gets}.")


def main() -> int:
    """Generate, or check; returns the exit code."""
    check = "--check" in sys.argv
    asked = [name for name in sys.argv[1:] if name != "--check"]
    code = 0
    for language in asked or [name for name in COMMITTED if template_of(name).exists()]:
        home = Path("clients") / language
        with tempfile.TemporaryDirectory() as scratch:
            generate(language, Path(scratch))
            made, present = (
                [
                    path.relative_to(base)
                    for path in sorted((base / home).rglob(f"*{COMMITTED[language]}"))
                    if "node_modules" not in path.parts
                ]
                for base in (Path(scratch), ROOT)
            )
            remedy = "make proto-clients" if check else ""
            code |= settle(Path(scratch), ROOT, made, present, remedy=remedy)
    return code


if __name__ == "__main__":
    sys.exit(main())
