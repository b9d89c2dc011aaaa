"""File names from strangers: one safe component, or none."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import PurePosixPath
from typing import Final

from modelkeep_common.file_names import FORBIDDEN, is_device, is_forbidden
from modelkeep_common.urls import last_component, unescaped

_MAX_BYTES = 240  # 255 less room for suffixes
#: A parameter: its name, and its value in quotation marks or without.
_PARAMETER = re.compile(r"""(?:^|;)\s*([\w!#$%&'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))""")
#: Of other backslashes, a path of Windows was written with: they separate.
_QUOTED_PAIR = re.compile(r'\\(["\\])')
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[\w-]*'([^\s'\"]*)", re.IGNORECASE)
#: Encoded words (RFC 2047) and nothing else, in the charsets that are read here.
_ENCODED_WORDS = re.compile(r"(?:=\?(?:utf-8|iso-8859-1)\?[bq]\?[^?\s]{1,1000}\?=\s*){1,20}", re.IGNORECASE)
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")

#: What such a name is, for whoever gives another.
PLAIN_NAME: Final = (
    "must be one plain name: not hidden, none that Windows keeps for a device (CON, NUL, …), without control"
    r" characters and any of /\:*?\"<>|, at most 240 bytes, no blank at either end and no dot at the last"
)


def is_safe_component(name: str) -> bool:
    """Whether a name is one component that is harmless on every common file system.

    No separators, no `.` or `..`, not hidden, no control or format characters, no drive letters and
    reserved device names, no blank or dot at its end, at most 240 bytes.
    """
    if not name or name[0] == "." or name[-1] in ". " or name[0] == " " or len(name) > _MAX_BYTES:
        return False
    if any(map(is_forbidden, name)):
        return False
    if len(name.encode()) > _MAX_BYTES:
        return False
    return not is_device(name)


def place_of(path: str) -> str:
    """Equal for two paths that are one on a file system that takes no notice of case."""
    return unicodedata.normalize("NFC", path).casefold()


def name_from_disposition(value: str | None) -> str:
    """The file name in a Content-Disposition header, as one safe component, or "".

    Of `filename*` and `filename` the first counts (RFC 6266, 4.3), unless it is not safe. A path is cut
    to its last component. The charsets are those of RFC 8187, UTF-8 and ISO-8859-1. As browsers do, a plain
    `filename` is decoded where it is percent-encoded UTF-8 or an encoded word (RFC 2047), what no file
    system takes in a name becomes "_", and the word before it ("attachment") may be missing.
    """
    if not value:
        return ""
    names: dict[str, str] = {}
    for match in _PARAMETER.finditer(value):
        names.setdefault(
            match[1].lower(), _QUOTED_PAIR.sub(r"\1", match[2]) if match[3] is None else match[3]
        )
    texts = (_extended(names.get("filename*", "")), _plain(names.get("filename", "")))
    return next((name for name in map(_mended, map(_last_component, texts)) if is_safe_component(name)), "")


def _extended(text: str) -> str:
    """An extended value (RFC 8187, 3.2) decoded, or ""."""
    match = _EXTENDED.fullmatch(text.strip())
    if match is None:
        return ""
    raw = re.sub(r"%([0-9A-Fa-f]{2})", lambda digits: chr(int(digits[1], 16)), match[2])
    with contextlib.suppress(UnicodeError):
        return raw.encode("latin-1").decode("utf-8" if match[1].lower() == "utf-8" else "latin-1")
    return ""


def _plain(text: str) -> str:
    """A plain value: as UTF-8, and decoded once more where it is encoded besides."""
    with contextlib.suppress(UnicodeError):  # headers are read as Latin-1; many servers send UTF-8
        text = text.encode("latin-1").decode("utf-8")
    if _ENCODED_WORDS.fullmatch(text):
        with contextlib.suppress(ValueError, LookupError, HeaderParseError):
            return str(make_header(decode_header(text)))
    if _PERCENT.search(text):
        with contextlib.suppress(UnicodeError):
            return unescaped(text)
    return text


def _mended(name: str) -> str:
    """A name without the characters that file systems refuse, and cut before its suffix to what they take."""
    plain = "".join("_" if c in FORBIDDEN else c for c in name)
    raw, suffix = plain.encode(errors="replace"), PurePosixPath(plain).suffix.encode(errors="replace")
    if len(raw) <= _MAX_BYTES or len(suffix) > 20:
        return plain
    stem = raw[: _MAX_BYTES - len(suffix)].decode(errors="ignore").rstrip(". ")
    return stem + suffix.decode(errors="ignore")


def _last_component(text: str) -> str:
    return re.split(r"[/\\]", text)[-1].strip()


def name_from_url(url: str) -> str:
    """The last component of a URL's path, percent-decoded, if it is safe, or ""."""
    name = last_component(url)
    return name if is_safe_component(name) else ""


def choose_name(job_id: int, header_name: str, source_url: str, final_url: str) -> str:
    """The header's name, else that of the URL (one with a suffix rather than one without), else the id's."""
    source, final = name_from_url(source_url), name_from_url(final_url)
    by_url = next((name for name in (source, final) if "." in name), source or final)
    return header_name or by_url or f"download-{job_id}"
