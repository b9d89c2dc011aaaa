"""Small pictures, made without a library: each is whole, and any viewer shows it."""

from __future__ import annotations

import struct
import zlib


def png(shade: int = 0, *, extra_bytes: int = 0) -> bytes:
    """One pixel in a shade of grey, from 0 to 255, with a text chunk of so many bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    text = chunk(b"tEXt", b"Comment\0" + b"x" * extra_bytes) if extra_bytes else b""
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, shade])))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + pixels + chunk(b"IEND", b"")


GIF = bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b")
WEBP = bytes.fromhex("524946461a000000574542505650384c0d0000002f00000010071011118888fe0700")
JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300"
    + "08" * 64
    + "ffc0000b080001000101011100ffc40014000100000000000000000000000000000009"
    "ffc40014100100000000000000000000000000000000ffda0008010100003f0054dfffd9"
)
