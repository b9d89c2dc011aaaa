"""Which tensors of a weight file may stay behind, and why. Every other one that a module does not take is a
refusal that names it: what looks like a spare tensor may be half of what a weight means.

No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from modelkeep.exceptions import InvalidModelException
from modelkeep_common.families.oldnames import twice

#: Positions, which models of today make themselves; saved by transformers before 4.31.
_POSITIONS: Final = r"(?:.*\.)?(?:position_ids|rotary_emb\.inv_freq)"
#: What makes words of a language model's numbers, which the model without it does not do.
_HEAD: Final = r"lm_head\.weight"
#: The half of a CLIP that sees, and what joins both.
_IMAGES: Final = r"(?:vision_model|visual_projection)\..*|logit_scale"
#: The half that reads, and what joins both.
_WORDS: Final = r"(?:text_model|text_projection)\..*|logit_scale"

_SPARE: Final[Mapping[str, str]] = {
    "CLIPTextModel": rf"{_IMAGES}|text_projection\..*",
    "CLIPTextModelWithProjection": _IMAGES,
    "CLIPVisionModel": rf"{_WORDS}|visual_projection\..*",
    "CLIPVisionModelWithProjection": _WORDS,
    "SiglipVisionModel": r"text_model\..*|logit_scale|logit_bias",
    **dict.fromkeys(
        ("Gemma2Model", "GemmaModel", "GlmModel", "LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"),
        _HEAD,
    ),
    # The rest of a T5, which no encoder runs.
    **dict.fromkeys(("T5EncoderModel", "UMT5EncoderModel"), rf"decoder\..*|{_HEAD}"),
}
#: What judged a VAE while it was trained, and averages kept beside the weights that are used.
_TRAINING: Final = re.compile(r"(?:loss|model_ema)\..*")


def refuse_stray(class_name: str, names: Iterable[str]) -> None:
    """Refuse tensors that the module did not take, but for those known to be of no use to it.

    Raises:
        InvalidModelException: There is another one; it is named.
    """
    spare = re.compile("|".join(filter(None, (_SPARE.get(class_name), _POSITIONS))))
    stray = sorted(name for name in names if not spare.fullmatch(name))
    if stray:
        many = f"{len(stray)} tensors, among them {stray[0][:200]}" if len(stray) > 1 else stray[0][:200]
        raise InvalidModelException(
            f"The files hold what {class_name} does not take: {many}. Without it the rest may mean something "
            "else, so nothing of it is lent.",
            metadata={"detail": f"not taken: {stray[0][:200]}"},
            remedy=f"Use weights that are made for {class_name}, in float16, bfloat16 or float32.",
        )


def refuse_twice(names: Iterable[str]) -> None:
    """Refuse a tensor that is there by its old name and by its new one: one of them would stay behind.

    Raises:
        InvalidModelException: There is one; both names are told.
    """
    if (both := twice(names)) is not None:
        raise InvalidModelException(
            f"The files have one tensor by its old and by its new name: {both[0]} and {both[1]}.",
            metadata={"detail": f"twice: {both[1]}"},
            remedy="Fetch the model anew, or take one of the two out of the file.",
        )


def is_training(name: str) -> bool:
    """Whether a tensor of a VAE in latent-diffusion's layout served its training only."""
    return _TRAINING.fullmatch(name) is not None
