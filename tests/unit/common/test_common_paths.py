"""modelkeep_common.paths: what may be touched, and whose the models folder is."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelkeep.exceptions import ForbiddenPathException
from modelkeep_common import paths
from modelkeep_common.paths import MARKER, STAGING, AllowedRoots, ensure_marker, lock_root, open_by_hand
from modelkeep_common.startup import StartupError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_text("data")
    (root / "within").symlink_to("sub/file")
    (root / "out").symlink_to(tmp_path / "outside" / "secret")
    (root / "outdir").symlink_to("../outside")
    (root / "absolute").symlink_to(root / "sub")
    (root / "loop").symlink_to("loop")
    return root


@pytest.fixture(params=["openat2", "by hand"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by hand":

        def refuse(*args: object) -> int:
            raise OSError(38, "no such call")

        monkeypatch.setattr(paths, "_openat2", refuse)


def test_what_lies_beneath_a_root_resolves_links_included(root: Path) -> None:
    allowed = AllowedRoots([root], data_dir=Path("/nowhere"))
    assert allowed.resolve(root / "sub" / "file") == root / "sub" / "file"
    assert allowed.resolve(root / "within") == root / "sub" / "file"
    assert allowed.resolve(root / "absolute" / "file") == root / "sub" / "file"
    assert allowed.resolve(root / "not" / "yet") == root / "not" / "yet"
    assert allowed.resolve("sub/file", base=root) == root / "sub" / "file"
    assert allowed.resolve(root) == root


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret",
        "out",
        "outdir/secret",
        "sub/../../outside/secret",
        "/etc/passwd",
        "\0",
        "x\0y",
        "",
    ],
)
def test_what_leads_outside_is_forbidden_and_its_target_not_told(root: Path, path: str) -> None:
    allowed = AllowedRoots([root], data_dir=Path("/nowhere"))
    with pytest.raises(ForbiddenPathException) as caught:
        allowed.resolve(path, base=root)
    assert "outside/secret" not in str(caught.value).replace(path, "")
    assert not allowed.allows(path, base=root)
    with pytest.raises(ForbiddenPathException):
        allowed.open_beneath(path, base=root)


def test_relative_paths_need_a_base_and_no_roots_allow_nothing(root: Path) -> None:
    with pytest.raises(ForbiddenPathException):
        AllowedRoots([root], data_dir=Path("/nowhere")).resolve("sub/file")
    with pytest.raises(ForbiddenPathException):
        AllowedRoots([], data_dir=Path("/nowhere")).resolve(root / "sub" / "file")


def test_a_root_that_is_a_link_is_its_target(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert (
        AllowedRoots([tmp_path / "alias"], data_dir=Path("/nowhere")).resolve(
            tmp_path / "alias" / "sub" / "file"
        )
        == root / "sub" / "file"
    )


def test_a_name_that_only_begins_like_a_root_is_outside(root: Path, tmp_path: Path) -> None:
    (tmp_path / "rootless").mkdir()
    assert not AllowedRoots([root], data_dir=Path("/nowhere")).allows(tmp_path / "rootless")


@pytest.mark.usefixtures("both_ways")
def test_opening_goes_through_allowed_links_and_creates_with_the_mode(root: Path) -> None:
    allowed = AllowedRoots([root], data_dir=Path("/nowhere"))
    for name in ("sub/file", "within", "absolute/file"):
        fd = allowed.open_beneath(name, base=root)
        assert os.read(fd, 10) == b"data"
        os.close(fd)
    os.close(allowed.open_beneath("sub/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, base=root))
    assert (root / "sub" / "new").stat().st_mode & 0o777 == 0o600
    os.close(allowed.open_beneath(root, os.O_RDONLY | os.O_DIRECTORY))
    with pytest.raises(FileNotFoundError):
        allowed.open_beneath("missing", base=root)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("where", ["sub", "sub/file"])
def test_a_link_that_appears_after_the_check_is_not_followed(
    root: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = AllowedRoots([root], data_dir=Path("/nowhere"))
    locate = allowed._locate

    def swap_afterwards(path: str | Path, base: Path | None, roots: Sequence[Path]) -> tuple[Path, Path]:
        located = locate(path, base, roots)
        (root / where).rename(root / "moved")
        target = tmp_path / "outside" if where == "sub" else tmp_path / "outside" / "secret"
        (root / where).symlink_to(target)
        return located

    (tmp_path / "outside" / "file").write_text("secret")
    monkeypatch.setattr(allowed, "_locate", swap_afterwards)
    with pytest.raises((ForbiddenPathException, NotADirectoryError)):
        allowed.open_beneath("sub/file", base=root)


@pytest.mark.parametrize(
    "relative", ["../outside/secret", "/etc/passwd", "sub/../../outside", "out", "outdir/secret"]
)
def test_opening_by_hand_refuses_every_way_out(root: Path, relative: str) -> None:
    fd = os.open(root, os.O_PATH)
    with pytest.raises(OSError):
        open_by_hand(fd, relative, os.O_RDONLY)
    os.close(fd)


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    allowed = AllowedRoots([root], data_dir=Path("/nowhere"))
    for name in ("sub/file", "missing", "out"):
        try:
            os.close(allowed.open_beneath(name, base=root))
        except (OSError, ForbiddenPathException):
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_models_folder_gets_its_marker_once(tmp_path: Path) -> None:
    models = tmp_path / "a" / "models"
    root_id = ensure_marker(models)
    assert str(uuid.UUID(root_id)) == root_id
    assert ensure_marker(models) == ensure_marker(models, create=False) == root_id
    assert [entry.name for entry in models.iterdir()] == [MARKER]


def test_a_broken_or_missing_marker_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="not a models folder") as caught:
        ensure_marker(tmp_path, create=False)
    assert caught.value.exit_code == 65
    (tmp_path / MARKER).write_text("garbage")
    with pytest.raises(StartupError, match="broken"):
        ensure_marker(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError) as caught:
        ensure_marker(tmp_path / "file" / "models")
    assert caught.value.exit_code == 73


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can be another user for a while")
@pytest.mark.parametrize("closed", ["", STAGING])
def test_a_folder_that_was_ours_once_and_cannot_be_written_is_told(folder: Path, closed: str) -> None:
    models = folder / f"models{closed}"
    (models / STAGING).mkdir(parents=True)
    for above in (folder, folder.parent):  # the temporary folder of the run
        above.chmod(0o711)
    with lock_root(models):
        pass
    for path in (*models.rglob("*"), models):
        os.chown(path, 65534, 65534)
    (models / closed).chmod(0o555)
    os.seteuid(65534)
    try:
        told = rf"cannot write {models / closed}: Permission"
        with pytest.raises(StartupError, match=told) as caught, lock_root(models):
            pass
    finally:
        os.seteuid(0)
    assert caught.value.exit_code == 73


def test_a_models_folder_may_lie_a_thousand_levels_deep(folder: Path) -> None:
    deep = folder.joinpath(*"a" * 1000)
    try:
        assert ensure_marker(deep) == ensure_marker(deep, create=False)
    finally:  # Python's own rmtree gives up at that depth
        subprocess.run(["rm", "-rf", folder / "a"], check=True)


def test_one_process_per_role_holds_a_models_folder_until_it_dies(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from modelkeep_common.paths import lock_root\n"
        "with lock_root(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        env={"PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StartupError, match=str(process.pid)) as caught, lock_root(tmp_path):
        pass
    assert caught.value.exit_code == 73
    with lock_root(tmp_path, role="download"):
        pass
    process.kill()
    process.communicate()
    with lock_root(tmp_path) as root_id:
        assert root_id == ensure_marker(tmp_path)
