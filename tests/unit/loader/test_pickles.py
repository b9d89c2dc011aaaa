"""Files of torch.save: their tensors are found without unpickling, and whatever else they hold is not run."""

from __future__ import annotations

import os
import pickle
import random
import struct
import zipfile
from array import array
from pathlib import Path
from typing import Any

import pytest

from modelkeep.exceptions import InvalidModelException, ModelkeepError, UnsafeFormatException
from modelkeep.headers import Allowance, Header
from modelkeep.pickles import read_pickled, read_stored
from support.torchfiles import archive, number, state, text, view

PLAIN = {"a": view()}


def read(path: Path, data: bytes) -> Header:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_pickled(fd, path, allowance=Allowance())
    finally:
        os.close(fd)


def puts(count: int) -> bytes:
    """Instructions that put what is on top into that many places of the memo."""
    made, numbers = bytearray(b"r\0\0\0\0" * count), array("I", range(count)).tobytes()
    for byte in range(4):
        made[1 + byte :: 5] = numbers[byte::4]
    return bytes(made)


def test_tensors_are_where_the_file_has_them(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    data = archive(
        state(
            {"w": view(), "row": view(offset=2, shape=(2,), strides=(1,)), "h": view(storage="HalfStorage")}
        )
    )
    header = read(path, data)
    assert dict(header) == {"w": (2, 2), "row": (2,), "h": (2, 2)}
    assert [header.dtype(name) for name in header] == ["F32", "F32", "F16"]
    found = {tensor.name: data[tensor.begin : tensor.end] for tensor in header.tensors}
    assert found == {"w": bytes(range(16)), "row": bytes(range(8, 16)), "h": bytes(range(8))}


def test_a_checkpoint_has_its_weights_under_state_dict_and_nests_them_by_dots(tmp_path: Path) -> None:
    header = read(tmp_path / "m.ckpt", archive(state(PLAIN, under="state_dict")))
    assert list(header) == ["a"]
    nested = b"\x80\x02}" + text("image_proj") + b"}" + text("w") + view() + b"ss."
    assert list(read(tmp_path / "n.bin", archive(nested))) == ["image_proj.w"]


class Payload:
    """What a pickle of it does when it is loaded."""

    def __init__(self, called: Any, *arguments: Any) -> None:
        self.reduced = (called, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def payloads(canary: Path) -> dict[str, tuple[Any, str]]:
    """Things that make a file when they are unpickled, and what of them the refusal names."""
    touch = f"touch {canary}"
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return {
        "system": (Payload(os.system, touch), "posix.system"),
        "eval": (Payload(eval, code), "builtins.eval"),
        "exec": (Payload(exec, code), "builtins.exec"),
        "getattr": (Payload(getattr, os, "system"), "builtins.getattr"),
        "nested": ({"state_dict": {"a": [({"b": Payload(os.system, touch)},)]}}, "posix.system"),
        "inner": (Payload(pickle.loads, pickle.dumps(Payload(os.system, touch))), "_pickle.loads"),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["system", "eval", "exec", "nested", "inner"])
def test_code_is_refused_by_its_name_and_never_run(tmp_path: Path, kind: str, protocol: int) -> None:
    canary = tmp_path / "canary"
    payload, named = payloads(canary)[kind]
    pickled = pickle.dumps(payload, protocol=protocol)
    with pytest.raises(UnsafeFormatException) as raised:
        read(tmp_path / "evil.bin", archive(pickled))
    assert not canary.exists()
    if protocol > 2:
        assert named in raised.value.message
    assert raised.value.metadata["format"] == ".bin"
    assert "safetensors" in raised.value.remedy
    pickle.loads(pickled)  # it would have
    assert canary.exists()


@pytest.mark.parametrize(
    ("name", "pickled"),
    {
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        "global of numbers": b"\x80\x04K\x01K\x02\x93.",
        "text protocol": b"cposix\nsystem\n(S'true'\ntR.",
        "instance": b"(S'true'\niposix\nsystem\n.",
        "object": b"(cposix\nsystem\nS'true'\no.",
        "new object": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.",
        "extension": b"\x80\x02\x82\x01.",
        "submodule by dots": b"\x80\x04\x8c\x05torch\x8c\x12serialization.load\x93.",
        "allowed name elsewhere": b"\x80\x02cposix\n_rebuild_tensor_v2\n.",
        "a storage called": b"\x80\x02ctorch\nFloatStorage\n)R.",
        "a state of a call": b"\x80\x02" + view() + b"}b.",
        "a callback": state({}, before=b"cpytorch_lightning.callbacks\nModelCheckpoint\n0"),
        "numpy": state({"a": b"cnumpy.core.multiarray\nscalar\n"}),
        "out of the memo": b"\x80\x02h\x07.",
        "beneath a mark": b"\x80\x02}(t\x85.",
        "no end": b"\x80\x02}",
        "something behind the end": state(PLAIN) + b"cos\nsystem\n.",
        "nothing": b"",
        "no pickle": bytes(range(256)),
        "deep marks": b"\x80\x02" + b"(" * 1_100_000,
        "long memo": b"\x80\x02}" + puts(1_100_000),
        "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62),
        "huge number": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30),
        "a tuple as a key": b"\x80\x02}))s.",
        "hooks": b"\x80\x02"
        + view().replace(b"\x89ccollections\nOrderedDict\n)R", b"\x89}K\x01K\x02s")
        + b".",
    }.items(),
)
def test_other_instructions_than_those_of_tensors_are_refused(
    tmp_path: Path, name: str, pickled: bytes
) -> None:
    with pytest.raises(UnsafeFormatException):
        read(tmp_path / "odd.bin", archive(pickled))


def test_what_would_take_for_ever_to_hash_or_walk_is_refused_at_once(tmp_path: Path) -> None:
    twice = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x000" * 200 + b"}h\x00K\x01s."
    with pytest.raises(UnsafeFormatException):
        read(tmp_path / "tuples.bin", archive(twice))
    # Dicts of a thousand keys each, one within the other, thrice: a thousand million ways.
    inner = b"\x80\x02}" + text("state_dict") + b"}"
    body = b"}q\x00" + b"".join(
        b"s"
        + text(f"l{level}")
        + b"}("
        + b"".join(text(f"k{n}") + b"h" + bytes([level]) for n in range(1000))
        + b"uq"
        + bytes([level + 1])
        for level in range(3)
    )
    with pytest.raises(InvalidModelException):
        read(tmp_path / "laughs.bin", archive(inner + text("l") + body + b"ss."))


