"""Adapters of true layers, in the shapes that trainers write: LoRA and the algorithms of LyCORIS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from support.modelshapes import Table, table

Shapes = dict[str, list[int]]
Layer = Sequence[int]


def lora(name: str, layer: Layer, rank: int = 16) -> Shapes:
    """A kohya pair for a layer of the shape [out, in, (kh, kw)]."""
    given, taken, *kernel = layer
    return {
        f"{name}.lora_down.weight": [rank, taken, *kernel],
        f"{name}.lora_up.weight": [given, rank, *([1] * len(kernel))],
        f"{name}.alpha": [],
    }


def dora(name: str, layer: Layer) -> Shapes:
    """The same, with the layer's magnitude."""
    return lora(name, layer) | {f"{name}.dora_scale": [layer[0], *([1] * (len(layer) - 1))]}


def tucker(name: str, layer: Layer, rank: int = 16) -> Shapes:
    """LoCon with a Tucker core, where the layer is a convolution."""
    given, taken, *kernel = layer
    if not kernel:
        return lora(name, layer)
    return {
        f"{name}.lora_down.weight": [rank, taken, 1, 1],
        f"{name}.lora_mid.weight": [rank, rank, *kernel],
        f"{name}.lora_up.weight": [given, rank, 1, 1],
        f"{name}.alpha": [],
    }


def loha(name: str, layer: Layer, rank: int = 8) -> Shapes:
    """Two products; of a convolution the kernel lies in the second dimension."""
    given, taken, *kernel = layer
    places = kernel[0] * kernel[1] if kernel else 1
    pair = {"a": [given, rank], "b": [rank, taken * places]}
    return {f"{name}.hada_w{n}_{k}": shape for n in (1, 2) for k, shape in pair.items()} | {
        f"{name}.alpha": []
    }


def loha_tucker(name: str, layer: Layer, rank: int = 8) -> Shapes:
    """LoHa with a Tucker core: both factors have the rank first."""
    given, taken, *kernel = layer
    if not kernel:
        return loha(name, layer)
    parts = {"a": [rank, given], "b": [rank, taken]}
    found = {f"{name}.hada_w{n}_{k}": shape for n in (1, 2) for k, shape in parts.items()}
    return found | {f"{name}.hada_t{n}": [rank, rank, *kernel] for n in (1, 2)} | {f"{name}.alpha": []}


def lokr(name: str, layer: Layer) -> Shapes:
    """A Kronecker product of two whole matrices."""
    given, taken, *kernel = layer
    small = (4 if given % 4 == 0 else 1), (4 if taken % 4 == 0 else 1)
    second = [given // small[0], taken // small[1], *kernel]
    return {f"{name}.lokr_w1": [*small], f"{name}.lokr_w2": second, f"{name}.alpha": []}


def lokr_factored(name: str, layer: Layer, rank: int = 4) -> Shapes:
    """A Kronecker product of which the second matrix is a product itself."""
    given, taken, *kernel = layer
    small = (4 if given % 4 == 0 else 1), (4 if taken % 4 == 0 else 1)
    places = kernel[0] * kernel[1] if kernel else 1
    return {
        f"{name}.lokr_w1": [*small],
        f"{name}.lokr_w2_a": [given // small[0], rank],
        f"{name}.lokr_w2_b": [rank, taken // small[1] * places],
        f"{name}.alpha": [],
    }


def full(name: str, layer: Layer) -> Shapes:
    """The whole difference, and that of the bias."""
    return {f"{name}.diff": [*layer], f"{name}.diff_b": [layer[0]]}


def oft(name: str, layer: Layer) -> Shapes:
    """Rotations of blocks of the output."""
    block = 4 if layer[0] % 4 == 0 else 1
    return {f"{name}.oft_blocks": [layer[0] // block, block, block], f"{name}.alpha": []}


def ia3(name: str, layer: Layer) -> Shapes:
    """Factors of the output."""
    return {f"{name}.weight": [layer[0]], f"{name}.on_input": []}


def glora(name: str, layer: Layer, rank: int = 16) -> Shapes:
    """Two pairs: one for the weight's own directions, one beside it."""
    given, taken, *kernel = layer
    ones = [1] * len(kernel)
    return {
        f"{name}.a1.weight": [taken, rank, *ones],
        f"{name}.a2.weight": [rank, taken, *ones],
        f"{name}.b1.weight": [given, rank, *ones],
        f"{name}.b2.weight": [rank, taken, *kernel],
        f"{name}.alpha": [],
    }


#: Algorithm as the probe names it → ways that it is written.
ALGORITHMS: Mapping[str, Sequence[Callable[[str, Layer], Shapes]]] = {
    "lora": (lora, tucker),
    "dora": (dora,),
    "loha": (loha, loha_tucker),
    "lokr": (lokr, lokr_factored),
    "glora": (glora,),
    "full": (full,),
    "oft": (oft,),
    "ia3": (ia3,),
}


def unet_layers(base: str, layout: str = "diffusers") -> Table:
    """Every linear layer and convolution of the UNet: its name with ``_`` → the shape of its weight."""
    return {
        name.removesuffix(".weight").replace(".", "_"): shape
        for name, shape in table(f"unet.{base}.{layout}").items()
        if name.endswith(".weight") and len(shape) >= 2
    }
