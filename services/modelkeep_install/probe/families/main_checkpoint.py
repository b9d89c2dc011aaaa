"""Main models of the Stable Diffusion families as one file, in the original ("ldm") key layout."""

from __future__ import annotations

from collections.abc import Mapping

from modelkeep.configs import SubmodelDefinition
from modelkeep.headers import Header
from modelkeep.taxonomy import SubModelType

from ..result import Evidence, Match, NoMatch, RuledOut, certain, likely, weak
from .unet import BASE_BY_CONTEXT, VARIANT_BY_CHANNELS

_UNET = "model.diffusion_model."
_CONV_IN = _UNET + "input_blocks.0.0.weight"
_CROSS_KEY = ".attn2.to_k.weight"


def _part(type_: str, prefix: str, class_name: str, library: str) -> SubmodelDefinition:
    return SubmodelDefinition(
        type=SubModelType(type_), path_or_prefix=prefix, class_name=class_name, library=library
    )


#: Key prefixes of the components beside the UNet, per base: (submodel, prefix, class).
_COMPONENTS: Mapping[str, tuple[SubmodelDefinition, ...]] = {
    "sd-1": (_part("text_encoder", "cond_stage_model.transformer.", "CLIPTextModel", "transformers"),),
    "sd-2": (_part("text_encoder", "cond_stage_model.model.", "CLIPTextModel", "transformers"),),
    "sdxl": (
        _part("text_encoder", "conditioner.embedders.0.transformer.", "CLIPTextModel", "transformers"),
        _part(
            "text_encoder_2", "conditioner.embedders.1.model.", "CLIPTextModelWithProjection", "transformers"
        ),
    ),
    "sdxl-refiner": (
        _part(
            "text_encoder_2", "conditioner.embedders.0.model.", "CLIPTextModelWithProjection", "transformers"
        ),
    ),
}
_VAE = _part("vae", "first_stage_model.", "AutoencoderKL", "diffusers")


class MainCheckpoint:
    """SD-1, SD-2, SDXL and the SDXL refiner; normal, inpaint and depth."""

    name = "main model, single file"

    def match(self, header: Header) -> Match | NoMatch:
        if _CONV_IN not in header:
            return NoMatch(f"no tensor {_CONV_IN}")
        control = header.first_under("control_model.")
        if control:
            return NoMatch(f"a ControlNet with the model that it was trained on: {control}")
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
                f"the UNet takes {conv_in[1]} channels, not {', '.join(map(str, VARIANT_BY_CHANNELS))}"
            )
        evidence = [
            certain("type=main", f"tensor {_CONV_IN} is {list(conv_in)}"),
            certain(f"base={base}", f"tensor {cross} is {list(header[cross])}: {width} features of text"),
            certain(f"variant={variant}", f"the UNet takes {conv_in[1]} channels"),
        ]
        components, absent = self._components(header, base)
        evidence += [
            certain(f"submodel={part.type}", f"tensors under {part.path_or_prefix}") for part in components
        ]
        evidence += [
            certain(f"no submodel={part.type}", f"nothing under {part.path_or_prefix}") for part in absent
        ]
        prediction = self._prediction_type(header, base, evidence)
        return Match(
            type="main",
            format="checkpoint",
            base=base,
            possible_bases=(base,),
            settings={
                "variant": variant,
                "submodels": [_part("unet", _UNET, "UNet2DConditionModel", "diffusers"), *components],
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
    def _components(header: Header, base: str) -> tuple[list[SubmodelDefinition], list[SubmodelDefinition]]:
        expected = (*_COMPONENTS[base], _VAE)
        found = [part for part in expected if header.first_under(part.path_or_prefix)]
        return found, [part for part in expected if part not in found]

    @staticmethod
    def _prediction_type(header: Header, base: str, evidence: list[Evidence]) -> str:
        """What the denoiser predicts, as far as one file can show it; the reasons join ``evidence``."""
        if "v_pred" in header:
            evidence.append(certain("prediction_type=v_prediction", "the marker tensor v_pred"))
            return "v_prediction"
        noted = header.metadata.get("modelspec.prediction_type", "").replace("-", "_")
        noted = {"v": "v_prediction", "eps": "epsilon"}.get(noted, noted)
        if noted in ("epsilon", "v_prediction"):
            evidence.append(
                likely(f"prediction_type={noted}", "modelspec.prediction_type in the header's notes")
            )
            return noted
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
