"""What bytes are, told by how they begin: a model file, or what was saved or sent in place of one.

Under a model's name there may lie a Git LFS pointer, a web page, an error of the source as text, JSON or
XML, an archive, a pickle or another format. Whoever reads model files or brings them asks here, so that each
of these is told as what it is, by the same words. Nothing is parsed beyond the beginning, and nothing is
executed.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, Final

#: As much of a beginning as is ever looked at; less does where there is no more.
BEGINNING_BYTES: Final = 4096
#: Characters of a text that are quoted.
MAX_QUOTE: Final = 200


class Kind(Enum):
    """Kinds of content; the value is the suffix that such files have, "" if they have several or none."""

    SAFETENSORS = ".safetensors"
    GGUF = ".gguf"
    ZIP = ".zip"
    GZIP = ".gz"
    #: A pickle of Python's, bare or in the archive that torch.save writes: may run code when it is read.
    PICKLE = ".pt"
    #: Another format with a beginning of its own: an archive, a picture, a program.
    OTHER_FORMAT = "other format"
    EMPTY = "empty"
    ZEROS = "zeros"
    LFS_POINTER = "lfs pointer"
    WEB_PAGE = ".html"
    XML = ".xml"
    JSON = ".json"
    TEXT = ".txt"
    UNKNOWN = "unknown"


#: Kinds of text, which a source may send with success in place of the file.
TEXTS: Final = frozenset({Kind.LFS_POINTER, Kind.WEB_PAGE, Kind.XML, Kind.JSON, Kind.TEXT})


@dataclass(frozen=True, slots=True)
class Content:
    """What a file or an answer holds.

    Attributes:
        kind: Its kind.
        what: Words for it that go on from "it is": ``a zip archive``, ``text: "Entry not found"``.
        advice: What to do where a model was expected; "" if nothing is known that helps.
        quote: What a text says, of an error its message, cut and without line breaks; "" for anything else.
    """

    kind: Kind
    what: str
    advice: str = ""
    quote: str = ""

    @property
    def is_known(self) -> bool:
        """Whether it is known to be something else than a safetensors file."""
        return self.kind not in (Kind.SAFETENSORS, Kind.UNKNOWN)

    @property
    def remedy(self) -> str:
        """The advice as a sentence; "" if there is none."""
        return f"{self.advice[0].upper()}{self.advice[1:]}." if self.advice else ""

    @property
    def suffix(self) -> str:
        """The suffix that a file of this kind has, with its dot; "" where none is usual."""
        return self.kind.value if self.kind.value.startswith(".") else ""


_CONVERT: Final = "convert it to safetensors first"
_UNPACK: Final = "unpack it, and take the model file that is inside"
_AGAIN: Final = "fetch the file again"
#: Beginning → kind, what it is, what to do.
_BEGINNINGS: Final[tuple[tuple[bytes, Kind, str, str], ...]] = (
    (b"GGUF", Kind.GGUF, "a GGUF file", "this format cannot be installed yet; take the safetensors file"),
    (b"\x1f\x8b", Kind.GZIP, "compressed with gzip", _UNPACK),
    (b"\x28\xb5\x2f\xfd", Kind.OTHER_FORMAT, "compressed with Zstandard", _UNPACK),
    (b"\xfd7zXZ\x00", Kind.OTHER_FORMAT, "compressed with xz", _UNPACK),
    (b"BZh", Kind.OTHER_FORMAT, "compressed with bzip2", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", Kind.OTHER_FORMAT, "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", Kind.OTHER_FORMAT, "a RAR archive", _UNPACK),
    (b"\x89HDF\r\n\x1a\n", Kind.OTHER_FORMAT, "an HDF5 file", _CONVERT),
    (b"\x93NUMPY", Kind.OTHER_FORMAT, "a NumPy array", ""),
    (b"\x89PNG\r\n", Kind.OTHER_FORMAT, "a PNG picture", ""),
    (b"\xff\xd8\xff", Kind.OTHER_FORMAT, "a JPEG picture", ""),
    (b"GIF8", Kind.OTHER_FORMAT, "a GIF picture", ""),
    (b"%PDF-", Kind.OTHER_FORMAT, "a PDF document", ""),
    (b"\x00\x05\x16\x07", Kind.OTHER_FORMAT, "what macOS keeps beside a file on other disks", ""),
    (b"\x7fELF", Kind.OTHER_FORMAT, "a program", ""),
    (b"MZ\x90\x00", Kind.OTHER_FORMAT, "a program", ""),
)
_LFS: Final = b"version https://git-lfs.github.com/spec/v1"
_LFS_SIZE: Final = re.compile(rb"^size (\d{1,18})$", re.MULTILINE)
#: What may stand before the first element.
_COMMENTS: Final = re.compile(r"\A\s*(?:<!--.*?-->\s*)+", re.DOTALL)
_HTML: Final = ("<!doctype html", "<html", "<head", "<body")

#: Files with these suffixes may run code when they are read, unless their bytes are something else.
PICKLE_SUFFIXES: Final = frozenset({".bin", ".ckpt", ".pkl", ".pt", ".pth"})
#: Files with these hold weights.
TENSOR_SUFFIXES: Final = frozenset({".safetensors", ".sft"})
#: What files with these suffixes hold; of anything else that is known something was sent in their place.
_PROMISED: Final[Mapping[str, frozenset[Kind]]] = {
    ".safetensors": frozenset({Kind.SAFETENSORS}),
    ".sft": frozenset({Kind.SAFETENSORS}),
    ".gguf": frozenset({Kind.GGUF}),
    ".zip": frozenset({Kind.ZIP, Kind.PICKLE}),
    ".gz": frozenset({Kind.GZIP}),
}
#: Files with these suffixes may hold several things, and never text.
_NEVER_TEXT: Final = frozenset(
    PICKLE_SUFFIXES
    | {".h5", ".msgpack", ".npz", ".onnx", ".7z", ".rar", ".tar", ".jpeg", ".jpg", ".png", ".webp"}
)
_SUFFIX: Final = re.compile(r"\.[A-Za-z7][A-Za-z0-9]{0,11}")


def content_of(beginning: bytes, size: int | None = None) -> Content:
    """What bytes are.

    Args:
        beginning: The first ``BEGINNING_BYTES``, or all there are.
        size: Bytes in all; None if that is not known.
    """
    beginning = beginning[:BEGINNING_BYTES]
    if not beginning:
        return Content(Kind.EMPTY, "empty", _AGAIN)
    # eight bytes of length, of which the upper ones are none in any file there is, then a JSON object
    if beginning[5:8] == b"\0\0\0" and beginning[8:9] == b"{":
        return Content(Kind.SAFETENSORS, "a safetensors file")
    if beginning.startswith(_LFS):
        return _lfs_pointer(beginning)
    if beginning.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        # torch.save writes the pickle as the first member
        if b"/data.pkl" in beginning[30:160]:
            return Content(Kind.PICKLE, "a pickle in the archive that torch.save writes", _CONVERT)
        return Content(Kind.ZIP, "a zip archive", _UNPACK)
    for start, kind, what, advice in _BEGINNINGS:
        if beginning.startswith(start):
            return Content(kind, what, advice)
    if beginning[257:262] == b"ustar":
        return Content(Kind.OTHER_FORMAT, "a tar archive", _UNPACK)
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return Content(Kind.OTHER_FORMAT, "a WebP picture")
    if beginning[0] == 0x80 and beginning[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Content(Kind.PICKLE, "a pickle, which may run code when it is read", _CONVERT)
    if not any(beginning):
        return Content(Kind.ZEROS, "nothing but zeros where it begins, as an unfinished copy is", _AGAIN)
    text = _as_text(beginning)
    if text is None:
        return Content(Kind.UNKNOWN, "of no format that is known")
    return _text(text, is_whole=size is None or size <= len(beginning))


def is_in_place_of(content: Content, name: str) -> bool:
    """Whether what a source serves under this name is something in place of the file.

    A pointer of Git LFS and a web page always are. Text is where the name is a model's, an archive's or a
    picture's, or has no suffix; whatever is known to be of another format is where the suffix promises one.

    Args:
        content: What the bytes are.
        name: Name of the file.
    """
    if content.kind in (Kind.LFS_POINTER, Kind.WEB_PAGE):
        return True
    if not content.is_known:
        return False
    suffix = PurePosixPath(name).suffix.lower()
    if (promised := _PROMISED.get(suffix)) is not None:
        return content.kind not in promised
    if content.kind not in TEXTS:
        return False
    # README and LICENSE are texts without a suffix; the .5 of "style v1.5" is none
    return suffix in _NEVER_TEXT or (not _SUFFIX.fullmatch(suffix) and not name.isupper())


def with_suffix(name: str, content: Content) -> str:
    """A name that a source gave without a suffix, with that of the format that the bytes are of.

    A number at the end (``style v1.5``) is no suffix. Texts keep their name.
    """
    suffix = content.suffix
    if content.kind in TEXTS or not suffix or _SUFFIX.fullmatch(PurePosixPath(name).suffix):
        return name
    return f"{name}{suffix}"


def said(body: bytes) -> str:
    """What a body says in words, of an error in JSON, XML or HTML its message; "" if it is no text.

    On one line, without control characters, at most ``MAX_QUOTE`` characters.
    """
    return content_of(body).quote


def _lfs_pointer(beginning: bytes) -> Content:
    size = _LFS_SIZE.search(beginning)
    of = f" to a file of {int(size[1]):,} bytes" if size else ""
    return Content(
        Kind.LFS_POINTER,
        f"a Git LFS pointer{of}, not the file itself",
        "fetch the file itself: run `git lfs pull` in the repository, or take the file's download link",
    )


def _as_text(beginning: bytes) -> str | None:
    """The beginning as text; None if it is none."""
    encoding = "utf-16" if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        # the last character may be cut
        text = codecs.getincrementaldecoder(encoding)().decode(beginning.removeprefix(codecs.BOM_UTF8))
    except UnicodeDecodeError:
        return None
    return text if text and all(c.isprintable() or c in "\t\n\r\f" for c in text) else None


def _text(text: str, *, is_whole: bool) -> Content:
    start = _COMMENTS.sub("", text, count=1).lstrip()[:100].lower()
    if start.startswith(_HTML):
        title = re.search(r"<title[^>]*>([^<]{1,500})", text, re.IGNORECASE)
        return _quoting(Kind.WEB_PAGE, "a web page", title[1] if title else "")
    if start.startswith("<?xml") or re.match(r"<[a-z][\w:.-]*[ >]", start):
        if "<html" in text.lower():
            return _quoting(Kind.WEB_PAGE, "a web page", "")
        message = re.search(r"<message>([^<]{1,500})", text, re.IGNORECASE)
        return _quoting(Kind.XML, "XML", message[1] if message else text)
    if start.startswith(("{", "[")):
        words = _one_line(_message(text)) if is_whole else ""
        return _quoting(Kind.JSON, "JSON", words or text)
    return _quoting(Kind.TEXT, "text", text)


def _message(text: str) -> str:
    """The message of an error as APIs write it; "" if there is none."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    for _ in range(4):
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            value = value[0]
        elif isinstance(value, dict):
            names = ("message", "error_description", "detail", "error", "errors", "title")
            value = next((value[name] for name in names if value.get(name)), None)
    return ""


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _quoting(kind: Kind, what: str, text: str) -> Content:
    quote = _one_line(text)
    if len(quote) > MAX_QUOTE:
        quote = f"{quote[: MAX_QUOTE - 1]}…"
    advice = "fetch the file itself, with the token of its source if that asks for one"
    return Content(kind, f'{what}: "{quote}"' if quote else what, advice, quote)
