"""Main models of the Stable Diffusion families as one file, in the original ("ldm") key layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from modelkeep.configs import SubmodelDefinition
from modelkeep.headers import Header
from modelkeep.taxonomy import SubModelType
from modelkeep_common.families import BY_BASE, VARIANT_BY_CHANNELS, Component
from modelkeep_common.families.networks import Autoencoder

from ..result import Evidence, Match, NoMatch, RuledOut, certain, likely, weak
from .coverage import Coverage, compared, quoted
from .unet import BASE_BY_CONTEXT

_UNET = "model.diffusion_model."
_CONV_IN = _UNET + "input_blocks.0.0.weight"
_CROSS_KEY = ".attn2.to_k.weight"
#: Share of layers that a distilled model may lack: SSD-1B and Vega are SDXL with fewer transformer blocks.
_MOST_MISSING = 0.75
#: Groups of tensors that are known and mean nothing for the model's kind: its noise schedule, marks of how it
#: was trained, averages of its weights, what measures depth for the variant of that name.
_KNOWN = re.compile(
    r"model_ema\.|(sqrt_)?(alphas|betas|log_one_minus|one_minus|recip)\w*$|posterior_\w+$|log_one_minus\w+$"
    r"|lvlb_weights$|logvar$|sqrt_\w+$|denoiser\.|v_pred$|ztsnr$|edm_(mean|std)$|edm_vpred\.|depth_model\."
    r"|(cond_stage_model|conditioner\.embedders\.\d)\.logit_scale$|epoch$|global_step$"
)
#: Beginnings of names of tensors that say what a denoiser predicts → that, and words for it. Nothing is said
#: where the vocabulary has no word: then it stays open.
_MARKS = (
    ("v_pred", "v_prediction", "trained for v-prediction"),
    ("ztsnr", "v_prediction", "trained with noise alone at the end, as v-prediction is"),
    ("edm_vpred.", "v_prediction", "v-prediction on the EDM schedule, which the sampler has to follow"),
    ("edm_mean", "", "EDM, as Playground 2.5: the record has no word for it"),
)
_PREDICTIONS = {"v": "v_prediction", "eps": "epsilon", "epsilon": "epsilon", "v_prediction": "v_prediction"}
_YES = dict.fromkeys(("true", "1", "yes"), "v_prediction")
#: Notes of trainers that say it, and what their values mean.
_NOTES = {
    "modelspec.prediction_type": _PREDICTIONS,
    "prediction_type": _PREDICTIONS,
    "ss_v_parameterization": _YES,
    "v_pred": _YES,
    "ztsnr": _YES,
    "ss_zero_terminal_snr": _YES,
}
#: What OpenCLIP has as bare tensors of its attention, and what no text encoder needs.
_TENSOR = re.compile(r"(\.in_proj)_(weight|bias)$")
_BUFFERS = ("position_ids", "logit_scale", "attn_mask")
#: The autoencoder of families that have none of their own: the refiner's is SDXL's.
_VAE = Autoencoder(4)
_DENOISER = Component("unet", _UNET, "UNet2DConditionModel", "diffusers")


class MainCheckpoint:
    """SD-1, SD-2, SDXL and the SDXL refiner; normal, inpaint and depth."""

    name = "main model, single file"

    def match(self, header: Header) -> Match | NoMatch:
        if _CONV_IN not in header:
            return NoMatch(f"no tensor {_CONV_IN}")
        control = header.first_under("control_model.")
        if control:
            return NoMatch(f"a ControlNet with the model that it was trained on: {control}", near=True)
        conv_in = header[_CONV_IN]
        if len(conv_in) != 4 or conv_in[2:] != (3, 3):
            return NoMatch(f"{_CONV_IN} has the shape {list(conv_in)}, no 3x3 convolution")
        cross = next((n for n in header if n.startswith(_UNET) and n.endswith(_CROSS_KEY)), "")
        if not cross or len(header[cross]) != 2:
            return NoMatch("the UNet has no cross-attention")
        width = header[cross][1]
        base = BASE_BY_CONTEXT.get(width)
        if base is None:
            return NoMatch(f"cross-attention takes {width} features, which is no Stable Diffusion's")
        variant = VARIANT_BY_CHANNELS.get(conv_in[1])
        if variant is None:
            return NoMatch(
                f"the UNet takes {conv_in[1]} channels, not {', '.join(map(str, VARIANT_BY_CHANNELS))}",
                near=True,
            )
        unet = self._unet(header, base, conv_in[1])
        if isinstance(unet, NoMatch):
            return unet
        components, absent = self._components(header, base)
        rest = _unaccounted(header, components)
        evidence: list[Evidence] = []
        whole = replace(unet, foreign=rest)
        whole.said(evidence, "type=main", f"tensor {_CONV_IN} is {list(conv_in)}")
        sure = certain if unet.is_whole else likely
        evidence += [
            sure(f"base={base}", f"tensor {cross} is {list(header[cross])}: {width} features of text"),
            certain(f"variant={variant}", f"the UNet takes {conv_in[1]} channels"),
        ]
        for part in components:
            coverage = _of_component(header, part, base)
            coverage.said(
                evidence, f"submodel={part.name}", f"tensors under {part.prefix}", f" of {part.name}"
            )
        evidence += [certain(f"no submodel={part.name}", f"nothing under {part.prefix}") for part in absent]
        prediction = self._prediction_type(header, base, evidence)
        return Match(
            type="main",
            format="checkpoint",
            base=base,
            possible_bases=(base,),
            settings={
                "variant": variant,
                "submodels": [_submodel(part) for part in (_DENOISER, *components)],
            }
            | ({"prediction_type": prediction} if prediction else {}),
            evidence=tuple(evidence),
            ruled_out=tuple(
                RuledOut(other, f"its cross-attention takes {taken} features, this one {width}")
                for taken, other in BASE_BY_CONTEXT.items()
                if other != base
            ),
        )

    @staticmethod
    def _unet(header: Header, base: str, channels: int) -> Coverage | NoMatch:
        """How the UNet fits that of the base, of which some layers may be missing, and none be another's."""
        family = BY_BASE[base]
        assert family.unet is not None
        layers = family.unet.layers("ldm")
        layers = {**layers, "input_blocks.0.0": (layers["input_blocks.0.0"][0], channels)}
        inside = header.under(_UNET)
        coverage = compared(inside, layers)
        if coverage.misfit:
            return NoMatch(f"a UNet that is no {family.name}'s: {coverage.misfit}", near=True)
        if coverage.foreign:
            what = quoted(coverage.foreign)
            return NoMatch(f"a UNet with layers that no {family.name} has: {what}", near=True)
        if "out.2" in coverage.missing or len(coverage.missing) > _MOST_MISSING * len(layers):
            what = quoted(coverage.missing)
            return NoMatch(f"part of a UNet: {len(coverage.missing):,} layers are missing, {what}", near=True)
        return coverage

    @staticmethod
    def _components(header: Header, base: str) -> tuple[list[Component], list[Component]]:
        expected = BY_BASE[base].components
        found = [part for part in expected if header.first_under(part.prefix)]
        return found, [part for part in expected if part not in found]

    @staticmethod
    def _prediction_type(header: Header, base: str, evidence: list[Evidence]) -> str:
        """What the denoiser predicts, as far as one file can show it; the reasons join ``evidence``."""
        for mark, prediction, what in _MARKS:
            if found := header.first_under(mark):
                evidence.append(certain(f"prediction_type={prediction}", f"the tensor {found}: {what}"))
                return prediction
        for note, values in _NOTES.items():
            said = header.metadata.get(note, "").strip().lower().replace("-", "_")
            if prediction := values.get(said, ""):
                evidence.append(likely(f"prediction_type={prediction}", f"{note} in the header's notes"))
                return prediction
        if base == "sd-2":
            evidence.append(
                certain(
                    "prediction_type=",
                    "an SD-2 single file does not show its prediction type: left open; "
                    "override it if you know it (768-v models: v_prediction)",
                )
            )
            return ""
        evidence.append(
            weak(
                "prediction_type=epsilon",
                f"{base} models do unless they say otherwise; weights never show it",
            )
        )
        return "epsilon"


