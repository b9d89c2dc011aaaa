"""How the code is laid out: no file too long, no import circle, what is private used at home, nothing unused.

Which packages and libraries may be imported where is told in pyproject.toml, to import-linter and ruff;
that they look at every package is seen to here.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp

from house import WINGS, floors_of, hand_written

ROOT = Path(__file__).resolve().parent.parent
#: A file is to be read in one sitting: 100 to 400 lines is the aim, this the limit.
MAX_LINES = 500
_WRITTEN = ("services", "clients", "tests", "scripts", "proto", "deploy", ".ci")
#: "" is a script that is called by its name.
_SUFFIXES = ("", ".py", ".proto", ".sh", ".ts", ".tsx", ".css", ".go", ".rs", ".java")
_PACKAGES = ("services", "clients/python")


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


def borrowed_names(root: Path = ROOT) -> Iterator[str]:
    """Imports of ``_name`` from outside its package; tests may, since what they drive need not be public."""
    for folder, path in _modules(root):
        package = path.relative_to(folder).parts[:-1]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            above = package[: len(package) + 1 - node.level] if node.level else ()
            home = (*above, *node.module.split("."))
            places = [root.joinpath(part, *home) for part in _PACKAGES]
            owner = home if any(place.is_dir() for place in places) else home[:-1]
            for name in (alias.name for alias in node.names if re.match("_(?!_)", alias.name)):
                is_module = any((place / f"{name}.py").is_file() for place in places)  # see trespasses
                if not is_module and package[: len(owner)] != owner:
                    yield f"{path.relative_to(root)} imports {name}, which is private to {'.'.join(owner)}"


def unused(root: Path = ROOT) -> Iterator[str]:
    """Functions and values of modules whose name stands nowhere else; a decorator may use what it is on."""
    texts = {
        path: path.read_text("utf-8")
        for path in hand_written((*_PACKAGES, "tests", "scripts"), (".py",), root)
    }
    words = Counter(word for text in texts.values() for word in re.findall(r"\w+", text))
    for _, path in _modules(root):
        for node in ast.parse(texts[path]).body:
            names = []
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
                names = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            for name in names:
                if words[name] == 1 and not name.startswith("__"):
                    yield f"{path.relative_to(root)}: nothing uses {name}"


def overlooked(root: Path = ROOT) -> Iterator[str]:
    """Packages that the checks of imports do not look at."""
    told = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    for package in sorted({path.relative_to(folder).parts[0] for folder, path in _modules(root)}):
        for where, names in (("scripts/house.py", WINGS), ("pyproject.toml", told["root_packages"])):
            if package not in names:
                yield f"{where} does not name the package {package}"


def _modules(root: Path) -> Iterator[tuple[Path, Path]]:
    """Each hand-written module of a package, after the folder that its full name starts in."""
    for folder in (root / part for part in _PACKAGES):
        yield from ((folder, path) for path in hand_written([""], (".py",), folder))


def arrows_of_all() -> dict[str, set[str]]:
    """Module to the modules that it imports when it runs, generated ones apart."""
    graph = grimp.build_graph(*WINGS, cache_dir=None, exclude_type_checking_imports=False)
    modules = {module for module in graph.modules if "_pb2" not in module}
    return {module: set(graph.find_modules_directly_imported_by(module)) & modules for module in modules}


def main() -> int:
    """Check; returns the exit code."""
    sys.path[:0] = [str(ROOT / folder) for folder in ("services", "clients/python")]
    arrows = arrows_of_all()
    problems = [
        *too_long(),
        *circles(arrows),
        *trespasses(arrows),
        *borrowed_names(),
        *unused(),
        *overlooked(),
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