@pytest.mark.parametrize(
    ("made", "refusal"),
    [
        (view(count=5), InvalidModelException),
        (view(key="../data.pkl"), InvalidModelException),
        (view(key="7"), InvalidModelException),
        (view(offset=1), InvalidModelException),
        (view(shape=(3, 2)), InvalidModelException),
        (view(strides=(1 << 62, 1)), InvalidModelException),
        (view(strides=(-2, 1)), UnsafeFormatException),
        (view(offset=-1), UnsafeFormatException),
        (view(shape=(2,)), UnsafeFormatException),
        (view(shape=(1,) * 65, strides=(1,) * 65), UnsafeFormatException),
        (view(shape=(1 << 40, 1 << 20), strides=(0, 0)), UnsafeFormatException),
        (view(shape=(0, 1 << 40, 1 << 40), strides=(0, 0, 0)), InvalidModelException),
        (view(count=1 << 70), UnsafeFormatException),
        (view(storage="QInt8Storage"), UnsafeFormatException),
        (number(7), InvalidModelException),
        (text("os.system"), InvalidModelException),
    ],
)
def test_a_tensor_that_is_not_within_its_storage_is_refused(
    tmp_path: Path, made: bytes, refusal: type[ModelkeepError]
) -> None:
    with pytest.raises(refusal):
        read(tmp_path / "m.bin", archive(state({"a": made})))


def test_a_name_that_is_half_a_character_is_refused_as_that(tmp_path: Path) -> None:
    data = archive(state({"aXYZ": view()}))
    with pytest.raises(InvalidModelException, match="no text that UTF-8 can hold"):
        read(tmp_path / "m.bin", data.replace(b"aXYZ", b"a\xed\xa0\x80"))


def test_many_tensors_of_one_storage_are_no_more_than_twice_the_file(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFormatException, match="would be"):
        read(tmp_path / "m.bin", archive(state({f"a{n}": view() for n in range(1000)})))


def odd_archives() -> dict[str, bytes]:
    good = archive(state(PLAIN))
    sound = state(PLAIN)
    end = len(good) - 22
    where = struct.unpack_from("<I", good, end + 16)[0]
    second = good.index(b"PK\x01\x02", where + 4)
    overlapping = bytearray(good)
    overlapping[second + 42 : second + 46] = struct.pack("<I", 0)
    many = bytearray(good)
    many[end + 8 : end + 12] = struct.pack("<HH", 0xFFFE, 0xFFFE)
    return {
        "legacy": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
        "text": b"not a pickle at all",
        "empty": b"",
        "compressed": archive(sound, {"0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED),
        "torchscript": archive(sound, more={"archive/constants.pkl": b"."}),
        "two pickles": archive(sound, more={"other/data.pkl": b"."}),
        "no pickle": archive(sound).replace(b"data.pkl", b"code.txt"),
        "overlapping": bytes(overlapping),
        "cut off": good[:-1],
        "cut in the middle": good[: len(good) // 2],
        "something behind": good + b"PK",
        "something before": b"PK\x03\x04" + good,
        "more entries than there are": bytes(many),
        "big-endian": archive(sound).replace(b"little", b"biglit"),
        "a pickle without end": archive(b"N" * (17 << 20)),
    }


@pytest.mark.parametrize("kind", odd_archives())
def test_an_archive_that_torch_does_not_write_is_refused(tmp_path: Path, kind: str) -> None:
    whole = {"cut off", "cut in the middle", "something behind", "something before", "big-endian"}
    refusal = InvalidModelException if kind in whole else (UnsafeFormatException, InvalidModelException)
    with pytest.raises(refusal) as raised:
        read(tmp_path / "m.bin", odd_archives()[kind])
    assert raised.value.message.startswith("m.bin is ")
    if kind in ("legacy", "compressed", "torchscript", "two pickles", "no pickle", "overlapping"):
        assert isinstance(raised.value, UnsafeFormatException)


def test_whatever_is_changed_in_a_file_only_refusals_come_of_it(tmp_path: Path) -> None:
    good = archive(state({"w": view(), "v": view(shape=(4,), strides=(1,))}, under="state_dict"))
    chance = random.Random(7)
    path = tmp_path / "m.bin"
    refused = 0
    for _ in range(3000):
        odd = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            odd[chance.randrange(len(odd))] = chance.randrange(256)
        path.write_bytes(odd)
        fd = os.open(path, os.O_RDONLY)
        try:
            for stored in read_stored(fd, path).values():
                assert 0 <= stored.tensor.begin <= stored.tensor.end <= len(odd)
        except ModelkeepError:
            refused += 1
        finally:
            os.close(fd)
    assert 1000 < refused < 3000
