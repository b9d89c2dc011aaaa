"""Whether a file holds quantised weights: numbers that mean something only with scales beside them.

Read as plain numbers they would be a model that is wrong by a factor of thousands. Told by the names of what
stands beside them and by their types, since a config.json often does not say it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import Header
from modelkeep.taxonomy import ModelFormat

#: Who writes it → how a name ends.
_SIGNS: Final[Mapping[str, str]] = {
    "bitsandbytes, 8 bits": r"\.(?:SCB|weight_format)",
    "bitsandbytes, 4 bits": r"\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)",
    "GPTQ or AWQ": r"\.(?:qweight|qzeros)",
    "compressed-tensors": r"\.weight_(?:packed|zero_point)",
    "quanto": r"\.weight\._(?:data|scale|shift)",
    "Nunchaku": r"\.(?:wscales|wtscale|smooth_factor)",
    "with scales": r"\.(?:scale_(?:weight|input)|(?:weight|input)_scale(?:_inv|_2)?|comfy_quant)|scaled_fp8",
}
_SIGN: Final = re.compile(
    "|".join(f"(?P<sign{place}>.*(?:{ending}))" for place, ending in enumerate(_SIGNS.values())), re.DOTALL
)
#: How nearly all names end, which are not looked at any closer.
_PLAIN: Final = (".weight", ".bias", ".alpha")
#: What to do about it.
REMEDY: Final = "Use this model's file in float16, bfloat16 or float32."
#: Formats that records have for it; others have none of their own.
FORMATS: Final[Mapping[str, ModelFormat]] = {
    "bitsandbytes, 8 bits": ModelFormat.BnbQuantizedInt8b,
    "bitsandbytes, 4 bits": ModelFormat.BnbQuantizedNf4b,
}
#: No plain model has such weights.
_INTEGERS: Final = frozenset({"I8", "U8"})


def quantisation(header: Header) -> tuple[str, str]:
    """How a file's weights are quantised, and a tensor that says so; two empty texts if they are not."""
    for name in header:
        if name.endswith(_PLAIN):
            continue
        if (found := _SIGN.fullmatch(name)) is not None and found.lastgroup is not None:
            return list(_SIGNS)[int(found.lastgroup.removeprefix("sign"))], name
    integer = header.first_of(_INTEGERS)
    return ("integers of 8 bits", integer) if integer else ("", "")


def refuse_quantised(header: Header, shown: str = "") -> None:
    """Refuse what cannot be lent, before anything of it is read.

    Args:
        header: The file's.
        shown: What to call the file in place of its name.

    Raises:
        InvalidModelException: The weights are quantised.
    """
    how, name = quantisation(header)
    if how:
        raise InvalidModelException(
            f"{shown or header.path.name} is quantised ({how}: it holds {name[:200]}), which cannot be lent "
            f"yet. {REMEDY}",
            metadata={"path": str(header.path), "detail": f"quantised: {how}"},
            remedy=REMEDY,
        )
