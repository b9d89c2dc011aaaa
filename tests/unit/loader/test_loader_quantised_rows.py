"""Quantised weights through a conversion: rows are taken apart and put together, and mean what they meant."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import ggufs, quantisers

torch = pytest.importorskip("torch")
from modelkeep_convert.quantised.rows import RowNumbers  # noqa: E402
from modelkeep_convert.quantised.sources import Source, joined  # noqa: E402


class Held:
    """A source that has its tensor."""

    def __init__(self, tensor: Any, code: str) -> None:
        self._tensor, self._code = tensor, code

    def shape(self) -> list[int]:
        return list(self._tensor.shape)

    def code(self) -> str:
        return self._code

    def read(self) -> Any:
        return self._tensor


CODES = {
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
}
WAYS = {
    "fp8": quantisers.fp8(),
    "fp8 rows": quantisers.fp8("weight_scale", rows=True),
    "int8": quantisers.int8,
    "int8 rows": quantisers.int8_rows,
}


def sources_of(way: quantisers.Quantiser, names: list[str], rows: int, columns: int) -> dict[str, Source]:
    state: dict[str, Any] = {}
    for name in names:
        state |= way(name, torch.randn(rows, columns))[0]
    return joined({name: Held(tensor, CODES[tensor.dtype]) for name, tensor in state.items()})


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 12), columns=st.integers(1, 40), cut=st.integers(1, 11), seed=st.integers(0, 99))
def test_rows_that_are_split_and_joined_mean_what_they_meant(
    way: quantisers.Quantiser, rows: int, columns: int, cut: int, seed: int
) -> None:
    torch.manual_seed(seed)
    cut = min(cut, rows - 1)
    sources = sources_of(way, ["a.weight", "b.weight"], rows, columns)

    def convert(state: dict[str, Any]) -> dict[str, Any]:
        a, b = state["a.weight"], state["b.weight"]
        return {
            "same.weight": a,
            "head.weight": a[:cut],
            "swapped.weight": torch.cat([b[cut:], b[:cut]]),
            "both.weight": torch.cat([a, b]),
        }

    numbers = RowNumbers(sources)
    expected = convert({name: source.read() for name, source in sources.items()})
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    found = numbers.found(convert(numbers.stand_ins), shapes)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].read(), tensor), name


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0"])
def test_rows_of_blocks_are_taken_apart(name: str, tmp_path: object) -> None:
    import os
    from pathlib import Path

    from modelkeep_convert.quantised.gguf import open_gguf

    path = Path(str(tmp_path)) / "a.gguf"
    numbers = torch.randn(6, 64).numpy()
    ggufs.save(path, {"a": numbers}, {"a": name})
    fd = os.open(path, os.O_RDONLY)
    sources = joined(open_gguf(fd, path.name))
    os.close(fd)
    rows = RowNumbers(sources)
    found = rows.found({"b": rows.stand_ins["a"][2:5]}, {"b": (3, 64)})
    assert torch.equal(found["b"].read(), sources["a"].read()[2:5])


def test_what_reaches_over_rows_or_is_turned_stays_dequantised() -> None:
    blocks = sources_of(quantisers.fp8("weight_scale_inv", block=16), ["a.weight"], 32, 32)
    rows = RowNumbers(blocks)
    state = rows.stand_ins
    assert rows.found({"a": state["a.weight"][:8]}, {"a": (8, 32)}) == {}
    assert rows.found({"a": state["a.weight"].T}, {"a": (32, 32)}) == {}
    whole = rows.found({"a": state["a.weight"][..., None, None]}, {"a": (32, 32, 1, 1)})
    assert torch.equal(whole["a"].read().reshape(32, 32), blocks["a.weight"].read())
    wide = RowNumbers({"a": Held(torch.ones(4, 4), "F32")})
    assert wide.found(wide.stand_ins, {"a": (4, 4)}) == {}
