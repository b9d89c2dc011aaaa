"""Safetensors files by their headers: sound ones, and ones that lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path


def write_header(path: Path, text: bytes, buffer_bytes: int = 0, *, claimed: int | None = None) -> Path:
    """A file with this header and a buffer of so many bytes; ``claimed`` is the length that it says."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text) if claimed is None else claimed) + text)
        file.truncate(8 + len(text) + buffer_bytes)
    return path


def entry(dtype: str = "F32", shape: str = "[1]", offsets: str = "[0,4]", name: str = "a") -> bytes:
    """A header of one tensor, its parts as JSON."""
    return f'{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}'.encode()


ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
EMPTY = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'

#: What it is → (header, bytes of the buffer). The library and the suite take these.
SOUND: dict[str, tuple[bytes, int]] = {
    "no tensor": (b"{}", 0),
    "one tensor": (entry(), 4),
    "a scalar": (entry(shape="[]"), 4),
    "no element": (entry(shape="[0,99]", offsets="[0,0]"), 0),
    "space behind": (entry() + b" " * 99, 4),
    "minus in a name": (entry(name="-0"), 4),
    "notes": (b'{"__metadata__":{"a":"b"},"a":' + ONE + b"}", 4),
    "no notes": (b'{"__metadata__":null,"a":' + ONE + b"}", 4),
    "unicode": (entry(name="\u91cd"), 4),
    "an escaped name": (entry(name="\\u91cd"), 4),
    "a NUL in a name": (entry(name="a\\u0000b"), 4),
    "quotes in a note": (b'{"__metadata__":{"a":"{\\"b\\": 1}"},"a":' + ONE + b"}", 4),
    "space before colons": (b'{"a" :' + ONE.replace(b":", b" : ") + b"}", 4),
    "64 dimensions": (entry(shape=json.dumps([1] * 64)), 4),
    "many empty tensors": (b"{" + b",".join(b'"t%d":%b' % (n, EMPTY) for n in range(5000)) + b"}", 0),
    "a long header of many tensors": (
        b"{" + b",".join(b'"t%0900d":%b' % (n, EMPTY) for n in range(5_000)) + b"}",
        0,
    ),
    "a long header of one note": (b'{"__metadata__":{"a":"' + b"x" * 5_000_000 + b'"},"a":' + ONE + b"}", 4),
    **{
        code: (entry(code, "[8]", f"[0,{size}]"), size)
        for code, size in {
            "BOOL": 8,
            "F8_E4M3FNUZ": 8,
            "F8_E8M0": 8,
            "BF16": 16,
            "U32": 32,
            "F64": 64,
        }.items()
    },
}

#: Refused by the library and by the suite.
UNSOUND: dict[str, tuple[bytes, int]] = {
    "null": (b"null", 0),
    "a list": (b"[]", 0),
    "a text": (b'"x"', 0),
    "no JSON": (b"{]", 0),
    "no UTF-8": (b'{"\xff\xfe":1}', 0),
    "UTF-16": ("{}".encode("utf-16"), 0),
    "a byte order mark": (b"\xef\xbb\xbf{}", 0),
    "half a character": (entry(name="\\ud800"), 4),
    "a key twice in an entry": (
        b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
        4,
    ),
    "an escaped key twice in an entry": (
        b'{"a":{"d\\u0074ype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
        4,
    ),
    "notes twice": (b'{"__metadata__":{},"__metadata__":{},"a":' + ONE + b"}", 4),
    "an entry that is none, and then one": (b'{"a":5,"a":' + ONE + b"}", 4),
    "an overlap": (b'{"a":' + ONE + b',"b":' + ONE + b"}", 4),
    "a hole": (entry(offsets="[4,8]"), 8),
    "more than announced": (entry(), 5),
    "less than announced": (entry(), 3),
    "places in reverse": (entry(offsets="[4,0]"), 4),
    "negative places": (entry(offsets="[-4,0]"), 4),
    "places past 2^64": (entry(offsets=f"[0,{2**64}]"), 4),
    "places that are no integers": (entry(offsets="[0.0,4.0]"), 4),
    "places that are truth values": (entry(offsets="[false,4]"), 4),
    "three places": (entry(offsets="[0,4,8]"), 4),
    "an unknown dtype": (entry("F1024"), 4),
    "a dtype that is a list": (b'{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}', 4),
    "no number": (entry(shape="[NaN]"), 4),
    "infinite": (entry(shape="[1e999]"), 4),
    "negative twice": (entry(shape="[-1,-1]"), 4),
    "minus nothing": (entry(shape="[-0]", offsets="[0,0]"), 0),
    "a product past 2^64": (entry(shape=f"[{2**32},{2**32}]"), 4),
    "a product that would wrap to nothing": (entry(shape=f"[{2**62},4]", offsets="[0,0]"), 0),
    "a product past 2^64, and then nothing": (entry(shape=f"[{2**61},{2**61},0]", offsets="[0,0]"), 0),
    "6,000 digits": (entry(shape="[" + "9" * 6000 + "]"), 4),
    "a shape of shapes": (entry(shape="[[1]]"), 4),
    "a shape that is an object": (entry(shape='{"0":1}'), 4),
    "a half element": (entry("F4", "[3]", "[0,1]"), 1),
    "notes that are numbers": (b'{"__metadata__":{"a":1}}', 0),
    "a note without a name that is a number": (b'{"__metadata__":{"":1}}', 0),
    "a note that is null": (b'{"__metadata__":{"ss_network_args":null}}', 0),
    "notes that are a list": (b'{"__metadata__":[]}', 0),
    "nested": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0),
    "60,000 dimensions": (entry(shape="[" + ",".join([str(2**61)] * 60_000) + "]"), 4),
}

#: The library takes these; no model has them, and the suite's answer is a refusal.
REFUSED: dict[str, tuple[bytes, int]] = {
    "a name twice": (b'{"a":' + ONE + b',"a":' + ONE + b"}", 4),
    "a note twice": (b'{"__metadata__":{"a":"1","a":"2"},"a":' + ONE + b"}", 4),
    "space in front": (b" " + entry(), 4),
    "a key of its own": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', 4),
    "an entry that is a list": (b'{"a":["F32",[1],[0,4]]}', 4),
    "a million dimensions": (entry(shape="[" + ",".join(["1"] * 1_000_000) + "]"), 4),
    "a name of a megabyte": (entry(name="n" * 1_000_000), 4),
    "nothing, times what cannot be counted": (
        entry(shape=f"[0,{2**62},{2**62}]", offsets="[0,0]"),
        0,
    ),
}

#: The same, without a buffer, of headers that take seconds to make.
REFUSED_HUGE: dict[str, Callable[[], bytes]] = {
    "a million tensors": lambda: b"{" + b",".join(b'"%d":%b' % (n, EMPTY) for n in range(1_000_000)) + b"}",
    "five million notes": lambda: (
        b'{"__metadata__":{' + b",".join(b'"%d":""' % n for n in range(5_000_000)) + b"}}"
    ),
}
