"""The files of a repository, as its listing names them: which can be taken at all. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from modelkeep_download.domain.names import is_safe_component, place_of

#: As `domain.sets` takes them.
MAX_PATH_BYTES: Final = 1024
#: Verdicts of the hub's scanners after which a file is not fetched.
UNSAFE: Final = frozenset({"unsafe", "infected"})
#: Formats that hold pickled objects, which are code.
PICKLES: Final = frozenset({"bin", "ckpt", "pt", "pth"})
_TRAINING: Final = re.compile(
    r"(?:^|/)(?:(?:checkpoint-\d+|runs|logs|wandb)/"
    r"|(?:optimizer|scheduler|scaler|training_args|rng_state\w*|random_states\w*)\.(?:pt|pth|bin|pkl|safetensors)$"
    r"|trainer_state\.json$|events\.out\.tfevents)"
)
#: What tokenizers, schedulers and configurations are made of.
_SIDE_SUFFIXES: Final = frozenset(
    {"json", "txt", "model", "jinja", "tiktoken", "spm", "vocab", "bpe", "yaml", "yml"}
)
_SIDE_MAX_BYTES: Final = 64 << 20
_WEIGHTS: Final = frozenset(
    {"safetensors", "sft", "gguf", "bin", "ckpt", "pt", "pth", "msgpack", "h5", "onnx", "pb", "tflite"}
)
_ABOUT: Final = re.compile(r"readme|licen[cs]e|notice|changelog|requirements|use_policy", re.IGNORECASE)
_PICTURES: Final = frozenset({"png", "jpg", "jpeg", "gif", "webp", "svg", "bmp", "mp4", "webm", "md", "pdf"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a repository."""

    path: str
    #: In bytes.
    size: int
    #: Lowercase hexadecimal; empty where the listing has none.
    sha256: str = ""
    #: Whether it is in the hub's chunk store.
    is_xet: bool = False
    #: What the hub's scanners say: "safe", "unsafe", "suspicious", …; empty if nothing.
    verdict: str = ""

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """What is before that; empty at the top."""
        return self.path.rpartition("/")[0]

    @property
    def suffix(self) -> str:
        """Of its name, in lower case, without the dot."""
        return self.name.rpartition(".")[2].lower() if "." in self.name else ""

    @property
    def is_code(self) -> bool:
        """Whether it is a program."""
        return self.suffix == "py"

    @property
    def is_unsafe(self) -> bool:
        """Whether the hub warns of it."""
        return self.verdict in UNSAFE

    @property
    def is_training_state(self) -> bool:
        """Whether it serves to go on with a training."""
        return _TRAINING.search(self.path) is not None

    @property
    def is_for_people(self) -> bool:
        """Whether it is a picture or a text about the model."""
        return self.suffix in _PICTURES or _ABOUT.match(self.name) is not None

    @property
    def is_side_file(self) -> bool:
        """Whether it is one of the small files beside weights: a configuration, a part of a tokenizer."""
        return self.suffix in _SIDE_SUFFIXES and self.is_small_part

    @property
    def is_small_part(self) -> bool:
        """Whether it can be a part of a tokenizer, whatever its name."""
        return (
            self.suffix not in _WEIGHTS
            and self.size <= _SIDE_MAX_BYTES
            and not (self.is_code or self.is_for_people or self.is_training_state)
        )


def usable(entries: Iterable[Entry]) -> tuple[list[Entry], list[str]]:
    """The files whose names are harmless on every common file system; and a sentence for each reason why not.

    Hidden ones are left out without a word.
    """
    known = [entry for entry in entries if not _is_hidden(entry.path)]
    named = [entry for entry in known if _is_safe(entry.path)]
    odd = len(known) - len(named)
    places = [place_of(entry.path) for entry in named]
    folders = {folder for place in places for folder in parents(place)}
    times = Counter(places)
    apart = [
        entry
        for entry, place in zip(named, places, strict=True)
        if times[place] == 1 and place not in folders
    ]
    reasons = []
    if odd:
        reasons.append(f"{counted(odd, 'file')} left out: no file system takes such a name safely.")
    if len(apart) < len(named):
        clashing = counted(len(named) - len(apart), "file")
        reasons.append(f"{clashing} left out: the names differ in case or accents alone.")
    return apart, reasons


def beneath(entries: Iterable[Entry], folder: str) -> list[Entry]:
    """The files in a folder and below it; all where it is empty."""
    return [entry for entry in entries if not folder or entry.path.startswith(f"{folder}/")]


def folders_of(entry: Entry) -> list[str]:
    """The folders that a file is in, "" first."""
    return ["", *parents(entry.path)]


def directly_in(entries: Iterable[Entry], folder: str) -> list[Entry]:
    """The files in a folder itself."""
    return [entry for entry in entries if entry.folder == folder]


def size_of(entries: Iterable[Entry]) -> int:
    """Of all together, in bytes."""
    return sum(entry.size for entry in entries)


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names as a part of a sentence, cut after some."""
    shown, more = list(names[:most]), len(names) - most
    if more > 0:
        return f"{', '.join(shown)} and {more:,} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def parents(path: str) -> list[str]:
    """The folders on the way to a path, the outermost first."""
    found, at = list[str](), path.find("/")
    while at >= 0:
        found.append(path[:at])
        at = path.find("/", at + 1)
    return found


def _is_hidden(path: str) -> bool:
    parts = path.split("/")
    return any(part[:1] == "." and part not in (".", "..") for part in parts)


def _is_safe(path: str) -> bool:
    return len(path.encode(errors="replace")) <= MAX_PATH_BYTES and all(
        map(is_safe_component, path.split("/"))
    )
