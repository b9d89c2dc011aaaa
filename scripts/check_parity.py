"""docs/parity.md against the tests, the .proto files and, where it is at hand, the reference text.

Each row maps one heading, table row, bullet or example of the reference to an RPC, a Python name and a test::

    | Reference | RPC | Python | Test | Status |

Status: ``done`` (Test names one or more that exist, ``tests/…/file.py::test_name``), ``open`` (belongs to
what is being built, no test yet), ``later`` (not built yet), ``text`` (has no behaviour; Python names the
document instead).
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARITY = Path("docs/parity.md")
#: Not part of the repository; without it only the completeness of the table is not checked.
REFERENCE = ROOT.parent / "shared" / "reference" / "model_manager_v2.md"
STATUSES = ("done", "open", "later", "text")
_COLUMNS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table and the line it is on."""

    line: int
    section: str
    reference: str
    rpc: str
    python: str
    test: str
    status: str


def parse(text: str) -> tuple[list[Row], list[str]]:
    """The rows of docs/parity.md, and what is wrong with its form."""
    rows: list[Row] = []
    problems: list[str] = []
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            section = line.removeprefix("## ").strip()
        if not line.startswith("|") or line.startswith(("|--", "| Reference |")):
            continue
        # A bar inside a cell is written \| as everywhere in Markdown.
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) != _COLUMNS:
            problems.append(f"{PARITY}:{number}: {len(cells)} columns, must be {_COLUMNS}")
            continue
        rows.append(Row(number, section, *cells))
    return rows, problems


def problems_of(rows: Iterable[Row], root: Path = ROOT) -> Iterator[str]:
    """What the rows claim that is not so."""
    declared = declared_rpcs(root)
    tests: dict[str, set[str]] = {}
    for row in rows:
        where = f"{PARITY}:{row.line}: {row.section} / {row.reference}"
        if row.status not in STATUSES:
            yield f"{where}: status {row.status!r} is none of {', '.join(STATUSES)}"
        named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", row.test)
        if row.status == "done" and not named:
            yield f"{where}: done, but names no test (tests/…/file.py::test_name)"
        for file, test in named:
            if file not in tests:
                tests[file] = test_names(root / file)
            if test not in tests[file]:
                yield f"{where}: there is no test {file}::{test}"
        if row.status in ("done", "open"):
            for service, method in re.findall(r"\b(\w+Service)/(\w+)", row.rpc):
                if (service, method) not in declared:
                    yield f"{where}: {service}/{method} is not declared in proto/"
        if row.status == "text":
            for document in re.findall(r"[\w./-]+\.(?:md|toml|py)\b", row.python):
                if not (root / document).exists():
                    yield f"{where}: there is no {document}"


def test_names(path: Path) -> set[str]:
    """The test functions of a file, those in classes included; none when there is no such file."""
    if not path.is_file():
        return set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)}


def declared_rpcs(root: Path) -> set[tuple[str, str]]:
    """Every (service, method) of our .proto files, and the standard health service."""
    found = {("HealthService", name) for name in ("Check", "Watch", "List")}
    for path in (root / "proto").rglob("*_service.proto"):
        service = ""
        for line in path.read_text().splitlines():
            if match := re.match(r"service (\w+)", line):
                service = match[1]
            elif match := re.match(r"\s+rpc (\w+)\(", line):
                found.add((service, match[1]))
    return found


def reference_items(text: str) -> list[tuple[str, str]]:
    """(heading, label) for each heading, table row, bullet and example of the reference text."""
    items: list[tuple[str, str]] = []
    section = ""
    block: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            if block:
                items.append((section, label("example: " + " ".join(block))))
            block = [] if block is None else None
        elif block is not None:
            block.append(line.strip())
        elif match := re.match(r"#+ +(.+)", line):
            section = match[1].strip().rstrip(",")
            items.append((section, "(heading)"))
        elif line.startswith("|") and not re.match(r"\|[-* ]*-|\| *\*\*", line):
            items.append((section, line.split("|")[1].strip()))
        elif match := re.match(r"(?:-|\d+\.) +(.+)", line):
            items.append((section, label(match[1])))
    return list(dict.fromkeys(items))


def label(text: str) -> str:
    """A short name for a bullet or an example."""
    text = re.sub(r"\s+", " ", text).strip().rstrip(".,:")
    return text if len(text) <= 70 else text[:70].rsplit(" ", 1)[0] + " …"


def missing(rows: Iterable[Row], reference: str) -> Iterator[str]:
    """Items of the reference that have no row."""
    present = {(row.section, row.reference) for row in rows}
    for section, item in reference_items(reference):
        if (section, item) not in present:
            yield f"{PARITY}: no row for {section} / {item}"


def main() -> int:
    """Check; returns the exit code."""
    rows, problems = parse((ROOT / PARITY).read_text())
    problems += problems_of(rows)
    if REFERENCE.is_file():
        problems += missing(rows, REFERENCE.read_text())
    for problem in problems:
        print(problem, file=sys.stderr)
    counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
    print(f"parity: {len(rows)} rows: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if problems or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
