"""What Civitai's answers say of a model, in modelkeep's words. Pure; asks nobody.

DownloadService reads the answers of its REST API, InstallService the copies of them that helpers leave beside
model files. Nothing here trusts a type: what is not as it should be is taken as not said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from modelkeep.hubs import CIVITAI
from modelkeep_common.plain_text import cut, plain_text, printable

#: Most bytes of a description.
MAX_DESCRIPTION: Final = 4096
#: As many tags and trigger phrases as a record takes at most, and bytes of one.
_MAX_TAGS, _MAX_TAG = 256, 256
_MAX_PHRASES, _MAX_PHRASE = 1024, 1024
#: Types of what can be fetched there and is no model, in small letters.
NO_MODELS: Final = frozenset({"workflows", "wildcards", "poses"})
_TYPES: Final[Mapping[str, str]] = {
    "checkpoint": "main",
    "lora": "lora",
    "locon": "lora",
    "dora": "lora",
    "textualinversion": "embedding",
    "controlnet": "controlnet",
    "vae": "vae",
    "upscaler": "spandrel_image_to_image",
}
#: Its names of bases, regular expressions for the whole name in small letters, and ours.
_BASES: Final = (
    (r"sd 1\.[45]( .*)?", "sd-1"),
    (r"sd 2\.[01]( .*)?", "sd-2"),
    (r"sd 3(\.5)?( .*)?", "sd-3"),
    (r"sdxl( .*)?|pony|illustrious|noobai", "sdxl"),
    (r"flux\.1( .*)?", "flux"),
    (r"flux\.2( .*)?", "flux2"),
    (r"qwen( image)?( .*)?", "qwen-image"),
    (r"wan( video)?( .*)?", "wan"),
    (r"z-?image.*", "z-image"),
    (r"anima( .*)?", "anima"),
)


def type_of(type_: str) -> str:
    """Our type of models for one of Civitai's ("LORA"); "" where there is none."""
    return _TYPES.get(type_.lower(), "")


def base_of(base: str) -> str:
    """Our base for one of Civitai's ("SDXL 1.0", "Pony"); "" where there is none."""
    plain = " ".join(base.lower().split())
    return next((ours for theirs, ours in _BASES if re.fullmatch(theirs, plain)), "")


def text(value: object) -> str:
    """A string on one line; "" for anything else."""
    return " ".join(printable(value).split()) if isinstance(value, str) else ""


def items(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list; none for anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def mapping(value: object) -> Mapping[str, Any]:
    """An object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> int:
    """A number that is above 0 and names something; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63 else 0


def page_of(model: int, version: int, site: str = CIVITAI) -> str:
    """Address of the page of a version; 0: of a model whose number is not known."""
    return f"{site}/models/{model}?modelVersionId={version}" if model else f"{site}/model-versions/{version}"


def time_of(value: object) -> float | None:
    """Seconds since 1970 of a time as ISO 8601 has it; None for anything else."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        told = datetime.fromisoformat(value)
        seconds = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None


def description_of(*parts: object) -> str:
    """Descriptions as plain text, one after the other: at most 4 KiB in all."""
    texts = [plain_text(part, MAX_DESCRIPTION) for part in parts if isinstance(part, str)]
    return cut("\n\n".join(dict.fromkeys(filter(None, texts))), MAX_DESCRIPTION)


def tags_of(value: object) -> tuple[str, ...]:
    """Tags: strings, or objects with a name."""
    named = (tag.get("name") if isinstance(tag, Mapping) else tag for tag in _list(value))
    return _unique(map(text, named), _MAX_TAGS, _MAX_TAG)


def trigger_phrases_of(value: object) -> tuple[str, ...]:
    """Trigger phrases out of a list of them, or of a text.

    Who writes them often puts several into one, with commas: they are taken apart, but for commas inside
    brackets, which belong to a weighted phrase.
    """
    written = [value] if isinstance(value, str) else [word for word in _list(value) if isinstance(word, str)]
    return _unique((phrase for word in written for phrase in _parts(word)), _MAX_PHRASES, _MAX_PHRASE)


def license_of(model: Mapping[str, Any]) -> str:
    """The terms of use: "allowCommercialUse=Sell;allowDerivatives=true;…"; "" where none are told.

    A term that has several values stands there once for each, so that a search for one finds it.
    """
    uses = model.get("allowCommercialUse")
    if isinstance(uses, str):  # older answers; some in the database's own spelling: {Image,Sell}
        uses = uses.strip("{}").split(",")
    told = [f"allowCommercialUse={use}" for use in _unique(map(text, _list(uses)), 10, 30)]
    for name in ("allowDerivatives", "allowNoCredit", "allowDifferentLicense"):
        if isinstance(model.get(name), bool):
            told.append(f"{name}={str(model[name]).lower()}")
    return ";".join(told)


def picture_of(images: object) -> tuple[str, int]:
    """Address and level of a picture: the first that is fit for all, else the first; ("", 0) where none is.

    The level is Civitai's: 1 is fit for all, each further one twice the one before; 0 where it is not told.
    """
    shown = [
        (address, _level(image))
        for image in items(images)
        if (address := text(image.get("url"))).startswith(("https://", "http://"))
        and len(address) <= 2048
        and text(image.get("type")) in ("", "image")
    ]
    return next((one for one in shown if one[1] == 1), shown[0] if shown else ("", 0))


def level_of(value: object) -> int:
    """A level, or several as bits; 0 where it is not told."""
    return min(number(value), 255)


def _level(image: Mapping[str, Any]) -> int:
    told = image.get("nsfwLevel", image.get("nsfw"))
    words = {"none": 1, "soft": 2, "mature": 4, "x": 8}
    if isinstance(told, bool):
        return 4 if told else 1
    return words.get(told.lower(), 0) if isinstance(told, str) else level_of(told)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _parts(word: str) -> Iterable[str]:
    """A text between its commas and line ends, those inside brackets aside."""
    depth, begin = 0, 0
    for at, char in enumerate(word):
        if char in "([{<":
            depth += 1
        elif char in ")]}>":
            depth = max(0, depth - 1)
        elif char == "\n" or (char == "," and not depth):
            yield word[begin:at]
            begin, depth = at + 1, 0
    yield word[begin:]


def _unique(texts: Iterable[str], most: int, most_bytes: int) -> tuple[str, ...]:
    clean = (text(one) for one in texts)
    return tuple(list(dict.fromkeys(one for one in clean if one and len(one.encode()) <= most_bytes))[:most])
