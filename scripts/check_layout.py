"""How the code is laid out: no file too long, no import circle, and private modules used at home only.

Which packages and libraries may be imported where is told in pyproject.toml, to import-linter and ruff.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp

from house import WINGS, floors_of, hand_written

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 500
_WRITTEN = ("services", "clients", "tests", "scripts", "proto")
_SUFFIXES = (".py", ".proto", ".sh", ".ts", ".go", ".rs", ".java")


def too_long(root: Path = ROOT) -> Iterator[str]:
    """Hand-written files over the limit."""
    for path in hand_written(_WRITTEN, _SUFFIXES, root):
        if (lines := path.read_text("utf-8").count("\n")) > MAX_LINES:
            yield f"{path.relative_to(root)}: {lines} lines, at most {MAX_LINES}: give it one subject"


def circles(arrows: dict[str, set[str]]) -> Iterator[str]:
    """Modules that import each other, directly or through others."""
    floors: dict[int, list[str]] = {}
    for module, floor in floors_of(arrows).items():
        floors.setdefault(floor, []).append(module)
    for modules in floors.values():
        if len(modules) > 1:
            yield f"these modules import each other in a circle: {', '.join(sorted(modules))}"


def trespasses(arrows: dict[str, set[str]]) -> Iterator[str]:
    """Imports of ``a.b._c`` from outside ``a.b``."""
    for module, others in sorted(arrows.items()):
        for other in sorted(others):
            if (private := re.match(r"(.*?)\._(?!_)", other)) and not f"{module}.".startswith(
                f"{private[1]}."
            ):
                yield f"{module} imports {other}, which is private to {private[1]}"


def arrows_of_all() -> dict[str, set[str]]:
    """Module to the modules that it imports when it runs, generated ones apart."""
    graph = grimp.build_graph(*WINGS, cache_dir=None, exclude_type_checking_imports=False)
    modules = {module for module in graph.modules if "_pb2" not in module}
    return {module: set(graph.find_modules_directly_imported_by(module)) & modules for module in modules}


def main() -> int:
    """Check; returns the exit code."""
    sys.path[:0] = [str(ROOT / folder) for folder in ("services", "clients/python")]
    arrows = arrows_of_all()
    problems = [*too_long(), *circles(arrows), *trespasses(arrows)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
