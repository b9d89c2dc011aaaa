"""Records of every kind by chance: what an export has to carry and an import to take."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from modelkeep.configs.wire import arm_of_type
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.model.v1.taxonomy_pb2 import ModelFormat, ModelType
from modelkeep.record.v1.exports_pb2 import ExportedModel
from modelkeep_record.domain.covers import Cover, tell_of
from support.pictures import png

_WORDS = ("red", "blüe", 'qu"ote', "back\\slash", "tab\there", "日本", "𝔘nicode", "x\u2028y", "<b>", "a b")
_BASES = ("sd-1", "sd-2", "sdxl", "flux", "any", "a-newer-family")
#: Fields that a version after this one may have: numbers far beyond those in use, of every wire type.
_NEWER = (b"\xc2\xbb\x01\x03new", b"\xc0\xbb\x01\x96\x01", b"\xc5\xbb\x01\x01\x02\x03\x04")


def exported(count: int, seed: int) -> Iterator[ExportedModel]:
    """So many records with their files, the same each time for a seed."""
    chance = random.Random(seed)
    keys = [f"{chance.getrandbits(128):032x}" for _ in range(count)]
    related: dict[str, set[str]] = {key: set() for key in keys}
    for _ in range(count // 4):
        one, other = chance.sample(keys, 2)
        related[one].add(other)
        related[other].add(one)
    for number, key in enumerate(keys):
        model = _model(chance, key, number)
        model.related_keys[:] = sorted(related[key])
        files = [_file(chance, place) for place in range(chance.choice((0, 1, 1, 3, 20)))]
        image = png(chance.randrange(256)) if chance.random() < 0.1 else b""
        tell_of(model, Cover.of(image).facts if image else None)
        yield ExportedModel(model=model, files=files, cover_image=image)


def _model(chance: random.Random, key: str, number: int) -> Model:
    model = Model(key=key, name=f"{_word(chance)} {number}", base=chance.choice(_BASES))
    model.type = chance.choice(ModelType.values()[1:])  # type: ignore[assignment]  # its values are numbers
    model.format = chance.choice(ModelFormat.values()[1:])  # type: ignore[assignment]  # its values too
    if chance.random() < 0.05:
        model.format = 999  # type: ignore[assignment]  # of a newer version
    model.root_id = chance.choice(("", "root-1"))
    model.path = f"{'' if model.root_id else '/'}models/{number}/{_word(chance)}"
    arm = arm_of_type(model.type)
    assert arm is not None
    getattr(model, arm).SetInParent()
    _fill(chance, getattr(model, arm))
    model.size_bytes = chance.randrange(2**53)
    model.original_hash = f"{chance.getrandbits(128):032x}"
    model.current_hash = chance.choice(("", model.original_hash))
    model.description = "\n".join(_word(chance) for _ in range(chance.randrange(30)))
    model.source = chance.choice(("", "owner/name", "/a/path", "https://example.com/m?id=3"))
    model.source_url = chance.choice(("", "https://example.com/models/3"))
    if chance.random() < 0.3:
        _fill(chance, model.default_settings)
        model.default_settings.SetInParent()
    model.extra_fields.update(
        {f"x {_word(chance)}": '{"a": [1, null, "b"]}' for _ in range(chance.choice((0, 0, 2)))}
    )
    model.tags[:] = sorted({_word(chance) for _ in range(chance.randrange(4))})
    model.trigger_phrases[:] = [_word(chance) for _ in range(chance.randrange(3))]
    model.labels.update({f"l{place}": _word(chance) for place in range(chance.randrange(3))})
    model.create_time.FromMicroseconds(chance.randrange(-(10**15), 4 * 10**15))
    model.update_time.FromNanoseconds(chance.randrange(4 * 10**18))
    if chance.random() < 0.1:
        model.missing_time.FromSeconds(chance.randrange(10**9))
    if chance.random() < 0.1:
        model.MergeFromString(chance.choice(_NEWER))
    return model


def _file(chance: random.Random, number: int) -> ModelFile:
    file = ModelFile(path=f"{number:02}/{_word(chance)}", size_bytes=chance.randrange(2**53))
    file.sha256 = chance.choice(("", f"{chance.getrandbits(256):064x}"))
    file.blake3 = chance.choice(("", f"{chance.getrandbits(256):064x}"))
    file.modify_time.FromNanoseconds(chance.randrange(2 * 10**18))
    file.digest_state = chance.choice((0, 1, 2, 3, 4, 77))  # type: ignore[assignment]  # open enum
    if chance.random() < 0.02:
        file.MergeFromString(chance.choice(_NEWER))
    return file


def _word(chance: random.Random) -> str:
    return chance.choice(_WORDS)


def _fill(chance: random.Random, message: Message) -> None:
    """Set some of a message's fields to what they may have."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.5:
            continue
        if field.message_type is not None:
            if field.is_repeated and not field.message_type.GetOptions().map_entry:
                part = getattr(message, field.name).add()
                part.type = chance.choice((1, 2, 3))
        elif not field.is_repeated:
            setattr(message, field.name, _value(chance, field))


def _value(chance: random.Random, field: Any) -> Any:
    if field.enum_type is not None:
        return chance.choice([value.number for value in field.enum_type.values])
    makers: dict[int, Callable[[], Any]] = {
        FieldDescriptor.TYPE_STRING: lambda: "{}" if field.name == "raw_json" else _word(chance),
        FieldDescriptor.TYPE_BOOL: lambda: chance.random() < 0.5,
        FieldDescriptor.TYPE_DOUBLE: lambda: chance.choice((0.0, 0.1, 1e300, -2.5)),
        FieldDescriptor.TYPE_INT32: lambda: chance.randrange(1, 1000),
    }
    return makers[field.type]()
