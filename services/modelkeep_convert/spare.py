"""Which tensors of a weight file may stay behind, and why. Every other one that a module does not take is a
refusal that names it: what looks like a spare tensor may be half of what a weight means.

No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from modelkeep.exceptions import InvalidModelException

#: Numbers from 0 on, which text encoders of today make themselves; saved by transformers before 4.31.
_POSITIONS: Final = r"(?:text_model\.)?embeddings\.position_ids"
#: The half of a CLIP that sees, and what joins both.
_IMAGES: Final = r"(?:vision_model|visual_projection)\..*|logit_scale"

_SPARE: Final[Mapping[str, str]] = {
    "CLIPTextModel": rf"{_POSITIONS}|{_IMAGES}|text_projection\..*",
    "CLIPTextModelWithProjection": rf"{_POSITIONS}|{_IMAGES}",
    # The rest of a T5, which no encoder runs.
    "T5EncoderModel": r"decoder\..*|lm_head\.weight",
}
#: What judged a VAE while it was trained, and averages kept beside the weights that are used.
_TRAINING: Final = re.compile(r"(?:loss|model_ema)\..*")


def refuse_stray(class_name: str, names: Iterable[str]) -> None:
    """Refuse tensors that the module did not take, but for those known to be of no use to it.

    Raises:
        InvalidModelException: There is another one; it is named.
    """
    spare = re.compile(_SPARE.get(class_name, r"(?!)"))
    stray = sorted(name for name in names if not spare.fullmatch(name))
    if stray:
        many = f"{len(stray)} tensors, among them {stray[0][:200]}" if len(stray) > 1 else stray[0][:200]
        raise InvalidModelException(
            f"The files hold what {class_name} does not take: {many}. Without it the rest may mean something "
            "else, so nothing of it is lent.",
            metadata={"detail": f"not taken: {stray[0][:200]}"},
            remedy=f"Use weights that are made for {class_name}, in float16, bfloat16 or float32.",
        )


def is_training(name: str) -> bool:
    """Whether a tensor of a VAE in latent-diffusion's layout served its training only."""
    return _TRAINING.fullmatch(name) is not None
