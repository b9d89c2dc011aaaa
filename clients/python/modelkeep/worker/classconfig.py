"""What a configuration may say to the classes that may be built: known keys, values within reason.

A configuration comes with a model, so from strangers. Its keys are looked up here, per class; what stands
under others never reaches a library, since libraries let some of them choose code (``auto_map``), other
packages (``quantization_config``) or kernels from a hub (``attn_implementation``). This module imports
neither torch nor the libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Final, NoReturn

from modelkeep.exceptions import InvalidModelException
from modelkeep.quantised import METHODS
from modelkeep.worker.classes import CLASSES

#: What a configuration may set for the attention. Others are code of other packages; a name with a slash is
#: code from the library's hub.
ATTENTIONS: Final = ("eager", "sdpa")
_ATTENTION_KEYS: Final = ("attn_implementation", "_attn_implementation")

#: Entries of a list, and characters of a word.
_MAX_ENTRIES: Final = 256
_MAX_WORD: Final = 200
#: Entries of a list that has one for each step of a schedule; there are a thousand steps, mostly.
_MAX_STEPS: Final = 10_000
#: The largest size of any kind, and those that have another bound. The widest published layers have some
#: ten thousand features, the deepest models some hundred layers.
_MAX_SIZE: Final = 1 << 20
_MAX_NUMBER: Final = 1e9
#: A few settings count from the end, or name what is left out.
_LEAST: Final = -1000
#: Settings that are several under one name: numbers and words, and none that chooses a class.
_GROUPS: Final = frozenset({"rope_parameters", "rope_scaling", "norm_kwargs"})
_MAX: Final[Mapping[str, int]] = {
    "vocab_size": 1 << 21,
    "rope_theta": 10**9,
    "rope_parameters.rope_theta": 10**9,
    **dict.fromkeys(
        (
            "layers_per_block",
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
            "num_hidden_layers",
            "num_layers",
            "num_single_layers",
            "num_decoder_layers",
        ),
        1000,
    ),
}

#: No two libraries have a class of the same name.
_BY_NAME: Final = {name: facts for (_, name), facts in CLASSES.items()}


def known_keys(class_name: str) -> frozenset[str]:
    """Keys that a class is told."""
    return _BY_NAME[class_name].keys


def checked_config(class_name: str, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The part of a configuration that its class is told.

    Args:
        class_name: One of the classes that may be built (:mod:`modelkeep.worker.classes`).
        config: The configuration as a file has it.
        path: Where that file is, for messages.

    Raises:
        InvalidModelException: It asks for what is not to be had: weights quantised in a way that cannot be
            read, an attention from elsewhere, or sizes beyond reason.
    """
    _refuse_code(config, path)
    facts = _BY_NAME[class_name]
    taken = {key: value for key, value in config.items() if key in facts.keys}
    for key, value in taken.items():
        inner = facts.nested.get(key)
        if inner is not None and isinstance(value, dict):
            _refuse_code(value, path)
            taken[key] = _checked({name: one for name, one in value.items() if name in inner}, path)
        else:
            _checked({key: value}, path)
    return taken


def _checked(values: dict[str, Any], path: Path) -> dict[str, Any]:
    for key, value in values.items():
        if key in _GROUPS and isinstance(value, dict):
            if len(value) > _MAX_ENTRIES:
                _bad(path, f"{key} has {len(value):,} entries, more than the {_MAX_ENTRIES} that models have")
            for name, one in value.items():
                _check(f"{key}.{name[:_MAX_WORD]}", one, path, levels=1)
        else:
            _check(key, value, path, levels=2)
    return values


def _refuse_code(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what would be done by other packages, or by code from elsewhere."""
    if quantized := config.get("quantization_config"):
        _check_quantisation(quantized, path)
    for key in _ATTENTION_KEYS:
        if (attention := config.get(key)) is not None and attention not in ATTENTIONS:
            allowed = ", ".join(ATTENTIONS)
            _bad(path, f"the attention {_said(attention)} is not among those that may be used ({allowed})")


def check_settings(settings: Mapping[str, Any], path: Path) -> None:
    """The settings of a scheduler: within reason, since it makes tables of such sizes.

    Raises:
        InvalidModelException: One is not; it is named.
    """
    for key, value in settings.items():
        _check(key, value, path, levels=2, entries=_MAX_STEPS)


def _check_quantisation(quantised: object, path: Path) -> None:
    """How its weights are quantised, by a method whose tensors tell the rest; nothing of it is obeyed."""
    facts = quantised if isinstance(quantised, dict) else {"quant_method": quantised}
    method = facts.get("quant_method")
    if method is None and (facts.get("load_in_8bit") or facts.get("load_in_4bit")):
        method = "bitsandbytes"
    if not isinstance(method, str) or method not in METHODS:
        what = f"quantised weights ({_said(method)}) cannot be lent: use one that is not quantised"
        _bad(path, what, "Use this model's folder in float16, bfloat16 or float32.")
    edges = facts.get("weight_block_size") or ()
    if not isinstance(edges, list | tuple) or any(type(e) is not int or e < 1 or e & (e - 1) for e in edges):
        _bad(path, f"scales for blocks of {_said(edges)} numbers cannot be read")


def _check(key: str, value: object, path: Path, levels: int, entries: int = _MAX_ENTRIES) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        limit = _MAX.get(key, _MAX_SIZE)
        if not _LEAST <= value <= limit:
            _bad(path, f"{key} is {_said(value)}, not within the {limit:,} that models have")
    elif isinstance(value, float):
        if not isfinite(value) or abs(value) > _MAX_NUMBER:
            _bad(path, f"{key} is {value}, which no model has")
    elif isinstance(value, str):
        if len(value) > _MAX_WORD:
            _bad(path, f"{key} is a word of {len(value):,} characters")
    elif isinstance(value, (list, tuple)) and levels:
        if len(value) > entries:
            _bad(path, f"{key} has {len(value):,} entries, more than the {entries:,} that models have")
        for entry in value:
            _check(key, entry, path, levels - 1, entries)
    else:
        _bad(path, f"{key} is neither a number, nor a word, nor a list of them")


def _said(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _bad(path: Path, detail: str, remedy: str = "") -> NoReturn:
    raise InvalidModelException(
        f"{path.name} in {path.parent.name}: {detail}.",
        metadata={"path": str(path), "detail": detail},
        remedy=remedy,
    )
