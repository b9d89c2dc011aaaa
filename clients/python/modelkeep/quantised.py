"""Quantised weights: numbers that mean something only with scales beside them, and which go together.

Read as plain numbers they would be a model that is wrong by a factor of thousands. Told by the names of what
stands beside them and by their types, since a config.json often does not say it. What can be read
(:func:`survey`) is lent, with every sidecar accounted for; the rest is a refusal that names it. The formulas
are in :mod:`modelkeep.worker.dequantise`. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from modelkeep.dtypes import DTYPES
from modelkeep.exceptions import InvalidModelException
from modelkeep.gguf import BLOCKS
from modelkeep.headers import Header, Tensor
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
#: What a config.json may name as the way its weights are quantised: those whose tensors tell the rest.
METHODS: Final = frozenset({"bitsandbytes", "fp8", "compressed-tensors", "quanto"})
#: No plain model has such weights.
_INTEGERS: Final = frozenset({"I8", "U8"})

SCALED: Final = "scaled"
BNB_INT8: Final = "bnb_int8"
BNB_4BIT: Final = "bnb_4bit"
#: What a scheme of ggml's blocks begins with; the rest is ggml's name of the type.
GGUF: Final = "gguf_"
#: A plain cast to float8, which has no scale.
CAST: Final = "float8"
#: Codes of the types that such casts have.
FLOAT8: Final = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
#: Element types of the weights that a scale may belong to.
_SCALABLE: Final = FLOAT8 | {"I8", "F16", "BF16", "F32"}
#: How the name of a tensor ends that belongs to a weight → its role, and what ends the weight's own name.
_ROLES: Final = re.compile(
    r"""(?P<base>.*)\.(?:
        (?P<scale>scale_weight|weight_scale|weight_scale_inv)
      | (?P<activation>scale_input|input_scale|output_scale)
      | (?P<comfy>comfy_quant)
      | (?P<scb>SCB)
      | (?P<row_format>weight_format)
      | (?P<absmax>absmax) | (?P<quant_map>quant_map)
      | (?P<nested_absmax>nested_absmax) | (?P<nested_quant_map>nested_quant_map)
      | (?P<state>quant_state\.bitsandbytes__(?:nf4|fp4))
      | (?P<quanto>_data) | (?P<quanto_scale>_scale)
    )""",
    re.DOTALL | re.VERBOSE,
)
#: Roles whose names go on after the weight's own; the others replace its last word.
_AFTER_NAME: Final = frozenset(
    {"absmax", "quant_map", "nested_absmax", "nested_quant_map", "state", "quanto", "quanto_scale"}
)
#: Says in files of ComfyUI's that there are float8 weights with scales; it has no data that matters.
_MARKER: Final = re.compile(r"(?:.*\.)?scaled_fp8", re.DOTALL)
#: Scheme → roles that it must have, and that it may have, besides the data.
_SCHEMES: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    SCALED: (frozenset({"scale"}), frozenset({"comfy"})),
    BNB_INT8: (frozenset({"scb"}), frozenset({"row_format"})),
    BNB_4BIT: (
        frozenset({"absmax", "quant_map", "state"}),
        frozenset({"nested_absmax", "nested_quant_map"}),
    ),
}


@dataclass(frozen=True, slots=True)
class QuantisedTensor:
    """One weight that several tensors of the files stand for.

    Attributes:
        name: Of the weight.
        scheme: How it is quantised: SCALED, BNB_INT8, BNB_4BIT, or ``gguf_`` and ggml's name of the type.
        shape: Its shape once it is dequantised; flat where only the data themselves say it.
        parts: Role → tensor of the files; "data" are the quantised numbers.
        size_bytes: Bytes of all its parts.
    """

    name: str
    scheme: str
    shape: tuple[int, ...]
    parts: Mapping[str, str]
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements once it is dequantised."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count


@dataclass(slots=True)
class Quantisation:
    """The quantised weights of some files.

    Attributes:
        weights: By their names.
        spare: Tensors that say something about the quantisation and are no part of a weight: marks, and
            the scales of activations, which matter to kernels that multiply in float8 and to no others.
    """

    weights: dict[str, QuantisedTensor] = field(default_factory=dict)
    spare: set[str] = field(default_factory=set)

    @property
    def taken(self) -> set[str]:
        """All tensors of the files that it accounts for."""
        return self.spare.union(*(weight.parts.values() for weight in self.weights.values()))

    @property
    def schemes(self) -> tuple[str, ...]:
        """How the weights are quantised, each way once."""
        return tuple(sorted({weight.scheme for weight in self.weights.values()}))


def survey(tensors: Iterable[Tensor], path: Path) -> Quantisation:
    """Which tensors stand for which quantised weights. Reads names, types and shapes only.

    Args:
        tensors: Of all files of a component, or of a checkpoint.
        path: What to call them in messages.

    Raises:
        InvalidModelException: Something is quantised in a way that cannot be read, or its sidecars do not
            belong to it.
    """
    known = {tensor.name: tensor for tensor in tensors}
    found: dict[str, dict[str, str]] = {}
    quantisation = Quantisation()
    activations: list[tuple[str, str]] = []
    for name, tensor in known.items():
        if tensor.dtype in BLOCKS:
            scheme = GGUF + tensor.dtype.lower()
            quantisation.weights[name] = QuantisedTensor(
                name, scheme, tensor.shape, {"data": name}, tensor.size_bytes
            )
            continue
        if name.endswith(_PLAIN):
            continue
        if _MARKER.fullmatch(name):
            quantisation.spare.add(name)
        elif (match := _ROLES.fullmatch(name)) is not None and match.lastgroup is not None:
            role = {"quanto": "data", "quanto_scale": "scale"}.get(match.lastgroup, match.lastgroup)
            weight = match["base"] if match.lastgroup in _AFTER_NAME else f"{match['base']}.weight"
            if match.lastgroup == "activation":
                activations.append((weight, name))
            elif (other := found.setdefault(weight, {}).setdefault(role, name)) != name:
                _bad(path, f"{weight} has {other} and {name}, which say the same of it")
        elif (sign := _SIGN.fullmatch(name)) is not None and sign.lastgroup is not None:
            _refuse(path, list(_SIGNS)[int(sign.lastgroup.removeprefix("sign"))], name)
    for weight, parts in found.items():
        quantisation.weights[weight] = _joined(weight, {"data": weight, **parts}, known, path)
    for weight, name in activations:
        if weight in quantisation.weights:
            quantisation.spare.add(name)
    taken = quantisation.taken
    for tensor in known.values():
        if tensor.dtype in _INTEGERS and tensor.name not in taken:
            _refuse(path, "integers of 8 bits", tensor.name)
    return quantisation


def _joined(name: str, parts: dict[str, str], known: Mapping[str, Tensor], path: Path) -> QuantisedTensor:
    """A weight and what belongs to it."""
    data = known.get(parts["data"])
    if data is None:
        _bad(path, f"{next(part for role, part in parts.items() if role != 'data')} belongs to no tensor")
    roles = parts.keys() - {"data"}
    scheme = next((s for s, (must, may) in _SCHEMES.items() if must <= roles <= must | may), None)
    if scheme is None:
        _bad(path, f"beside {name} there are {', '.join(sorted(roles))}, which do not belong together")
    shape = data.shape
    if scheme == SCALED:
        scale = known[parts["scale"]]
        if data.dtype not in _SCALABLE or not DTYPES[scale.dtype].is_float:
            _refuse(path, f"{data.dtype} with scales of {scale.dtype}", parts["scale"])
        if block_edges(data.shape, scale.shape) is None:
            _bad(path, f"{parts['scale']} has the shape {list(scale.shape)}, {name} {list(data.shape)}")
    elif scheme == BNB_INT8:
        scb = known[parts["scb"]]
        if data.dtype != "I8" or len(shape) != 2 or scb.elements != shape[0]:
            _bad(path, f"{parts['scb']} has the shape {list(scb.shape)}, {name} {list(shape)}")
    else:
        # Two numbers a byte, in elements of any type; their shape stands in the state.
        shape = (2 * data.size_bytes,)
        nested = parts.keys() & {"nested_absmax", "nested_quant_map"}
        if len(nested) == 1 or (known[parts["absmax"]].dtype == "U8") != bool(nested):
            _bad(path, f"{parts['absmax']} is {known[parts['absmax']].dtype}, and not nested as it says")
    size = sum(known[part].size_bytes for part in parts.values())
    return QuantisedTensor(name, scheme, shape, parts, size)


def block_edges(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many elements one scale is for, along each dimension of a weight; None if they do not go together.

    One scale for all, one for each row, or one for each block; blocks have edges of a power of two (128 as a
    rule), by which their number tells the edge. The last block of a row or column may be cut off.
    """
    if all(count == 1 for count in scales):
        return shape
    if len(scales) == 1 and shape and scales[0] == shape[0]:
        return (1, *shape[1:])
    if len(scales) != len(shape):
        return None
    edges: list[int] = []
    for size, count in zip(shape, scales, strict=True):
        fits = (edge for edge in (size, *(1 << p for p in range(20))) if edge and -(-size // edge) == count)
        if (edge := next(fits, None)) is None:
            return None
        edges.append(edge)
    return tuple(edges)


def quantisation(header: Header) -> tuple[str, str]:
    """How a file's weights are quantised, and a tensor that says so; two empty texts if they are not."""
    for name in header:
        if name.endswith(_PLAIN):
            continue
        if (found := _SIGN.fullmatch(name)) is not None and found.lastgroup is not None:
            return list(_SIGNS)[int(found.lastgroup.removeprefix("sign"))], name
    integer = header.first_of(_INTEGERS)
    return ("integers of 8 bits", integer) if integer else ("", "")


def weights_only(header: Header) -> Header | None:
    """A header without what belongs to quantised weights; None if these cannot be read."""
    try:
        found = survey(header.tensors, header.path)
    except InvalidModelException:
        return None
    return header.without(found.taken - {weight.parts["data"] for weight in found.weights.values()})


def _refuse(path: Path, how: str, name: str) -> NoReturn:
    raise InvalidModelException(
        f"{path.name} is quantised ({how}: it holds {name[:200]}), which cannot be lent. {REMEDY}",
        metadata={"path": str(path), "detail": f"quantised: {how}"},
        remedy=REMEDY,
    )


def _bad(path: Path, detail: str) -> NoReturn:
    raise InvalidModelException(
        f"{path.name} holds quantised weights whose parts do not fit: {detail[:400]}.",
        metadata={"path": str(path), "detail": detail[:400]},
        remedy=f"Fetch the model anew, with all of its files. {REMEDY}",
    )
