"""What helpers leave beside a file: ``style.civitai.info`` and ``style.json`` of ``style.safetensors``.

The first is an answer of Civitai about one version, as the helpers that ask it keep it; the second holds
what a user wrote in stable-diffusion-webui. Both come from strangers and nothing depends on them: what
cannot be read, or is not as it should be, is left out, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from modelkeep.exceptions import ModelkeepError, SourceNotFoundException
from modelkeep.modeljson import read_object
from modelkeep_common import civitai

from ...domain.system_errors import reading
from .folder import shortened
from .headers import Opener

#: Bytes that one may have; those of Civitai with their pictures have some tens of KiB.
MAX_BYTES: Final = 1 << 20
#: Of a LoRA; who notes more means something else.
_MAX_WEIGHT: Final = 100
#: Characters of a base or a type in a helper's words.
_MAX_WORD: Final = 64


@dataclass(frozen=True, slots=True)
class SideCar:
    """One of the files beside a model.

    Attributes:
        name: Its name.
        said: Fields of the record that it tells: description, license, tags, trigger_phrases, source_url,
            default_settings.
        base: The base in its own words, such as "SDXL 1.0"; empty if it tells none.
        type: The type in its own words, such as "LORA"; empty if it tells none.
        trouble: Why it was not read; empty if it was.
    """

    name: str
    said: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    type: str = ""
    trouble: str = ""

    @property
    def summary(self) -> str:
        """What it tells, for people."""
        if self.trouble:
            return f"{self.name} is not read: {self.trouble}"
        told = [name.replace("_", " ").replace("license", "licence") for name in self.said]
        told += [f"{what} {word!r}" for what, word in (("base", self.base), ("type", self.type)) if word]
        return f"{self.name} tells {', '.join(told) or 'nothing of use'}"


def side_cars(file: Path, opener: Opener) -> tuple[SideCar, ...]:
    """Those of a single file that are there, the one to believe first."""
    stem = PurePath(file.name).stem
    found = (_read(file.with_name(stem + ending), opener, meaning) for ending, meaning in _ENDINGS)
    return tuple(car for car in found if car is not None)


def _read(path: Path, opener: Opener, meaning: Callable[[str, Mapping[str, Any]], SideCar]) -> SideCar | None:
    try:
        with reading(path), opener(path) as file:
            found = read_object(file.fileno(), path, MAX_BYTES)
    except SourceNotFoundException:
        return None
    except ModelkeepError as error:
        return SideCar(path.name, trouble=shortened(civitai.text(error.message)))
    return meaning(path.name, found)


def _of_civitai(name: str, version: Mapping[str, Any]) -> SideCar:
    model = civitai.mapping(version.get("model"))
    said = {
        "description": civitai.description_of(model.get("description"), version.get("description")),
        "license": civitai.license_of({**version, **model}),
        "tags": civitai.tags_of(model.get("tags") or version.get("tags")),
        "trigger_phrases": civitai.trigger_phrases_of(version.get("trainedWords")),
        "source_url": _page(civitai.number(version.get("modelId")), civitai.number(version.get("id"))),
    }
    return _side_car(name, said, version.get("baseModel"), model.get("type"))


def _of_webui(name: str, notes: Mapping[str, Any]) -> SideCar:
    said = {
        "description": civitai.description_of(notes.get("description"), notes.get("notes")),
        "trigger_phrases": civitai.trigger_phrases_of(notes.get("activation text")),
        "default_settings": _weight(notes.get("preferred weight")),
    }
    return _side_car(name, said, notes.get("sd version"), None)


def _page(model: int, version: int) -> str:
    return civitai.page_of(model, version) if version else ""


def _weight(preferred: object) -> dict[str, float]:
    """The strength that a user prefers; 0 is what stands there before he says one."""
    if (
        isinstance(preferred, bool)
        or not isinstance(preferred, int | float)
        or not 0 < abs(preferred) < _MAX_WEIGHT
    ):
        return {}
    return {"weight": float(preferred)}


def _side_car(name: str, said: Mapping[str, Any], base: object, type_: object) -> SideCar:
    told = {field: list(value) if isinstance(value, tuple) else value for field, value in said.items()}
    return SideCar(
        name,
        {field: value for field, value in told.items() if value},
        civitai.text(base)[:_MAX_WORD],
        civitai.text(type_)[:_MAX_WORD],
    )


_ENDINGS: Final = ((".civitai.info", _of_civitai), (".json", _of_webui))
