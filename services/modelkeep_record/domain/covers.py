"""Pictures that stand for models: what may be one, and what a record tells of it. No grpc, no SQL."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from modelkeep.exceptions import FieldInvalidException, FieldViolation, ModelImageFileNotFoundException
from modelkeep.model.v1.cover_image_pb2 import CoverImage
from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.pictures import media_type_of, problem_of


@dataclass(frozen=True, slots=True)
class Cover:
    """A picture."""

    #: ``image/png``, ``image/jpeg``, ``image/webp`` or ``image/gif``.
    media_type: str
    #: Of the bytes, in lowercase hexadecimal.
    sha256: str
    image: bytes

    @classmethod
    def of(cls, image: bytes, field: str = "image") -> Self:
        """The picture that some bytes are; takes a millisecond for a large one.

        Raises:
            FieldInvalidException: They are none of the kinds that are taken, or too many.
        """
        if problem := problem_of(image):
            raise FieldInvalidException("", violations=[FieldViolation(field, problem)])
        return cls(media_type_of(image), hashlib.sha256(image).hexdigest(), image)

    @property
    def facts(self) -> CoverImage:
        """What a record tells of it."""
        return CoverImage(media_type=self.media_type, size_bytes=len(self.image), sha256=self.sha256)


def tell_of(model: Model, facts: CoverImage | None) -> None:
    """Have a record tell of its picture, or of none."""
    model.ClearField("cover_image")
    if facts is not None:
        model.cover_image.CopyFrom(facts)


def no_cover(key: str) -> ModelImageFileNotFoundException:
    """The error for a model without a picture."""
    return ModelImageFileNotFoundException(
        f"The model {key} has no picture that stands for it.", metadata={"key": key}
    )
