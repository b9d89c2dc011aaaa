"""Pictures that stand for models: what may be one, told by its bytes. Pure."""

from __future__ import annotations

from typing import Final

#: A picture has so many bytes at most.
MAX_PICTURE_BYTES: Final = 1 << 20

_PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
_GIFS: Final = (b"GIF87a", b"GIF89a")
#: Of the first chunk of a WebP: lossy, lossless, extended.
_WEBP_CHUNKS: Final = (b"VP8 ", b"VP8L", b"VP8X")


def media_type_of(image: bytes) -> str:
    """What a picture is, as its first bytes tell; "" for anything else."""
    if image.startswith(_PNG):
        return "image/png"
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith(_GIFS):
        return "image/gif"
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP" and image[12:16] in _WEBP_CHUNKS:
        return "image/webp"
    return ""


def problem_of(image: bytes) -> str:
    """Why some bytes cannot be such a picture; empty if they can."""
    if not media_type_of(image):
        return "must be a PNG, JPEG, WebP or GIF: its first bytes are of none of these"
    if len(image) > MAX_PICTURE_BYTES:
        return f"must have at most {MAX_PICTURE_BYTES:,} bytes, not {len(image):,}"
    return ""
