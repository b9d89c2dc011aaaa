"""Whose files are whose: an uninstall takes a record's own files, and nothing else by whatever path."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.exceptions import ForbiddenPathException, UnknownModelException
from modelkeep_install.domain.jobs import Job
from modelkeep_install.domain.ownership import trail
from modelkeep_install.domain.ports import RecordFile, Removal, StoredModel
from modelkeep_install.domain.requests import FilePolicy
from modelkeep_install.domain.roots import ModelRoots
from modelkeep_install.uninstall import Uninstalling

_KEYS = [f"{n:032x}" for n in range(6)]


@dataclass
class Books:
    """RecordService and the store's notes of uninstalls, in memory."""

    models: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    noted: dict[str, Removal] = field(default_factory=dict)

    async def get(self, key: str) -> StoredModel:
        if key not in self.models:
            raise UnknownModelException("gone")
        return StoredModel(key, "e", self.models[key][0], "", b"")

    async def all(self) -> list[StoredModel]:
        return [await self.get(key) for key in self.models]

    async def files(self, key: str) -> list[RecordFile]:
        return [RecordFile(name, 1, 0.0) for name in self.models.get(key, ("", ()))[1]]

    async def delete(self, key: str, etag: str, request_id: str) -> int:
        del self.models[key]
        return 1

    async def unfinished(self) -> list[Job]:
        return []

    async def add_removal(self, removal: Removal) -> None:
        self.noted[removal.key] = removal

    async def drop_removal(self, key: str) -> None:
        self.noted.pop(key, None)

    async def removals(self) -> list[Removal]:
        return list(self.noted.values())

    async def drop_digests(self, key: str) -> None:
        pass


