"""Diffusers folders: what ``model_index.json`` and the components' configs say, and their weights confirm.

The layout is the library's (https://huggingface.co/docs/diffusers, "Model files and layouts"); the library
itself is never imported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from modelkeep.configs import SubmodelDefinition
from modelkeep.contents import TENSOR_SUFFIXES
from modelkeep.exceptions import UnsafeFormatException
from modelkeep.headers import Header
from modelkeep.taxonomy import SchedulerPredictionType, SubModelType
from modelkeep_common.families import BY_BASE, VARIANT_BY_CHANNELS, bases_by

from ..readers.folder import Folder, folder_of, lone_pickle, shortened, unsafe
from ..result import UNKNOWN, Evidence, Match, NoMatch, RuledOut, certain, likely
from .coverage import compared
from .unet import BASE_BY_CONTEXT
from .vae import vae_folder_match

#: What diffusers and PEFT call the file of a LoRA that they save as a folder.
_LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
#: Entries of a model_index.json; published ones have a dozen.
_MAX_COMPONENTS = 100
#: Pipeline class -> bases it can hold.
PIPELINES = bases_by(lambda family: family.pipelines)
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
#: What a pipeline works without.
_DISPENSABLE = frozenset({"safety_checker"})
_AUTOENCODER = re.compile(r"Autoencoder|VQModel|VQVAE")
#: Names of one kind that an answer lists.
_MAX_LISTED = 10


def probe_folder(folder: Folder) -> Match | NoMatch:
    """The match of a pipeline folder or of an ``AutoencoderKL`` folder."""
    folder.check_shards()
    index = folder.config("model_index.json")
    if index is not None:
        return _probe_pipeline(folder, index)
    config = folder.config("config.json")
    if config is None:
        return _elsewhere(folder)
    class_name = config.get("_class_name")
    if class_name != "AutoencoderKL":
        known = shortened(class_name or config.get("architectures") or "")
        if not known:
            return _elsewhere(folder)
        what = "an autoencoder of a kind that" if _AUTOENCODER.search(known) else "which"
        return NoMatch(f"config.json names {known}, {what} is not supported yet", near=True)
    folder.check_config("", "diffusers", class_name)
    latents = _integer(config, "latent_channels", 4)
    tensors = _tensors(folder.weights(""))
    shape = tensors.get("decoder.conv_in.weight", ())
    if len(shape) == 4 and shape[1] != latents:
        detail = f"latent_channels {shortened(latents)}, but the weights have {shape[1]}"
        raise folder.invalid("config.json", detail)
    return vae_folder_match(config, latents, tensors)


def pickle_in(names: Collection[str]) -> str:
    """The pickle for which a folder of these files is refused, as far as their names tell; "" if for none."""
    if "model_index.json" not in names:
        return lone_pickle(names)
    parts = sorted(_WITH_WEIGHTS - _DISPENSABLE)
    found = (lone_pickle(name for name in names if folder_of(name) == part) for part in parts)
    return next(filter(None, found), "")


def _probe_pipeline(folder: Folder, index: Mapping[str, Any]) -> Match | NoMatch:
    class_name = str(index.get("_class_name", ""))
    allowed = PIPELINES.get(class_name)
    if allowed is None:
        known = shortened(class_name) or "no class"
        return NoMatch(f"model_index.json names {known}, which is not supported yet", near=True)
    evidence = [certain("type=main", f"model_index.json names {class_name}")]
    submodels = _submodels(folder, index, evidence)
    unet = folder.config("unet/config.json")
    if unet is None:
        raise folder.invalid("unet/config.json", "model_index.json names a UNet, its config is not there")
    headers = folder.weights("unet")
    base, variant, possible = _unet_facts(folder, unet, headers, allowed, evidence)
    if not variant:
        return NoMatch(
            f"the UNet takes {shortened(unet.get('in_channels'))} channels, which is no variant of the family"
        )
    settings: dict[str, Any] = {"variant": variant, "submodels": submodels}
    scheduler = folder.config("scheduler/scheduler_config.json")
    if scheduler is not None:
        # diffusers leaves the key out only in configs older than the key, which were all epsilon
        prediction = shortened(scheduler.get("prediction_type", "epsilon"))
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
            what = f"{shortened(entry[1])} is no component that can be lent"
            evidence.append(certain(f"no submodel={shortened(name)}", what))
            continue
        if not any(folder_of(file) == name for file in folder.files):
            absent = f"model_index.json names it, the folder does not have it{folder.beside(name)}"
            if name in _REQUIRED:
                raise folder.invalid(name, absent)
            evidence.append(certain(f"no submodel={name}", absent))
            continue
        # a damaged or unsafe component is found now, not when it is loaded
        if name in _WITH_WEIGHTS and name != "unet":
            try:
                folder.weights(name)
            except UnsafeFormatException as error:
                if name not in _DISPENSABLE:
                    raise
                # many published pipelines have it so, and it makes no picture: it is never read, nor lent
                evidence.append(certain(f"no submodel={name}", f"not lendable: {error.message}"))
                continue
        folder.check_config(name, entry[0], entry[1])
        found.append(
            SubmodelDefinition(
                type=SubModelType(name),
                path_or_prefix=name,
                class_name=shortened(entry[1]),
                library=shortened(entry[0]),
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
    seen = _confirm(folder, headers, "conv_in.weight", channels, "in_channels", evidence)
    _confirm(folder, headers, ".attn2.to_k.weight", width, "cross_attention_dim", evidence)
    variant = VARIANT_BY_CHANNELS.get(channels, "")
    if variant:
        sure = certain if seen else likely
        evidence.append(sure(f"variant={variant}", f"the UNet takes {channels} channels"))
    base = BASE_BY_CONTEXT.get(width)
    if base in allowed:
        unet = BY_BASE[base].unet
        assert unet is not None
        layers = unet.layers("diffusers")
        layers = {**layers, "conv_in": (layers["conv_in"][0], channels)}
        what = f"the UNet's cross-attention takes {width} features of text"
        compared(_tensors(headers), layers).said(evidence, f"base={base}", what)
        return base, variant, (base,)
    evidence.append(
        certain(
            f"base={'|'.join(allowed)}",
            f"the pipeline's class; {shortened(width)} features of text are no published model's",
        )
    )
    if len(allowed) == 1:
        return allowed[0], variant, allowed
    if allowed == ("sd-1", "sd-2"):
        # SD-2 is the first with linear projections around its transformers
        linear = bool(config.get("use_linear_projection", False))
        base = "sd-2" if linear else "sd-1"
        evidence.append(
            likely(f"base={base}", f"use_linear_projection is {str(linear).lower()} in the UNet's config")
        )
        return base, variant, allowed
    two = any(folder_of(file) == "text_encoder" for file in folder.files)
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
) -> bool:
    """Whether the weights show what the config says; a folder whose halves disagree is damaged."""
    for header in headers:
        name = next((n for n in header if n.endswith(ending) and len(header[n]) >= 2), "")
        if not name:
            continue
        if header[name][1] != expected:
            raise folder.invalid(
                "unet/config.json",
                f"{setting} {shortened(expected)}, but {name} in the weights has {header[name][1]}",
            )
        evidence.append(certain(setting, f"tensor {name} of {header.path.name} is {list(header[name])}"))
        return True
    return False


def _tensors(headers: Iterable[Header]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a component's files, by name."""
    return {name: header[name] for header in headers for name in header}


