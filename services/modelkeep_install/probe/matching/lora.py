"""LoRA files: adapters of layers of a Stable Diffusion UNet and its text encoders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import Header
from modelkeep_common.families import BY_BASE, FAMILIES
from modelkeep_common.families.others import looks_like

from ..result import UNKNOWN, Evidence, Match, NoMatch, RuledOut, certain, likely
from .adapters import adapters_of, may_hold_adapters
from .coverage import quoted
from .places import Place, place

#: More than any layer is wide.
_MAX_RANK: Final = 1 << 16
_CROSS: Final = re.compile(r"attn2[._]to_[kv]$")
_SECOND_EMBEDDING: Final = re.compile(r"add_embedding|label_emb")
#: What may lie beside the adapters, as trainers write it: embeddings of words that were trained along.
_BUNDLED: Final = "bundle_emb."


class LoraFile:
    """LoRA, DoRA or an algorithm of LyCORIS, for SD-1, SD-2, SDXL or the refiner, in any key layout."""

    name = "LoRA"

    def match(self, header: Header) -> Match | NoMatch:
        """See ``FileKind``. A rank that no layer has raises InvalidModelException."""
        first = next(iter(header), "no tensors")
        none = NoMatch(f"no low-rank weights (lora_down/lora_up, lora_A/lora_B): {first}")
        if not may_hold_adapters(header):
            return none
        adapters, rest = adapters_of(header)
        if not adapters:
            half = next((name for name in rest if ".lora_" in name or "_lora." in name), "")
            return NoMatch(f"a LoRA of which halves are missing: {half}", near=True) if half else none
        places: list[Place] = []
        foreign: list[str] = []
        for layer, adapter in adapters.items():
            _check_rank(header, layer, adapter.rank)
            found = place(layer, adapter)
            if found is None:
                foreign.append(layer)
            else:
                places.append(found)
        bundled = [name for name in rest if name.startswith(_BUNDLED)]
        rest = [name for name in rest if not name.startswith(_BUNDLED)]
        if why := _not_ours(places, foreign, rest):
            return why
        bases, ruled_out = _bases(places)
        if not bases:
            against = "; ".join(f"{item.candidate}: {item.why}" for item in ruled_out)
            what = "a LoRA whose layers have the shapes of no Stable Diffusion model, or of several at once"
            return NoMatch(f"{what}: {against}", near=True)
        layout = _layout(places[0].layer, header)
        # what was not understood may change what the rest means
        sure = likely if foreign or rest else certain
        algorithms = Counter(found.adapter.algorithm for found in places)
        evidence = [
            sure(
                "type=lora",
                f"adapters of {len(places)} layers of {_networks(places)}, in the {layout} key layout",
            ),
            *(certain(f"algorithm={name}", f"of {n} layers") for name, n in sorted(algorithms.items())),
            _base_evidence(places, bases, sure),
        ]
        if bundled:
            evidence.append(certain("also", f"embeddings of words: {quoted(bundled)}"))
        if foreign:
            evidence.append(certain("also", f"adapters of layers that no known base has: {quoted(foreign)}"))
        if rest:
            evidence.append(certain("also", f"tensors that are no part of an adapter: {quoted(rest)}"))
        ranks = {found.adapter.rank for found in places} - {None}
        is_plain = algorithms.keys() <= {"lora", "dora"}
        return Match(
            type="lora",
            format="lycoris" if layout == "kohya" or not is_plain else "diffusers",
            base=bases[0] if len(bases) == 1 else UNKNOWN,
            possible_bases=bases,
            compatible_bases=bases if len(bases) > 1 else (),
            settings={"key_layout": layout} | ({"rank": ranks.pop()} if len(ranks) == 1 else {}),
            evidence=tuple(evidence),
            ruled_out=ruled_out,
        )


def _check_rank(header: Header, layer: str, rank: int | None) -> None:
    if rank is not None and not 0 < rank <= _MAX_RANK:
        raise InvalidModelException(
            f"{header.path.name}: the adapter of {layer[:200]} has the rank {rank:,}, which no model's has.",
            metadata={"path": str(header.path), "detail": f"rank {rank}"},
            remedy="Fetch the file anew; if its source serves it so, it is damaged there.",
        )


def _layout(layer: str, header: Header) -> str:
    if layer.startswith(("lora_", "lycoris_", "oft_")):
        return "kohya"
    is_peft = layer.startswith("base_model.model.") or any(".lora_A." in name for name in header)
    return "peft" if is_peft else "diffusers"


def _not_ours(places: Sequence[Place], foreign: Sequence[str], rest: Sequence[str]) -> NoMatch | None:
    """Why these adapters are for no Stable Diffusion model; None if they are."""
    what, name = looks_like(rest)
    if what.startswith(("an IP adapter", "a Control")):  # these carry low-rank weights of their own
        return NoMatch(f"{what}, which is not supported yet: {name}", near=True)
    what, name = looks_like(foreign)
    if what in ("Kolors", "a motion module of AnimateDiff") or (what and len(foreign) >= len(places)):
        return NoMatch(f"a LoRA for {what}, which is not supported yet: {name}", near=True)
    if len(foreign) >= len(places):
        return NoMatch(f"a LoRA, but for no Stable Diffusion model: {foreign[0]}", near=True)
    if len(rest) > sum(len(found.adapter.names) for found in places):
        return NoMatch(f"holds more than low-rank weights: {rest[0]}")
    return None


def _bases(places: Iterable[Place]) -> tuple[tuple[str, ...], tuple[RuledOut, ...]]:
    """The bases whose layers all of these may be; of the others, what speaks against them first."""
    left = {family.base for family in FAMILIES if family.unet is not None}
    ruled_out = {}
    for found in places:
        for base in tuple(left):
            if why := found.against(base):
                left.remove(base)
                ruled_out[base] = why
    order = [family.base for family in FAMILIES]
    return (
        tuple(base for base in order if base in left),
        tuple(RuledOut(base, ruled_out[base]) for base in order if base in ruled_out),
    )


def _base_evidence(
    places: Sequence[Place], bases: Sequence[str], sure: Callable[[str, str], Evidence]
) -> Evidence:
    if len(bases) > 1:
        return certain(f"base={'|'.join(bases)}", "nothing in the file tells these apart")
    base = bases[0]
    seen = f"all {len(places)} layers have the names and shapes of its own"
    cross = {found.adapter.taken for found in places if _CROSS.search(found.layer)} - {None}
    if cross:
        seen += f"; cross-attention takes {', '.join(map(str, sorted(cross, key=str)))} features of text"
    if all(found.is_text for found in places):
        return likely(
            f"base={base}", f"{seen}; families that are not supported yet have the same text encoders"
        )
    if (others := BY_BASE[base].lookalikes) and not any(
        found.is_text or _SECOND_EMBEDDING.search(found.layer) for found in places
    ):
        return likely(f"base={base}", f"{seen}, as those of {', '.join(others)} do")
    return sure(f"base={base}", seen)


def _networks(places: Iterable[Place]) -> str:
    kinds = {found.is_text for found in places}
    return " and ".join(
        what for is_text, what in ((False, "the UNet"), (True, "the text encoders")) if is_text in kinds
    )