class Shelf:
    """A models folder and an import root, in a folder that goes when it is left."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.models, self.imports = base / "data" / "models", base / "import"
        for folder in (self.models, self.imports, base / "data" / "record"):
            folder.mkdir(parents=True)
        self.books = Books()
        self.roots = ModelRoots(self.models, "", [self.imports], data_dir=base / "data")

    def put(self, place: str, content: str = "weights") -> Path:
        path = self.base / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def record(self, key: str, path: str | Path, *files: str) -> str:
        self.books.models[key] = (str(path), files)
        return key

    def uninstall(self, key: str, policy: FilePolicy = FilePolicy.OWNED) -> set[str]:
        books: Any = self.books
        done = asyncio.run(Uninstalling(books, books, self.roots).uninstall(key, policy, ""))
        return {os.path.relpath(path, self.base) for path in done.deleted_paths}

    def everything(self) -> set[str]:
        """Every file and link, from the base."""
        found = {path for path in self.base.rglob("*") if path.is_symlink() or not path.is_dir()}
        return {os.path.relpath(path, self.base) for path in found}


@contextlib.contextmanager
def a_shelf() -> Iterator[Shelf]:
    base = Path(os.path.realpath(tempfile.mkdtemp(prefix="mk-")))
    try:
        yield Shelf(base)
    finally:
        shutil.rmtree(base)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with a_shelf() as made:
        yield made


MINE, OTHER, THIRD = _KEYS[:3]


@pytest.mark.parametrize("policy", [FilePolicy.OWNED, FilePolicy.ANY_ALLOWED_ROOT])
@pytest.mark.parametrize("path", [".", "..", "../..", "{models}", "{base}", "/", "around", "{base}/around"])
def test_a_record_at_or_above_models_dir_owns_nothing(shelf: Shelf, path: str, policy: FilePolicy) -> None:
    shelf.put(f"data/models/{OTHER}/a.safetensors")
    shelf.put("data/models/loose.safetensors")
    for link in (shelf.models / "around", shelf.base / "around"):
        link.symlink_to(shelf.models)
    below = os.path.relpath(
        shelf.models, os.path.realpath(shelf.models / path.format(models=shelf.models, base=shelf.base))
    )
    shelf.record(
        MINE,
        path.format(models=shelf.models, base=shelf.base),
        f"{below}/{OTHER}/a.safetensors",
        f"{below}/loose.safetensors",
    )
    before = shelf.everything()
    assert shelf.uninstall(MINE, policy) == set()
    assert (shelf.everything(), shelf.books.models) == (before, {})


@pytest.mark.parametrize("policy", [FilePolicy.OWNED, FilePolicy.ANY_ALLOWED_ROOT])
def test_what_lies_in_another_models_folder_is_the_others(shelf: Shelf, policy: FilePolicy) -> None:
    shelf.put(f"data/models/{OTHER}/a.safetensors")
    shelf.record(OTHER, f"{OTHER}/b.safetensors", "b.safetensors")
    (shelf.models / "alias").symlink_to(OTHER)
    (shelf.imports / "alias").symlink_to(shelf.models / OTHER)
    for path in (f"{OTHER}/a.safetensors", "alias/a.safetensors", shelf.imports / "alias" / "a.safetensors"):
        shelf.record(MINE, path, "a.safetensors")
        assert shelf.uninstall(MINE, policy) == set()
    shelf.record(MINE, "alias", "a.safetensors")
    assert shelf.uninstall(MINE, policy) == {"data/models/alias"}, "of a link the link"
    assert (shelf.models / OTHER / "a.safetensors").exists()


@pytest.mark.parametrize("name", ["sub/a.safetensors", "../{other}/a.safetensors"])
def test_a_listed_path_that_leads_into_another_model_stops_the_whole_uninstall(
    shelf: Shelf, name: str
) -> None:
    shelf.put(f"data/models/{OTHER}/a.safetensors")
    own = shelf.put(f"data/models/{MINE}/own.safetensors")
    (shelf.models / MINE / "sub").symlink_to(f"../{OTHER}")
    shelf.record(MINE, MINE, "own.safetensors", name.format(other=OTHER))
    with pytest.raises(ForbiddenPathException):
        shelf.uninstall(MINE, FilePolicy.ANY_ALLOWED_ROOT)
    assert own.exists()
    assert MINE in shelf.books.models


@pytest.mark.parametrize(
    "by", ["the same path", "a hard link", "a link", "a link on its way", "a folder around", "no list"]
)
def test_a_file_that_another_record_lists_stays_and_the_rest_goes(shelf: Shelf, by: str) -> None:
    shared = shelf.put("import/model/shared.safetensors")
    shelf.put("import/model/own.safetensors")
    shelf.record(MINE, shelf.imports / "model", "shared.safetensors", "own.safetensors")
    match by:
        case "the same path":
            shelf.record(OTHER, shared, "shared.safetensors")
        case "a hard link":
            os.link(shared, shelf.imports / "other.safetensors")
            shelf.record(OTHER, shelf.imports / "other.safetensors", "other.safetensors")
        case "a link":
            (shelf.imports / "other.safetensors").symlink_to("model/shared.safetensors")
            shelf.record(OTHER, shelf.imports / "other.safetensors", "other.safetensors")
        case "a link on its way":
            (shelf.imports / "way").symlink_to("model")
            shelf.record(OTHER, shelf.imports / "way", "shared.safetensors")
        case "a folder around":
            shelf.record(OTHER, shelf.imports, "model/shared.safetensors")
        case "no list":
            shelf.record(OTHER, shared)
    assert shelf.uninstall(MINE, FilePolicy.ANY_ALLOWED_ROOT) == {"import/model/own.safetensors"}
    assert shared.exists()
    if by in ("the same path", "a link"):
        assert shelf.uninstall(OTHER, FilePolicy.ANY_ALLOWED_ROOT), "nobody else lists it any more"


def test_a_link_that_another_records_path_needs_stays(shelf: Shelf) -> None:
    shelf.put("import/blobs/1")
    (shelf.imports / "model").mkdir()
    (shelf.imports / "model" / "w.safetensors").symlink_to("../blobs/1")
    shelf.record(MINE, shelf.imports / "model", "w.safetensors")
    (shelf.imports / "other.safetensors").symlink_to("model/w.safetensors")
    shelf.record(OTHER, shelf.imports / "other.safetensors", "other.safetensors")
    assert shelf.uninstall(MINE, FilePolicy.ANY_ALLOWED_ROOT) == set()
    assert (shelf.imports / "other.safetensors").exists()


def test_an_uninstall_that_a_kill_interrupted_spares_what_another_record_lists_since(shelf: Shelf) -> None:
    path = shelf.put(f"data/models/{MINE}/a.safetensors")
    shelf.books.noted[MINE] = Removal(MINE, str(shelf.models), (str(path),))
    shelf.record(OTHER, path, "a.safetensors")

    async def start() -> None:
        books: Any = shelf.books
        uninstalling = Uninstalling(books, books, shelf.roots)
        uninstalling.start()
        async with asyncio.timeout(10):
            while shelf.books.noted:  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.01)
        await uninstalling.close()

    asyncio.run(start())
    assert path.exists()


def test_only_files_and_links_are_deleted(shelf: Shelf) -> None:
    folder = shelf.models / MINE
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    shelf.put(f"data/models/{MINE}/a.safetensors")
    shelf.record(MINE, MINE, "a.safetensors", "pipe")
    assert shelf.uninstall(MINE) == {f"data/models/{MINE}/a.safetensors"}
    assert (folder / "pipe").exists()


def test_the_trail_of_a_path_is_its_links_and_its_file(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 500)
    os.makedirs(deep)
    (deep / "f").touch()
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to(deep)
    (tmp_path / "loop").symlink_to("loop")

    def identity(path: Path) -> tuple[int, int]:
        found = os.lstat(path)
        return found.st_dev, found.st_ino

    links = {identity(tmp_path / "a"), identity(tmp_path / "b")}
    assert trail(str(tmp_path / "a" / ".." / "d" / "f")) == {*links, identity(deep / "f")}
    assert trail(str(tmp_path / "a" / "missing" / "f")) == links
    assert trail(str(tmp_path / "loop")) == {identity(tmp_path / "loop")}


# ---- random layouts ----------------------------------------------------------------------------------------
_PLACES = [
    f"data/models/{MINE}",
    f"data/models/{OTHER}",
    "data/models/free",
    "data/models",
    "import",
    "import/a",
]
_NAMES = ["x", "y", "l"]
#: (place, name, what: a file, or a link or hard link to another place and name)
_THINGS = st.tuples(
    st.sampled_from(_PLACES),
    st.sampled_from(_NAMES),
    st.sampled_from(["file", "file", "link", "hard", "folder link"]),
    st.sampled_from(_PLACES),
    st.sampled_from(_NAMES),
)
#: Which of the folders and files there are a record names, whether as an absolute path, and which files of
#: the folder it lists, through links too.
_RECORDS = st.tuples(
    st.integers(0, 1000),
    st.booleans(),
    st.lists(st.integers(0, 1000), min_size=1, max_size=4),
)


def _lay_out(shelf: Shelf, things: Sequence[tuple[str, str, str, str, str]]) -> None:
    for place, name, what, to, to_name in things:
        path, target = shelf.base / place / name, shelf.base / to / to_name
        with contextlib.suppress(OSError):  # taken, or nothing there to link to
            path.parent.mkdir(parents=True, exist_ok=True)
            match what:
                case "link":
                    path.symlink_to(target)
                case "folder link":
                    path.symlink_to(shelf.base / to)
                case "hard":
                    os.link(target, path)
                case _:
                    path.open("x").close()


def _name(shelf: Shelf, key: str, which: int, absolute: bool, listed: Sequence[int]) -> None:
    """Makes a record of what there is."""
    walk = os.walk(shelf.base / "data" / "models"), os.walk(shelf.imports)
    found = [(here, [*folders, *names]) for here, folders, names in itertools.chain(*walk)]
    places = sorted(
        {*(here for here, _ in found), *(f"{here}/{name}" for here, names in found for name in names)}
    )
    place = places[which % len(places)]
    path = place if absolute else os.path.relpath(place, shelf.models)
    if not os.path.isdir(place):
        shelf.record(key, path, os.path.basename(place))
        return
    files = sorted(
        os.path.relpath(f"{here}/{name}", place)
        for here, _, names in itertools.islice(os.walk(place, followlinks=True), 30)
        for name in names
    )
    shelf.record(key, path, *{files[n % len(files)] for n in listed if files})


def _listed(shelf: Shelf, key: str) -> set[str]:
    """The paths that a record lists, as it writes them."""
    text, names = shelf.books.models[key]
    location = shelf.models / text
    if not names or (list(names) == [location.name] and not location.is_dir()):
        return {str(location)}
    return {str(location / name) for name in names}


def _really(path: str | Path) -> str:
    """Where a file or link lies, whatever the path."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