def _integer(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def lora_in(folder: Folder) -> str:
    """The LoRA file of a folder that diffusers or PEFT saved; empty if it is none."""
    if "model_index.json" in folder.files:
        return ""
    return next((name for name in _LORA_FILES if name in folder.files), "")


def as_folder(match: Match) -> Match:
    """A file's match, for the folder that holds only this file."""
    return replace(match, format="diffusers")


def _elsewhere(folder: Folder) -> NoMatch:
    """What a folder holds that is no model itself, and what to install in its place."""
    pipelines = [folder_of(name) for name in folder.files if PurePosixPath(name).name == "model_index.json"]
    parts = [folder_of(name) for name in folder.files if PurePosixPath(name).name == "config.json"]
    parts = [part for part in parts if not any(part.startswith(f"{inner}/") for inner in pipelines)]
    loras = [folder_of(name) for name in folder.files if PurePosixPath(name).name in _LORA_FILES]
    for what, inside in (("pipeline", pipelines), ("LoRA", loras), ("component", parts)):
        if inside := [name for name in inside if name]:
            return _instead(folder, f"a {what} in {inside[0]}/", f"{what}s in folders of its own", inside)
    files = [name for name in folder.files if PurePosixPath(name).suffix.lower() in TENSOR_SUFFIXES]
    if files:
        return _instead(folder, "1 model file", "model files", files)
    if pickle := lone_pickle(folder.files):
        raise unsafe(folder.path / pickle, pickle)
    what = "neither model_index.json nor config.json, and no model file"
    return NoMatch(f"{what}{folder.beside('')}", near=True, remedy="Name the file or folder of one model.")


def _instead(folder: Folder, one: str, many: str, names: Sequence[str]) -> NoMatch:
    if len(names) == 1:
        return NoMatch(f"holds {one}", near=True, remedy=f"Install {folder.path / names[0]}.")
    paths = [f"{folder.path / name}" for name in names[:_MAX_LISTED]]
    more = f" and {len(names) - len(paths):,} more" if len(names) > len(paths) else ""
    return NoMatch(
        f"holds {len(names):,} {many}",
        near=True,
        remedy=f"Install each by itself: {', '.join(paths)}{more}.",
    )
