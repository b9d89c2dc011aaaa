"""What a component's weights come to: precision, form and bytes, from the headers of its files.

The form is how weights are lent. "dequantised": plain tensors of the precision that is asked for. "stored":
quantised weights as the file has them, a worker's layers dequantise them each time. "float8": matrices of a
wider file cast to float8, and cast back by the worker's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelkeep.dtypes import DTYPES, PRECISIONS
from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import Tensor
from modelkeep.quantised import CAST, FLOAT8, Quantisation, survey
from modelkeep.worker.manifest import Kind
from modelkeep_common.wire import clamped_int

#: Bytes of the header that a tensor takes, and of what surrounds the tensors: manifest and configuration, and
#: what pads the header to whole pages.
_ENTRY_BYTES: Final = 160
_HEAD_BYTES: Final = 2 * 4096


@dataclass(frozen=True, slots=True)
class Weights:
    """How a component's weights are lent, and what they take.

    Attributes:
        precision: Never "auto".
        form: "dequantised", "stored" or "float8".
        quantisation: How the files are quantised: names of schemes with commas; "" if they are not.
        size_bytes: Estimate of what is lent.
        dequantised_bytes: The same, were it lent dequantised.
        made_bytes: Of those how many lie in no file as they are lent: they are cast, or quantised there.
    """

    precision: str
    form: str
    quantisation: str
    size_bytes: int
    dequantised_bytes: int
    made_bytes: int = 0


def weigh(
    tensors: Iterable[Tensor],
    precision: str,
    form: str,
    *,
    kept: Callable[[str], Collection[str]],
    path: Path,
    cast: bool = True,
) -> Weights:
    """Reckon with what is asked for.

    Args:
        tensors: Of all files of the component.
        precision: As asked for; "auto" is that of most bytes of the weights. Of quantised weights that is
            bfloat16, or float16 where tensors beside them have that: neither has fewer digits than they.
        form: As asked for; "auto" is dequantised. What is not quantised is the same in every form but float8.
        kept: Says which modules' tensors are in float32 all the same at a precision.
        path: What to call the files in messages.
        cast: Whether tensors are brought to the precision; otherwise each stays what it is.

    Raises:
        InvalidModelException: They are quantised in a way that cannot be read.
    """
    known = tuple(tensors)
    found = survey(known, path)
    taken = found.taken
    plain = [tensor for tensor in known if tensor.name not in taken]
    narrow = [tensor for tensor in plain if tensor.dtype in FLOAT8]
    if precision == "auto":
        precision = _own_precision(plain, quantised=bool(found.weights))
    wide = kept(precision)
    if not cast:
        size = _HEAD_BYTES + sum(tensor.size_bytes + _ENTRY_BYTES for tensor in plain)
        size += sum(4 * weight.elements + _ENTRY_BYTES for weight in found.weights.values())
        made = size if found.weights else 0
        return Weights(precision, "dequantised", "", clamped_int(size), clamped_int(size), clamped_int(made))
    schemes = [*found.schemes, *([CAST] if narrow else [])]
    dequantised = _HEAD_BYTES + sum(
        _cast(t.name, t.elements, precision, wide) if DTYPES[t.dtype].is_float else t.size_bytes
        for t in plain
    )
    dequantised += sum(_cast(w.name, w.elements, precision, wide) for w in found.weights.values())
    dequantised += _ENTRY_BYTES * (len(plain) + len(found.weights))
    if form == "float8" and not schemes:
        size = _HEAD_BYTES + sum(_as_float8(t, precision, wide) + _ENTRY_BYTES for t in plain)
    elif form in ("stored", "float8") and schemes:
        form = "stored"
        size = _stored_bytes(plain, found, precision, wide)
    else:
        form, size = "dequantised", dequantised
    made = size
    if form == "dequantised" and not schemes:
        made = sum(_cast(t.name, t.elements, precision, wide) for t in plain if _is_cast(t, precision, wide))
    return Weights(
        precision,
        form,
        ",".join(schemes),
        clamped_int(size),
        clamped_int(dequantised),
        clamped_int(made),
    )


def memory_format(wanted: str, kind: Kind, form: str, tensors: Iterable[Tensor], name: str) -> str:
    """In which order a component's numbers are lent.

    Args:
        wanted: "contiguous" or "channels_last".
        kind: What it is to its worker.
        form: Of its weights, as :attr:`Weights.form`.
        tensors: Of its files.
        name: What to call it in messages.

    Returns:
        As wanted; "contiguous" also where no tensor has the four dimensions for which it makes a difference,
        so that such a component is lent once, whichever is asked for.

    Raises:
        InvalidModelException: It cannot be lent in channels last.
    """
    if wanted == "contiguous":
        return wanted
    if kind is not Kind.MODULE or form != "dequantised":
        what = {
            Kind.OBJECT: "it is an object without weights",
            Kind.STATE_DICT: "it is a state dict, which belongs to no module yet",
        }.get(kind, f"its weights are lent in the form {form!r}, which has an order of its own")
        raise InvalidModelException(
            f"{name!r} cannot be lent in {wanted}: {what}.",
            metadata={"detail": f"memory format {wanted}"},
            remedy="Ask for it contiguous"
            + (", or for its weights dequantised." if kind is Kind.MODULE else "."),
        )
    return wanted if any(len(tensor.shape) == 4 for tensor in tensors) else "contiguous"


def _stored_bytes(plain: Iterable[Tensor], found: Quantisation, precision: str, kept: Collection[str]) -> int:
    total = _HEAD_BYTES
    for tensor in plain:
        is_cast = DTYPES[tensor.dtype].is_float and tensor.dtype not in FLOAT8
        total += _cast(tensor.name, tensor.elements, precision, kept) if is_cast else tensor.size_bytes
        total += _ENTRY_BYTES
    for weight in found.weights.values():
        total += weight.size_bytes + 2 * _ENTRY_BYTES * len(weight.parts)
    return total


def _cast(name: str, elements: int, precision: str, kept: Collection[str]) -> int:
    """Bytes of a floating-point tensor at this precision."""
    is_kept = not set(kept).isdisjoint(name.split("."))
    return elements * DTYPES["F32" if is_kept else PRECISIONS[precision]].bits // 8


def _is_cast(tensor: Tensor, precision: str, kept: Collection[str]) -> bool:
    is_kept = not set(kept).isdisjoint(tensor.name.split("."))
    return DTYPES[tensor.dtype].is_float and tensor.dtype != ("F32" if is_kept else PRECISIONS[precision])


def _as_float8(tensor: Tensor, precision: str, kept: Collection[str]) -> int:
    if not DTYPES[tensor.dtype].is_float:
        return tensor.size_bytes
    is_matrix = len(tensor.shape) > 1 and "norm" not in tensor.name and "embed" not in tensor.name
    return tensor.elements if is_matrix else _cast(tensor.name, tensor.elements, precision, kept)


def _own_precision(plain: Iterable[Tensor], *, quantised: bool) -> str:
    names = {code: name for name, code in PRECISIONS.items() if not quantised or code != "F32"}
    total: dict[str, int] = {}
    for tensor in plain:
        if tensor.dtype in names:
            total[tensor.dtype] = total.get(tensor.dtype, 0) + tensor.size_bytes
    if total:
        return names[max(total, key=lambda code: total[code])]
    return "bfloat16" if quantised else "float32"
