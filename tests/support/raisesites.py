"""What the code itself puts into the metadata of each error, read from its source."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelkeep import exceptions

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "services", ROOT / "clients" / "python" / "modelkeep")
#: Class of an exception → its reason.
REASON_OF = {
    name: cls.reason
    for name, cls in vars(exceptions).items()
    if isinstance(cls, type) and issubclass(cls, exceptions.ModelkeepError)
}


@dataclass
class Site:
    """One place that makes an exception."""

    place: str
    reason: str
    keys: set[str] = field(default_factory=set)
    #: Parts of its metadata whose keys the source does not show, such as those of another error.
    passed_on: list[str] = field(default_factory=list)
    #: The names of its arguments.
    arguments: set[str] = field(default_factory=set)
    in_client: bool = False


@functools.cache
def sites() -> tuple[Site, ...]:
    """Every place that makes an exception of the suite by the name of its class; takes seconds, once."""
    return tuple(
        site
        for base in SOURCES
        for path in sorted(base.rglob("*.py"))
        if "_pb2" not in path.name
        for site in _sites_in(path, in_client=base == SOURCES[1])
    )


def _sites_in(path: Path, *, in_client: bool) -> Iterator[Site]:
    source = path.read_text()
    if not any(name in source for name in REASON_OF):
        return
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name not in REASON_OF:
            continue
        place = f"{path.relative_to(ROOT)}:{node.lineno}"
        site = Site(place, REASON_OF[name], in_client=in_client)
        around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or f.lineno)]
        site.arguments = {keyword.arg for keyword in node.keywords if keyword.arg}
        for keyword in node.keywords:
            if keyword.arg == "metadata":
                _collect(keyword.value, around, site)
            elif keyword.arg == "violations":
                site.keys.add("fields")
        yield site


def _collect(value: ast.expr, around: list[ast.FunctionDef | ast.AsyncFunctionDef], site: Site) -> None:
    if isinstance(value, ast.Dict):
        for key, item in zip(value.keys, value.values, strict=True):
            if key is None:
                _collect(item, around, site)
            elif isinstance(key, ast.Constant):
                site.keys.add(str(key.value))
            else:
                site.passed_on.append(ast.unparse(key))
    elif isinstance(value, ast.IfExp):
        _collect(value.body, around, site)
        _collect(value.orelse, around, site)
    elif isinstance(value, ast.Name) and (found := list(_assigned(value.id, around))):
        for part in found:
            if isinstance(part, ast.Constant):
                site.keys.add(str(part.value))
            else:
                _collect(part, [], site)
    else:
        site.passed_on.append(ast.unparse(value))


def _assigned(name: str, around: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> Iterator[ast.expr]:
    """Dicts that the functions around assign to a name, and keys that they set in it."""
    for function in around:
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if (
                        isinstance(target, ast.Name)
                        and target.id == name
                        and isinstance(node.value, ast.Dict)
                    ):
                        yield node.value
                    elif isinstance(target, ast.Subscript) and ast.unparse(target.value) == name:
                        yield target.slice
