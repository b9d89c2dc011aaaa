"""Figures of the structure: how long the code is, how deep its wings are, how far one thing reaches.

``python scripts/house.py`` prints them; docs/structure.md keeps what it printed, and when. Nothing here
is a check: a figure tells where to look, not what is right.

* lines: hand-written lines (not blank) of services/ and clients/, and of tests/.
* reach of a field: files of services, clients and proto, generated ones apart, that name one field of a
  model. Each is a place that the next such field must be added to.
* wing: for each package the modules, the imports between them (arrows), and the longest chain of imports
  (depth; modules that import each other count as one floor).
* stops of an install: one install of a file, copied, from the begin of its run to its record, in this
  process. A stop is a call from one module of modelkeep_install into another; a coroutine that goes on is no
  new call. Those on the event loop are what the run itself does; the others, on threads, are what its steps
  have done there: probing, hashing, copying, storing. Of these only the different ones count, since a probe
  makes some for each layer of a file.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Where hand-written code lies, and where its tests do.
CODE, TESTS = ("services", "clients"), ("tests",)
FIELD = "upcast_attention"
#: Where an install begins to run, and the call that makes its record.
INSTALL = ("install", "Records.create")
WINGS = (
    "modelkeep_common",
    "modelkeep_record",
    "modelkeep_download",
    "modelkeep_install",
    "modelkeep_loader",
    "modelkeep_convert",
    "modelkeep_devices",
    "modelkeep_keeper",
    "modelkeep",
)
_GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$|\.pb\.go$|_pb\.ts$|/clients/python/buf/|/node_modules/|/dist/")


def hand_written(
    folders: Iterable[str], suffixes: Iterable[str] = (".py", ".sh"), root: Path = ROOT
) -> Iterator[Path]:
    """The files below ``folders`` that somebody wrote."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in suffixes and not _GENERATED.search(str(path)) and path.is_file():
                yield path


def count_lines(folders: Iterable[str]) -> int:
    """Lines that are not blank."""
    return sum(
        1 for path in hand_written(folders) for line in path.read_text("utf-8").splitlines() if line.strip()
    )


def files_of_field(field: str) -> list[str]:
    """The hand-written files that name a field."""
    word = re.compile(rf"\b{field}\b")
    found = hand_written((*CODE, "proto"), (".py", ".proto"))
    return [str(path.relative_to(ROOT)) for path in found if word.search(path.read_text("utf-8"))]


def measure_wing(package: str) -> tuple[int, int, int]:
    """(modules, arrows, depth) of a package, generated modules apart."""
    import grimp

    graph = grimp.build_graph(package, cache_dir=None)
    modules = {module for module in graph.modules if "_pb2" not in module}
    arrows = {
        module: {other for other in graph.find_modules_directly_imported_by(module) if other in modules}
        for module in modules
    }
    return len(modules), sum(map(len, arrows.values())), _depth(arrows)


def _depth(arrows: dict[str, set[str]]) -> int:
    """Modules on the longest chain; a circle is one floor, so that the chain ends."""
    floor_of = floors_of(arrows)
    above: dict[int, set[int]] = {}
    for module, others in arrows.items():
        mine = above.setdefault(floor_of[module], set())
        mine |= {floor_of[other] for other in others} - {floor_of[module]}
    known: dict[int, int] = {}

    def depth(floor: int) -> int:
        if floor not in known:
            known[floor] = 1 + max(map(depth, above[floor]), default=0)
        return known[floor]

    return max(map(depth, above), default=0)


def floors_of(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Modules that reach each other share a number."""
    reach: dict[str, set[str]] = {}
    for module in arrows:
        seen, todo = set[str](), [module]
        while todo:
            for other in arrows[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        reach[module] = seen
    names = sorted(arrows)
    return {
        module: min(at for at, other in enumerate(names) if other == module or _mutual(reach, module, other))
        for module in names
    }


def _mutual(reach: dict[str, set[str]], one: str, other: str) -> bool:
    return other in reach[one] and one in reach[other]


class Stops:
    """Counts the calls between modules of one package on the threads that it is the profiler of.

    Args:
        package: Whose modules count.
        begin: Qualified name of the function with which counting begins.
        end: That with which it ends.
    """

    def __init__(self, package: str, begin: str, end: str) -> None:
        self._package, self._begin, self._end = package + ".", begin, end
        #: (module that calls, module that is called, qualified name of the function), in order.
        self.calls: list[tuple[str, str, str]] = []
        #: Those of them that the thread made which made this.
        self.own: list[tuple[str, str, str]] = []
        self._thread = threading.get_ident()
        self._seen: set[FrameType] = set()
        self._counting = self._over = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """As sys.setprofile wants it."""
        module = str(frame.f_globals.get("__name__", ""))
        if event != "call" or self._over or not module.startswith(self._package) or frame in self._seen:
            return
        self._seen.add(frame)  # a coroutine that goes on is no new call
        name = frame.f_code.co_qualname
        if not self._counting:
            self._counting = name == self._begin
            return
        caller = self._caller(frame)
        if caller not in ("", module) and not name.endswith("__init__"):
            self.calls.append((caller, module, name))
            if threading.get_ident() == self._thread:
                self.own.append(self.calls[-1])
        self._over = name == self._end

    def _caller(self, frame: FrameType) -> str:
        """The nearest module of the package on the stack; "" if the wire asked, which is not the job."""
        found, back = "", frame.f_back
        while back is not None:
            name = str(back.f_globals.get("__name__", ""))
            if name == self._package + "service":
                return ""
            if not found and name.startswith(self._package):
                found = name
            back = back.f_back
        return found


async def trace_install(stops: Stops) -> None:
    """Install one file, copied, with a RecordService beside it."""
    from support.installs import install_service, small_lora

    with tempfile.TemporaryDirectory() as folder:
        model = small_lora(Path(folder) / "import" / "lora.safetensors")
        threading.setprofile(stops)  # before there are threads: those that run already would not be seen
        try:
            async with install_service(Path(folder) / "data") as client:
                sys.setprofile(stops)
                await client.install(model, inplace=False)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def main() -> int:
    """Print all figures."""
    parser = argparse.ArgumentParser(description="Figures of the structure.")
    parser.add_argument("--verbose", action="store_true", help="name the files and the stops")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / folder) for folder in ("services", "clients/python", "tests")]
    code, tests = count_lines(CODE), count_lines(TESTS)
    print(f"hand-written lines of services and clients  {code:,}")
    print(f"tests : code                                {tests / code:.2f} ({tests:,} lines)")
    files = files_of_field(FIELD)
    print(f"files that the field {FIELD} crosses  {len(files)}")
    print("wing                 modules  arrows  depth")
    for package in WINGS:
        modules, arrows, depth = measure_wing(package)
        print(f"{package:20} {modules:7}  {arrows:6}  {depth:5}")
    stops = Stops("modelkeep_install", *INSTALL)
    asyncio.run(trace_install(stops))
    visited = {module for caller, callee, _ in stops.calls for module in (caller, callee)}
    print(
        f"stops of an install  {len(stops.own)} on the event loop; with those on threads "
        f"{len(set(stops.calls))} different, in {len(visited)} modules"
    )
    if options.verbose:
        print(*files, *(" ".join(call) for call in stops.calls), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
