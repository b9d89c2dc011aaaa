"""docs/parity.md against the tests, the .proto files and the list of what the reference says.

Each row maps one heading, table row, bullet, example or promise of the reference to an RPC, a Python name
and a test::

    | Reference | RPC | Python | Test | Status |

Status: ``done`` (Test names one or more that exist, ``tests/…/file.py::test_name``), ``open`` (a part of it
works, or it works in another way), ``later`` (not built yet), ``text`` (has no behaviour; Python names the
document instead).

scripts/parity_items.txt has a line for every heading, table row, bullet, example and sentence of the
reference: a digest of its text, and the label of the row that covers it (one that promises several things
has several lines), or ``-`` where nothing is promised. So the table is checked for completeness without the
reference; where that is at hand, the list is checked against it.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARITY = Path("docs/parity.md")
ITEMS = Path("scripts/parity_items.txt")
#: Not part of the repository; without it the list of items is taken as it is.
REFERENCE = ROOT.parent / "shared" / "reference" / "model_manager_v2.md"
STATUSES = ("done", "open", "later", "text")
NO_PROMISE = "-"
_COLUMNS = 5
_SENTENCE_END = re.compile(r"(?<=[.!?:])(?<!e\.g\.)(?<!i\.e\.)['\"]? +(?=[A-Z`\"*_(])")


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


@dataclass(frozen=True, slots=True)
class Item:
    """What the reference says in one place, and the row that covers it."""

    section: str
    digest: str
    label: str


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


def parse_items(text: str) -> tuple[list[Item], list[str]]:
    """The committed list of items, and what is wrong with its form."""
    items: list[Item] = []
    problems: list[str] = []
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            section = line.removeprefix("## ").strip()
        elif match := re.fullmatch(r"([0-9a-f]{10})  (.+)", line):
            items.append(Item(section, match[1], match[2]))
        elif line and not line.startswith("# "):
            problems.append(f"{ITEMS}:{number}: neither a section nor an item")
    return items, problems


def compare(rows: Iterable[Row], items: Iterable[Item]) -> Iterator[str]:
    """Items without a row, rows without an item, and rows that are there twice."""
    wanted = {(item.section, item.label) for item in items if item.label != NO_PROMISE}
    present = [(row.section, row.reference) for row in rows]
    for section, label in sorted(wanted - set(present)):
        yield f"{PARITY}: no row for {section} / {label}"
    for section, label in sorted(set(present) - wanted):
        yield f"{ITEMS}: no item for the row {section} / {label}"
    for (section, label), count in Counter(present).items():
        if count > 1:
            yield f"{PARITY}: {count} rows for {section} / {label}"


def compare_reference(items: Iterable[Item], reference: str) -> Iterator[str]:
    """What the reference says that the committed list does not have, and the other way round."""
    listed = {(item.section, item.digest) for item in items}
    said = {(section, digest(text)): text for section, text in reference_items(reference)}
    for section, name in sorted(said.keys() - listed):
        yield f"{ITEMS}: not listed, {section}: {name}  {said[section, name][:60]}"
    for section, name in sorted(listed - said.keys()):
        yield f"{ITEMS}: not in the reference, {section}: {name}"


def reference_items(text: str) -> list[tuple[str, str]]:
    """(section, text) of each heading, table row, bullet, example and sentence of the reference."""
    items: list[tuple[str, str]] = []
    section = ""
    lines: list[str] = []
    block: list[str] | None = None

    def end_of_paragraph() -> None:
        items.extend((section, sentence) for sentence in _SENTENCE_END.split(" ".join(lines)) if sentence)
        lines.clear()

    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("```"):
            end_of_paragraph()
            if block is not None:
                items.append((section, " ".join(block)))
            block = [] if block is None else None
        elif block is not None:
            block.append(line)
        elif not line or re.fullmatch(r"\*+", line):
            end_of_paragraph()
        elif match := re.match(r"#+ +(.+)", line):
            end_of_paragraph()
            section = match[1].rstrip(",")
            items.append((section, section))
        elif line.startswith("|"):
            end_of_paragraph()
            if not re.match(r"\|[-* ]*-|\| *\*\*", line):
                items.append((section, line))
        elif match := re.match(r"(?:[-*]|\d+\.) +(.+)", line):
            end_of_paragraph()
            lines.append(match[1])
        else:
            lines.append(line)
    end_of_paragraph()
    return items


def digest(text: str) -> str:
    """What an item of the reference goes by in the committed list."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:10]


def main() -> int:
    """Check; returns the exit code."""
    rows, problems = parse((ROOT / PARITY).read_text())
    problems += problems_of(rows)
    items, malformed = parse_items((ROOT / ITEMS).read_text())
    problems += [*malformed, *compare(rows, items)]
    if REFERENCE.is_file():
        problems += compare_reference(items, REFERENCE.read_text())
    for problem in problems:
        print(problem, file=sys.stderr)
    counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
    print(f"parity: {len(rows)} rows: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if problems or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