def _unaccounted(header: Header, components: Sequence[Component]) -> list[str]:
    """Tensors that belong to no component, and are none of those that are known to lie beside them."""
    prefixes = (_UNET, *(part.prefix for part in components))
    return [name for name in header if not name.startswith(prefixes) and not _KNOWN.match(name)]


def _of_component(header: Header, part: Component, base: str) -> Coverage:
    """How a component's tensors fit the layers that it has in the base."""
    family = BY_BASE[base]
    inside = header.under(part.prefix)
    if part.name == "vae":
        inside = {n: shape for n, shape in inside.items() if not n.startswith(("loss.", "model_ema."))}
        return compared(inside, (family.autoencoder or _VAE).layers("ldm"))
    encoder = family.text_encoders[part.name]
    inside = {_TENSOR.sub(r"\1.\2", n): s for n, s in inside.items() if not n.endswith(_BUFFERS)}
    if part.prefix.endswith(".model."):
        inside = {n if "." in n else f"{n}.weight": shape for n, shape in inside.items()}
        return compared(inside, encoder.openclip_layers())
    return compared(inside, encoder.layers(), ("text_projection",))


def _submodel(part: Component) -> SubmodelDefinition:
    return SubmodelDefinition(
        type=SubModelType(part.name),
        path_or_prefix=part.prefix,
        class_name=part.class_name,
        library=part.library,
    )