@settings(max_examples=100)
@given(
    things=st.lists(_THINGS, min_size=4, max_size=16),
    records=st.lists(_RECORDS, min_size=2, max_size=4),
    policies=st.lists(st.sampled_from(list(FilePolicy)), min_size=4, max_size=4),
)
def test_after_any_uninstall_what_other_records_list_and_what_was_not_the_records_is_there(
    things: Sequence[tuple[str, str, str, str, str]],
    records: Sequence[tuple[int, bool, Sequence[int]]],
    policies: Sequence[FilePolicy],
) -> None:
    with a_shelf() as shelf:
        shelf.put("data/record/record.db", "precious")
        _lay_out(shelf, things)
        for key, (which, absolute, listed) in zip(_KEYS, records, strict=False):
            _name(shelf, key, which, absolute, listed)
        for key, policy in zip(list(shelf.books.models), policies, strict=False):
            location = str(shelf.models / shelf.books.models[key][0])
            # Looked up before: a link on the way to a file may go with it.
            really = {path: _really(path) for path in (location, *_listed(shelf, key))}
            mine = set(really.values())
            books = shelf.books.models
            others = {path for other in books if other != key for path in _listed(shelf, other)}
            there = {path for path in others if os.path.exists(path)}
            before = shelf.everything()
            try:
                deleted = shelf.uninstall(key, policy)
            except ForbiddenPathException:
                assert shelf.everything() == before
                del books[key]
                continue
            gone = before - shelf.everything()
            told = [str(shelf.base / path) for path in deleted]
            assert gone == {os.path.relpath(really.get(path) or _really(path), shelf.base) for path in told}
            assert {str(shelf.base / path) for path in gone} <= mine, "only what the record listed"
            assert {path for path in there if os.path.exists(path)} == there, "what another record lists"
            for path in gone:
                _check_place(path, set(books), policy)


def _check_place(path: str, others: set[str], policy: FilePolicy) -> None:
    """A file went from the record's own folder, from none's, or by order from an import root."""
    parts = path.split("/")
    assert policy is not FilePolicy.KEEP
    if parts[0] == "import":
        assert policy is FilePolicy.ANY_ALLOWED_ROOT
        return
    assert parts[:2] == ["data", "models"]
    assert parts[2] not in others, "another model's folder"
