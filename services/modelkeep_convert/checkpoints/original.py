"""The configuration that an original checkpoint was published with: a YAML file of a few numbers.

It says what no shape shows (heads, what the denoiser predicts, the scale of the latents), and repeats much
that shapes do show. Those that InvokeAI names lie beside this package, written anew: only what is read here.
No torch here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, NoReturn

import yaml

from modelkeep import yamltext
from modelkeep.exceptions import InvalidModelException

#: The published ones have two to four KiB, and a dozen brackets.
MAX_BYTES: Final = 1 << 15
_MAX_BRACKETS: Final = 500
#: What helps against one that is not right.
OTHER_CONFIG: Final = (
    "Correct the record's checkpoint_config, or empty it: then what its base was published with counts."
)
_MAX_ENTRIES: Final = 64
_MAX_NUMBER: Final = 1 << 20
#: Base → the one that its models were published with.
_OF_BASE: Final[Mapping[str, str]] = {
    "sd-1": "v1-inference.yaml",
    "sd-2": "v2-inference.yaml",
    "sdxl": "sd_xl_base.yaml",
    "sdxl-refiner": "sd_xl_refiner.yaml",
}
#: What they call that which is predicted → as the taxonomy has it.
_PREDICTIONS: Final[Mapping[str, str]] = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


@dataclass(frozen=True, slots=True)
class Original:
    """What one says.

    Attributes:
        name: Of the file, for messages.
        prediction_type: As the taxonomy has it; empty if it does not say.
        scale_factor: Of the latents; None if it does not say.
        beta_start, beta_end: Ends of the noise schedule; None if it does not say.
        unet: Numbers of the denoiser, by the names there.
        vae: Numbers of the autoencoder.
    """

    name: str
    prediction_type: str
    scale_factor: float | None
    beta_start: float | None
    beta_end: float | None
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]


def parse(text: bytes, name: str) -> Original:
    """Read one.

    Args:
        text: The file's contents.
        name: What to call it in messages.

    Raises:
        InvalidModelException: It is no such configuration, or beyond the bounds.
    """
    if len(text) > MAX_BYTES:
        _bad(name, f"longer than {MAX_BYTES:,} bytes")
    if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
        # A reader of YAML takes the square of their number.
        _bad(name, f"more than {_MAX_BRACKETS} brackets")
    try:
        # An anchor stands for as much as one likes, many times over.
        if any(isinstance(one, (yaml.AnchorToken, yaml.AliasToken)) for one in yaml.scan(text)):
            _bad(name, "it has anchors")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, *yamltext.ODD) as error:
        _bad(name, f"no YAML: {yamltext.said_of(error)}")
    params = _inside(content, "model", "params")
    if not params:
        _bad(name, "it has no model.params")
    unet = _inside(params, "unet_config", "params") or _inside(params, "network_config", "params")
    predicts = params.get("parameterization")
    if predicts is not None and (not isinstance(predicts, str) or predicts not in _PREDICTIONS):
        _bad(name, f"its parameterization is none of {', '.join(_PREDICTIONS)}")
    return Original(
        name=name,
        prediction_type=_PREDICTIONS[predicts] if predicts is not None else _of_denoiser(params),
        scale_factor=_fraction(name, params, "scale_factor"),
        beta_start=_fraction(name, params, "linear_start"),
        beta_end=_fraction(name, params, "linear_end"),
        unet=_numbers(name, unet),
        vae=_numbers(name, _inside(params, "first_stage_config", "params", "ddconfig")),
    )


def shipped(name: str) -> Original | None:
    """The one of this name that comes along; None if there is none."""
    return _shipped(name) if name in shipped_names() else None


@functools.cache
def shipped_names() -> frozenset[str]:
    """Names of those that come along."""
    folder = resources.files("modelkeep_convert").joinpath("configs")
    return frozenset(one.name for one in folder.iterdir() if one.name.endswith(".yaml"))


def of_base(base: str) -> Original | None:
    """What models of a base were published with; None for those that have no such file."""
    return _shipped(_OF_BASE[base]) if base in _OF_BASE else None


@functools.cache
def _shipped(name: str) -> Original:
    return parse(resources.files("modelkeep_convert").joinpath("configs", name).read_bytes(), name)


def _of_denoiser(params: Mapping[str, Any]) -> str:
    """SDXL's files say it by the class that scales the denoiser's output, if they say it."""
    target = str(_inside(params, "denoiser_config", "params", "scaling_config").get("target", ""))
    return "v_prediction" if target.endswith("VScaling") else ""


def _inside(content: object, *names: str) -> Mapping[str, Any]:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def _numbers(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Its numbers and lists of numbers; what else is there is not looked at."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, bool) or value == "sequential":
            found[key] = value
        elif isinstance(value, int) or (isinstance(value, list) and all(type(one) is int for one in value)):
            many = value if isinstance(value, list) else [value]
            if len(many) > _MAX_ENTRIES or any(not -1 <= one <= _MAX_NUMBER for one in many):
                _bad(name, f"{key} is nothing that a model has")
            found[key] = value
    return found


def _fraction(name: str, params: Mapping[str, Any], key: str) -> float | None:
    value = params.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < _MAX_NUMBER:
        _bad(name, f"{key} is no number above 0")
    return float(value)


def _bad(name: str, detail: str) -> NoReturn:
    raise InvalidModelException(
        f"{name} is no configuration of a checkpoint: {detail}.",
        metadata={"path": name, "detail": detail},
        remedy=OTHER_CONFIG,
    )
