"""Diffusers folders: what ``model_index.json`` and the components' configs say, and their weights confirm.

The layout is the library's (https://huggingface.co/docs/diffusers, "Model files and layouts"); the library
itself is never imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from modelkeep.configs import SubmodelDefinition
from modelkeep.exceptions import InvalidModelException, UnsafeFormatException
from modelkeep.headers import Allowance, Header
from modelkeep.modeljson import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, read_object
from modelkeep.taxonomy import SchedulerPredictionType, SubModelType
from modelkeep.worker.classconfig import checked_config
from modelkeep.worker.classes import ALLOWED as LENDABLE_CLASSES

from ..system_errors import reading
from .families.unet import BASE_BY_CONTEXT, VARIANT_BY_CHANNELS
from .families.vae import vae_folder_match
from .headers import Opener, read_header
from .result import UNKNOWN, Evidence, Match, NoMatch, RuledOut, certain, likely

#: Files of these kinds may run code when they are read.
PICKLE_SUFFIXES = frozenset({".ckpt", ".pt", ".bin", ".pth"})

#: Entries of a model_index.json; published ones have a dozen.
_MAX_COMPONENTS = 100
#: Names listed in one error.
_MAX_LISTED = 10

#: ``model.safetensors.index.json``, and of a variant ``model.safetensors.index.fp16.json``.
_SHARD_INDEX = re.compile(r"\.safetensors\.index(\.\w+)?\.json$")

_SD = ("sd-1", "sd-2")
_XL = ("sdxl", "sdxl-refiner")
#: Pipeline class -> bases it can hold.
PIPELINES: Mapping[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionInpaintPipelineLegacy": _SD,
    "StableDiffusionDepth2ImgPipeline": ("sd-2",),
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
}
#: Entries of model_index.json that are components the suite knows; others are named in the evidence.
_SUBMODELS = frozenset(
    {
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
        "safety_checker",
    }
)
_WITH_WEIGHTS = frozenset({"unet", "vae", "text_encoder", "text_encoder_2", "safety_checker"})
_REQUIRED = ("unet", "vae")


def unsafe(path: Path) -> UnsafeFormatException:
    """The refusal of a pickle file."""
    return UnsafeFormatException(
        f"{path.name} is a pickle, which may run code when it is read: convert it to safetensors first.",
        metadata={"path": str(path), "format": path.suffix.lower()},
    )


class Folder:
    """One model folder: its files by relative path, and readers that go through the opener."""

    def __init__(self, path: Path, files: Mapping[str, int], opener: Opener) -> None:
        self.path = path
        self.files = files
        self._opener = opener
        self._allowance = Allowance()

    def config(self, relative: str, limit: int = MAX_CONFIG_BYTES) -> Mapping[str, Any] | None:
        """A JSON object of the folder; None if there is no such file.

        Raises:
            InvalidModelException: It is there, and is no JSON object, or beyond the reader's bounds.
        """
        if relative not in self.files:
            return None
        path = self.path / relative
        with reading(path), self._opener(path) as file:
            return read_object(file.fileno(), path, limit)

    def check_config(self, component: str, library: object, class_name: object) -> None:
        """What a component's config asks for is within reason, if its class is one that can be lent.

        Raises:
            InvalidModelException: It is not.
        """
        relative = f"{component}/config.json".lstrip("/")
        config = self.config(relative)
        if config is not None and (str(library), str(class_name)) in LENDABLE_CLASSES:
            checked_config(str(class_name), config, self.path / relative)

    def check_shards(self) -> None:
        """Every shard that an index names must lie beside it.

        Raises:
            InvalidModelException: Shards are missing (the text names them), or the index is broken.
        """
        for name in filter(_SHARD_INDEX.search, self.files):
            weight_map = (self.config(name, MAX_INDEX_BYTES) or {}).get("weight_map")
            shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
            if not shards or not all(isinstance(shard, str) for shard in shards):
                raise self.invalid(name, "no weight_map from tensors to files")
            wanted = sorted(set(shards))
            outside = [shard for shard in wanted if shard in ("", ".", "..") or "/" in shard or "\\" in shard]
            if outside:
                raise self.invalid(
                    name, f"no plain file names: {_listed([repr(shard) for shard in outside])}"
                )
            missing = [shard for shard in wanted if str(PurePosixPath(name).parent / shard) not in self.files]
            if missing:
                raise self.invalid(
                    name,
                    f"{len(missing)} of its {len(wanted)} shards are not there: {_listed(missing)}; "
                    "fetch the missing files, then install again",
                )

    def weights(self, component: str) -> list[Header]:
        """Headers of a component's safetensors files (its shards, and its variants such as fp16).

        Raises:
            UnsafeFormatException: The only weights there are pickles.
            InvalidModelException: A file is damaged, holds what cannot be lent, or there is none.
        """
        inside = [name for name in self.files if _folder_of(name) == component]
        tensors = sorted(name for name in inside if name.endswith(".safetensors"))
        pickles = [name for name in inside if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES]
        if not tensors and pickles:
            raise unsafe(self.path / pickles[0])
        if not tensors:
            raise self.invalid(component, "no safetensors weights in this folder")
        headers = [read_header(self.path / name, self._opener, self._allowance) for name in tensors]
        for header in headers:
            header.check_lendable()
        return headers

    def invalid(self, relative: str, detail: str) -> InvalidModelException:
        where = f"{relative} in {self.path.name}" if relative else self.path.name
        return InvalidModelException(
            f"{where}: {detail}.",
            metadata={"path": str(self.path / relative), "detail": detail},
        )


def probe_folder(folder: Folder) -> Match | NoMatch:
    """The match of a pipeline folder or of an ``AutoencoderKL`` folder."""
    folder.check_shards()
    index = folder.config("model_index.json")
    if index is not None:
        return _probe_pipeline(folder, index)
    config = folder.config("config.json")
    if config is None:
        return NoMatch("neither model_index.json nor config.json")
    class_name = config.get("_class_name")
    if class_name != "AutoencoderKL":
        known = _short(class_name or config.get("architectures") or "no class")
        return NoMatch(f"config.json names {known}, which is no pipeline and no autoencoder")
    folder.check_config("", "diffusers", class_name)
    latents = _integer(config, "latent_channels", 4)
    for header in folder.weights(""):
        shape = header.get("decoder.conv_in.weight", ())
        if len(shape) == 4 and shape[1] != latents:
            detail = f"latent_channels {_short(latents)}, but the weights have {shape[1]}"
            raise folder.invalid("config.json", detail)
    return vae_folder_match(config, latents)


def _probe_pipeline(folder: Folder, index: Mapping[str, Any]) -> Match | NoMatch:
    class_name = str(index.get("_class_name", ""))
    allowed = PIPELINES.get(class_name)
    if allowed is None:
        return NoMatch(f"model_index.json names {_short(class_name) or 'no class'}, which is not known yet")
    evidence = [certain("type=main", f"model_index.json names {class_name}")]
    submodels = _submodels(folder, index, evidence)
    unet = folder.config("unet/config.json")
    if unet is None:
        raise folder.invalid("unet/config.json", "model_index.json names a UNet, its config is not there")
    headers = folder.weights("unet")
    base, variant, possible = _unet_facts(folder, unet, headers, allowed, evidence)
    if not variant:
        return NoMatch(
            f"the UNet takes {_short(unet.get('in_channels'))} channels, which is no variant of the family"
        )
    settings: dict[str, Any] = {"variant": variant, "submodels": submodels}
    scheduler = folder.config("scheduler/scheduler_config.json")
    if scheduler is not None:
        # diffusers leaves the key out only in configs older than the key, which were all epsilon
        prediction = _short(scheduler.get("prediction_type", "epsilon"))
        evidence.append(likely(f"prediction_type={prediction}", "scheduler/scheduler_config.json"))
        if prediction in set(SchedulerPredictionType):  # a scheduler's config may name any
            settings["prediction_type"] = prediction
    if isinstance(upcast := unet.get("upcast_attention"), bool):
        settings["upcast_attention"] = upcast
    return Match(
        type="main",
        format="diffusers",
        base=base,
        possible_bases=possible,
        compatible_bases=possible if base == UNKNOWN else (),
        settings=settings,
        evidence=tuple(evidence),
        ruled_out=tuple(
            RuledOut(other, f"{class_name} and the UNet's config do not fit it")
            for other in BASE_BY_CONTEXT.values()
            if other not in possible
        ),
    )


def _submodels(
    folder: Folder, index: Mapping[str, Any], evidence: list[Evidence]
) -> list[SubmodelDefinition]:
    """The components that model_index.json names and the folder holds."""
    if len(index) > _MAX_COMPONENTS:
        raise folder.invalid("model_index.json", f"{len(index):,} entries, more than any pipeline has")
    found = []
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or len(entry) != 2 or entry[1] is None:
            continue
        if name not in _SUBMODELS:
            what = f"{_short(entry[1])} is no component that can be lent"
            evidence.append(certain(f"no submodel={_short(name)}", what))
            continue
        if not any(_folder_of(file) == name for file in folder.files):
            if name in _REQUIRED:
                raise folder.invalid(name, "model_index.json names it, the folder does not have it")
            evidence.append(
                certain(f"no submodel={name}", "model_index.json names it, the folder does not have it")
            )
            continue
        # a damaged or unsafe component is found now, not when it is loaded
        if name in _WITH_WEIGHTS and name != "unet":
            folder.weights(name)
        folder.check_config(name, entry[0], entry[1])
        found.append(
            SubmodelDefinition(
                type=SubModelType(name),
                path_or_prefix=name,
                class_name=_short(entry[1]),
                library=_short(entry[0]),
            )
        )
    return found


def _unet_facts(
    folder: Folder,
    config: Mapping[str, Any],
    headers: list[Header],
    allowed: tuple[str, ...],
    evidence: list[Evidence],
) -> tuple[str, str, tuple[str, ...]]:
    """(base, variant, possible bases) of the UNet; the observations join ``evidence``."""
    channels = _integer(config, "in_channels", 4)
    width = _integer(config, "cross_attention_dim", 1280)
    _confirm(folder, headers, "conv_in.weight", channels, "in_channels", evidence)
    _confirm(folder, headers, ".attn2.to_k.weight", width, "cross_attention_dim", evidence)
    variant = VARIANT_BY_CHANNELS.get(channels, "")
    if variant:
        evidence.append(certain(f"variant={variant}", f"the UNet takes {channels} channels"))
    base = BASE_BY_CONTEXT.get(width)
    if base in allowed:
        evidence.append(certain(f"base={base}", f"the UNet's cross-attention takes {width} features of text"))
        return base, variant, (base,)
    evidence.append(
        certain(
            f"base={'|'.join(allowed)}",
            f"the pipeline's class; {_short(width)} features of text are no published model's",
        )
    )
    if len(allowed) == 1:
        return allowed[0], variant, allowed
    if allowed == _SD:
        # SD-2 is the first with linear projections around its transformers
        linear = bool(config.get("use_linear_projection", False))
        base = "sd-2" if linear else "sd-1"
        evidence.append(
            likely(f"base={base}", f"use_linear_projection is {str(linear).lower()} in the UNet's config")
        )
        return base, variant, allowed
    two = any(_folder_of(file) == "text_encoder" for file in folder.files)
    base = "sdxl" if two else "sdxl-refiner"
    evidence.append(likely(f"base={base}", "two text encoders" if two else "one text encoder"))
    return base, variant, allowed


def _confirm(
    folder: Folder,
    headers: list[Header],
    ending: str,
    expected: int,
    setting: str,
    evidence: list[Evidence],
) -> None:
    """The weights must agree with the config: a folder whose halves disagree is damaged."""
    for header in headers:
        name = next((n for n in header if n.endswith(ending) and len(header[n]) >= 2), "")
        if not name:
            continue
        if header[name][1] != expected:
            raise folder.invalid(
                "unet/config.json",
                f"{setting} {_short(expected)}, but {name} in the weights has {header[name][1]}",
            )
        evidence.append(certain(setting, f"tensor {name} of {header.path.name} is {list(header[name])}"))
        return


def _short(value: object) -> str:
    """What a config says, short enough to be quoted."""
    said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return said if len(said) <= 200 else f"{said[:200]}…"


def _listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    first = [_short(name) for name in names[:_MAX_LISTED]]
    return ", ".join(first) + (f" and {len(names) - len(first):,} more" if len(names) > len(first) else "")


def _integer(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _folder_of(relative: str) -> str:
    parent = str(PurePosixPath(relative).parent)
    return "" if parent == "." else parent


def lora_in(folder: Folder) -> str:
    """The LoRA file of a folder that diffusers saved; empty if it is none."""
    name = "pytorch_lora_weights.safetensors"
    return name if name in folder.files and "model_index.json" not in folder.files else ""


def as_folder(match: Match) -> Match:
    """A file's match, for the folder that holds only this file."""
    return replace(match, format="diffusers")
