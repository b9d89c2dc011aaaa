"""Pictures that stand for models, in the stores that an application has in its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.exceptions import (
    EtagMismatchException,
    FieldInvalidException,
    ModelImageFileNotFoundException,
    UnknownModelException,
)
from modelkeep_record.store import ModelRecordServiceBase
from support.pictures import JPEG, png

LORA = {"name": "l", "path": "/l", "model_type": "lora", "model_format": "lycoris", "base_model": "sd-1"}


@pytest.mark.parametrize("name", ["records.db", "records.yaml"])
def test_pictures_are_set_read_and_removed_as_by_the_service(tmp_path: Path, name: str) -> None:
    file = tmp_path / "cover.jpg"
    file.write_bytes(JPEG)
    with ModelRecordServiceBase.from_db_file(tmp_path / name) as store:
        made = store.add_model(None, LORA)
        with pytest.raises(ModelImageFileNotFoundException):
            store.get_cover_image(made.key)
        told = store.set_cover_image(made.key, png(), etag=made.etag).cover_image
        assert told is not None
        assert (told.media_type, told.size_bytes) == ("image/png", len(png()))
        with pytest.raises(EtagMismatchException):
            store.set_cover_image(made.key, file, etag=made.etag)
        assert store.get_cover_image(made.key) == png()
        store.set_cover_image(made.key, file)
        for wrong in (b"<svg/>", b"", png(extra_bytes=1 << 20)):
            with pytest.raises(FieldInvalidException, match="image must"):
                store.set_cover_image(made.key, wrong)
        with pytest.raises(UnknownModelException):
            store.get_cover_image("f" * 32)
    with ModelRecordServiceBase.from_db_file(tmp_path / name) as store:
        assert store.get_cover_image(made.key) == JPEG
        assert store.delete_cover_image(made.key).cover_image is None
        with pytest.raises(ModelImageFileNotFoundException):
            store.get_cover_image(made.key)
