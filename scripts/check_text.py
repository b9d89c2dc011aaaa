"""What no file of the repository may hold, and files that others speak of and that are not there."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SKIPPED_FOLDERS = {
    ".git",
    ".venv",
    ".cache",
    "modelkeep-data",
    "third_party",
    "dist",
    "build",
    "node_modules",
}
_SKIPPED_ENDINGS = (".png", ".safetensors", ".bin", ".binpb", ".gz", ".whl", ".pyc")
# Written in parts, so that this file passes its own check.
_REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("index", "crates", "io"),
        ("static", "crates", "io"),
        ("repo1", "maven", "org"),
        ("repo", "maven", "apache", "org"),
    )
]
_RULES = (
    ("the host of a package registry", re.compile("|".join(map(re.escape, _REGISTRIES)))),
    (
        "an absolute path of one machine",
        re.compile(r"(?<![\w.~:/-])/(?:root|work|home/(?!me/|you/|user/)\w+|Users/\w+)/"),
    ),
    ("a merge conflict's mark", re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE)),
)
_PYTHON_RULES = (
    (
        "something left to be done",
        re.compile(r"#\s*(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b"),
    ),
    ("something left to be done", re.compile(r"\bNot" + r"ImplementedError\b")),
)
#: What only one module of the services does, since elsewhere it was done so that a client's value broke it.
_HOMES = (
    (
        "a time's conversion that can fail",
        re.compile(
            r"\.(?:To|From)(?:Datetime|Timedelta|Nanoseconds|Microseconds|Milliseconds|Seconds|JsonString)\("
        ),
        "services/modelkeep_common/wire.py",
    ),
    (
        "another reading of addresses",
        re.compile(r"\burllib(?:\.|\s+import\s+)parse\b(?! import quote$)", re.MULTILINE),
        "services/modelkeep_common/urls.py",
    ),
    (
        "another reading of HTTP",
        re.compile(r"\b(?:http\.client|urllib\.request|email\.(?:utils|message|parser|policy))\b"),
        "services/modelkeep_download/engine/http1.py",
    ),
    (
        "another list of what is secret",
        re.compile(r"""(?i)["'|(](?:x-amz-signature|api_?key|passwd|password|client_secret)["'|)]"""),
        "services/modelkeep_common/urls.py",
    ),
    ("a token's decoding", re.compile(r"\bb64decode\("), "services/modelkeep_common/tokens.py"),
)
#: Another file of the repository.
_NAMED = re.compile(
    r"(?<![\w/.<>-])(?:docs|tests|scripts|services|clients|proto|deploy)/[\w./-]+\.(?:py|md|sh|proto|txt)\b"
)
#: In a README: a module, by its place in the folder that is described, or by its name alone.
_MODULE = re.compile(r"`([\w/]+\.py)`")
_LOCKFILE_ADDRESS = re.compile(r'"resolved"\s*:')


def files(root: Path) -> Iterator[Path]:
    """Every file that belongs to the repository, by what is not ignored."""
    for path in sorted(root.iterdir()):
        ignored = path.name.endswith("_cache") or path.name in ("__pycache__", ".hypothesis")
        if path.is_symlink() or path.name in _SKIPPED_FOLDERS or ignored:
            continue
        if path.is_dir():
            yield from files(path)
        elif not path.name.endswith(_SKIPPED_ENDINGS):
            yield path


def is_generated(path: Path) -> bool:
    """Whether protoc or a plugin of it wrote it."""
    return path.name.endswith(("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi", ".pb.go", "_pb.ts"))


def problems_of(path: Path, root: Path) -> Iterator[str]:
    """What is wrong with one file."""
    name = path.relative_to(root).as_posix()
    if path.name == "uv.lock":
        yield f"{name}: must not be committed: it holds index addresses; pins live in requirements/"
        return
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return
    if is_generated(path):
        return
    for what, pattern in _RULES + (_PYTHON_RULES if path.suffix == ".py" else ()):
        if match := pattern.search(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{name}:{line}: holds {what}: {match[0].strip()!r}"
    for what, pattern, home in _HOMES if name.startswith("services/") and path.suffix == ".py" else ():
        if name != home and (match := pattern.search(text)):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{name}:{line}: holds {what}, {match[0]!r}: its home is {home}"
    if path.name == "package-lock.json" and _LOCKFILE_ADDRESS.search(text):
        yield f"{name}: holds resolved addresses; set omit-lockfile-registry-resolved"


def missing(root: Path, name: str, names: Collection[str]) -> Iterator[str]:
    """What one of the files says of another that is not there."""
    text = (root / name).read_text(errors="replace")
    for found in sorted({*_NAMED.findall(text)} - {*names}):
        yield f"{name}: names {found}, which is not there"
    if name.endswith("README.md"):
        below = (name.removesuffix("README.md"), "tests/")
        for found in sorted({*_MODULE.findall(text)}):
            full = {found, f"services/{found}", f"clients/python/{found}"}
            near = (other for other in names if other.startswith(below) and other.endswith(f"/{found}"))
            if full.isdisjoint(names) and not any(near):
                yield f"{name}: names {found}, which is not there"


def main(root: Path = ROOT) -> int:
    """Check the repository; returns the exit code."""
    present = list(files(root))
    problems = [problem for path in present for problem in problems_of(path, root)]
    names = {path.relative_to(root).as_posix() for path in present}
    texts = (name for name in names if name.endswith((".md", ".py", ".proto")))
    # A test may speak of what it makes itself.
    problems += [
        problem
        for name in sorted(texts)
        if not name.startswith("tests/")
        for problem in missing(root, name, names)
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
