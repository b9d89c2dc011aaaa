"""Pictures beside a YAML file of records: whole files, named by what is in them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.at_once import run_at_once
from modelkeep_record.domain import rules
from modelkeep_record.domain.covers import Cover
from modelkeep_record.stores.store import RecordStore
from modelkeep_record.stores.yaml import YamlFile
from modelkeep_record.stores.yaml.covers import Covers, digest_of
from modelkeep_record.stores.yaml.store import YamlRecordStore
from support.pictures import GIF, JPEG, png
from support.records import KEY, vae
from support.recordstores import ANYBODY, create, listed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models.yaml"


@pytest.fixture
def records(path: Path) -> YamlFile:
    found = YamlFile(path)
    found.open()
    with found.transaction() as transaction:
        run_at_once(rules.create(transaction, vae(key=KEY), [], 5.0))
    return found


def set_cover(records: YamlFile, image: bytes, key: str = KEY) -> Model:
    with records.transaction() as transaction:
        return run_at_once(rules.set_cover(transaction, key, "", Cover.of(image) if image else None, 9.0))


async def write_cover(store: RecordStore, key: str, image: bytes) -> None:
    async def unit(records: rules.Records) -> bytes:
        return (await rules.set_cover(records, key, "", Cover.of(image), 9.0)).SerializeToString()

    await store.write(unit, ANYBODY, grows=True)


def cover(records: YamlFile, key: str = KEY) -> Cover | None:
    return records.covers.read(digest_of(records.read().entries[key].model))


def names(path: Path) -> list[str]:
    folder = path.with_name("models.yaml.covers")
    return sorted(left.name for left in folder.iterdir()) if folder.exists() else []


def test_a_picture_is_a_file_that_a_person_can_look_at(records: YamlFile, path: Path) -> None:
    assert names(path) == []
    for image, ending in ((png(), "png"), (JPEG, "jpg"), (GIF, "gif")):
        told = set_cover(records, image)
        [name] = names(path)
        assert name == f"{told.cover_image.sha256}.{ending}"
        assert path.with_name("models.yaml.covers").joinpath(name).read_bytes() == image
        assert cover(records) == Cover.of(image)
    assert "image/gif" in path.read_text()
    folder = path.with_name("models.yaml.covers")
    assert (folder.stat().st_mode & 0o777, (folder / name).stat().st_mode & 0o777) == (0o700, 0o600)
    again = YamlFile(path)
    again.open()
    assert cover(again) == Cover.of(GIF)
    set_cover(records, b"")
    assert names(path) == []


def test_one_that_a_person_changed_or_took_away_is_not_there(records: YamlFile, path: Path) -> None:
    set_cover(records, png())
    folder = path.with_name("models.yaml.covers")
    [name] = names(path)
    (folder / name).write_bytes(png(1))
    assert cover(records) is None
    (folder / name).write_bytes(b"<svg/>")
    assert cover(records) is None
    (folder / name).unlink()
    assert cover(records) is None
    set_cover(records, JPEG)
    assert cover(records) == Cover.of(JPEG)


def test_what_stands_in_the_file_is_no_way_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    covers = Covers(tmp_path / "covers")
    for digest in ("../secret", "", ".", "a/b"):
        assert covers.read(digest) is None
        covers.drop([digest])
    assert (tmp_path / "secret.png").exists()


async def test_a_copy_of_the_store_has_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await YamlRecordStore.open(tmp_path / "models.yaml", reserve_bytes=0)
    for number, image in enumerate((png(), GIF, b"")):
        key = (await create(store, vae(f"m{number}"))).key
        if image:
            await write_cover(store, key, image)
    copied = await store.back_up("one")
    await write_cover(store, key, JPEG)

    def no_links(*arguments: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", no_links)
        later = await store.back_up("two")
        patched.setattr("shutil.copyfile", no_links)
        with pytest.raises(OSError, match="permitted"):
            await store.back_up("three")
    await store.close()
    left = {one.name for one in copied.path.parent.iterdir()}
    assert left == {"one.yaml", "one.yaml.covers", "two.yaml", "two.yaml.covers"}
    for made, expected in ((copied, {png(), GIF}), (later, {png(), GIF, JPEG})):
        again = await YamlRecordStore.open(made.path, reserve_bytes=0)
        covers = [await again.cover(model.key) for model in await listed(again)]
        assert {one.image for one in covers if one is not None} == expected
        await again.close()


@pytest.mark.parametrize("fails", ["os.fsync", "os.replace"])
def test_a_picture_that_cannot_be_written_leaves_all_as_it_was(
    records: YamlFile, path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    set_cover(records, png())
    before = path.read_bytes(), names(path)

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(fails, full)
        with pytest.raises(OSError, match="No space"):
            set_cover(records, JPEG)
    assert (path.read_bytes(), names(path)) == before
    assert cover(records) == Cover.of(png())


def test_a_record_that_cannot_be_written_keeps_its_picture(
    records: YamlFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cover(records, png())
    before = names(path)

    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(YamlFile, "_replace", fail)
        with pytest.raises(OSError, match="error"):
            set_cover(records, JPEG)
    assert names(path) == before
    assert cover(records) == Cover.of(png())
