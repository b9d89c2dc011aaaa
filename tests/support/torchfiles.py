"""Files as torch.save writes them, and as it never would, made without torch."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path


def text(value: str) -> bytes:
    """A text, as the pickle has it."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """A number, likewise."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    """A tuple of numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def view(
    *,
    storage: str = "FloatStorage",
    key: str = "0",
    count: int = 4,
    offset: int = 0,
    shape: tuple[int, ...] = (2, 2),
    strides: tuple[int, ...] = (2, 1),
) -> bytes:
    """A tensor: what rebuilds it of its storage."""
    held = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + number(count)
    rest = number(offset) + numbers(*shape) + numbers(*strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + b"tQ" + rest + b"tR"


def state(tensors: Mapping[str, bytes], *, before: bytes = b"", under: str = "") -> bytes:
    """A dict of tensors.

    Args:
        tensors: Name → what makes it.
        before: Instructions that come first; what they leave on the stack has to go.
        under: The entry of another dict that it is.
    """
    inner = b"}(" + b"".join(text(name) + made for name, made in tensors.items()) + b"u"
    return b"\x80\x02" + before + (b"}" + text(under) + inner + b"s" if under else inner) + b"."


def archive(
    pickled: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    more: Mapping[str, bytes] | None = None,
) -> bytes:
    """The archive around a pickle.

    Args:
        pickled: The pickle.
        storages: Key → bytes; without them, one of 16.
        compression: How the entries are packed.
        more: Further entries.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", b"little")
        for key, data in (storages if storages is not None else {"0": bytes(range(16))}).items():
            file.writestr(f"archive/data/{key}", data)
        for name, data in (more or {}).items():
            file.writestr(name, data)
        file.writestr("archive/version", b"3\n")
    return made.getvalue()


def tiny(path: Path, *names: str) -> Path:
    """A file with a tensor of each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive(state(dict.fromkeys(names or ("a", "b"), view()))))
    return path
