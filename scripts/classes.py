"""Write clients/python/modelkeep/worker/classes.json: what there is to know of the classes that may be built.

The names are those of ``modelkeep.worker.classes``; the rest is read off the installed libraries. With
``--check``, fail if that changes anything. Takes some seconds of imports.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any, Final

TARGET = Path(__file__).resolve().parent.parent / "clients/python/modelkeep/worker/classes.json"

#: What every configuration of a library may say besides.
_DIFFUSERS: Final = "_class_name _diffusers_version"
_TRANSFORMERS: Final = (
    "model_type output_attentions attn_implementation _attn_implementation initializer_factor "
    "num_decoder_layers tie_word_embeddings pad_token_id bos_token_id eos_token_id use_cache "
    # what versions before 5 wrote in place of rope_parameters
    "rope_theta rope_scaling rope_local_base_freq partial_rotary_factor"
)
#: What says nothing about weights, or stands elsewhere.
_LEFT_OUT: Final = {
    *("self", "kwargs", "dtype", "torch_dtype", "id2label", "label2id", "problem_type", "_name_or_path"),
    *("quantization_config", "auto_map", "backbone_config", "_attn_implementation_internal"),
}


def facts(library: str, name: str) -> dict[str, Any]:
    """One class."""
    pipeline = "" if library in ("diffusers", "transformers") else f"diffusers.pipelines.{library}"
    cls = getattr(importlib.import_module(pipeline or library), name)
    found: dict[str, Any] = {"module": cls.__module__}
    config = getattr(cls, "config_class", None)
    if config is None:
        found["keys"] = _joined(_parameters(cls), _DIFFUSERS.split())
        always = set(cls._keep_in_fp32_modules or ())
        kept: set[str] = set()
    else:
        kept, always = set(cls._keep_in_fp32_modules or ()), set(cls._keep_in_fp32_modules_strict or ())
        # A part that is chosen by name could be any class of the library.
        nested = {key: sub for key, sub in config.sub_configs.items() if sub.__name__ != "AutoConfig"}
        keys = _settings(config) - (config.sub_configs.keys() - nested.keys())
        if "text_config" in nested:  # once written flat
            keys |= _settings(nested["text_config"])
        found["keys"] = _joined(keys)
        if nested:
            found["nested"] = {key: _joined(_settings(sub)) for key, sub in sorted(nested.items())}
    for what, names in (("kept", kept), ("kept_always", always)):
        if names:
            found[what] = _joined(names)
    return found


def _parameters(made: Any) -> set[str]:
    return set(inspect.signature(made.__init__).parameters) - _LEFT_OUT


def _settings(config: Any) -> set[str]:
    # What it writes is more than what it is told: some of it can be told, too.
    written = set(config().to_dict()) - _LEFT_OUT
    return _parameters(config) | written | set(config.attribute_map) | set(_TRANSFORMERS.split())


def _joined(*names: Any) -> str:
    return " ".join(sorted({name for several in names for name in several}))


def main() -> int:
    """Entry point."""
    # The file may lack what is about to be written into it.
    sys.path.insert(0, str(TARGET.parents[2]))
    from modelkeep.worker.classes import NAMES

    told = {
        library: {name: facts(library, name) for name in names.split()} for library, names in NAMES.items()
    }
    text = json.dumps(told, indent=1, sort_keys=True) + "\n"
    if "--check" in sys.argv[1:]:
        return int(text != TARGET.read_text("utf-8"))
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
