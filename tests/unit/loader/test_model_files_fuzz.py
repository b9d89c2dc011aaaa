"""Whatever a model's files say, their readers raise nothing but the suite's own refusals, and soon."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.dtypes import DTYPES
from modelkeep.exceptions import ModelkeepError
from modelkeep.headers import read_header
from modelkeep.modeljson import read_object
from modelkeep.worker.classconfig import checked_config, known_keys
from modelkeep.worker.classes import ALLOWED
from modelkeep_install.probe import probe
from support.headers import entry, write_header

#: Loaded machines are slow now and then; what hangs is ended by the test's own time limit.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

odd_numbers = st.sampled_from([0, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**300, 1.5, -0.0, 1e308, True])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | odd_numbers
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
tensor_names = st.sampled_from(
    [
        "encoder.conv_in.weight",
        "decoder.conv_out.weight",
        "decoder.conv_in.weight",
        "encoder.down.0.block.0.conv1.weight",
        "decoder.up.0.block.0.conv1.weight",
        "first_stage_model.encoder.conv_in.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
        "__metadata__",
    ]
) | st.text(max_size=30)
dimensions = st.integers(0, 5) | st.sampled_from([768, 1024, 2048, 0, 3, 4, 16])


@st.composite
def sound_headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A header whose tensors tile their buffer, with names that families look for; and the buffer's size."""
    position = 0
    header: dict[str, Any] = {}
    for name in draw(
        st.lists(tensor_names.filter(lambda name: name != "__metadata__"), unique=True, max_size=8)
    ):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        shape = draw(st.lists(dimensions, max_size=5))
        bits = DTYPES[dtype].bits
        for dimension in shape:
            bits *= dimension
        if bits % 8 or bits > 1 << 40:
            continue
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + bits // 8]}
        position += bits // 8
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=3))
    return header, position


def looked_at(read: Callable[[], object]) -> None:
    """Call it; a refusal is as good as an answer, and both can be sent."""
    said = ""
    try:
        read()
    except ModelkeepError as error:
        said = "".join([error.message, *error.metadata.values()])
    assert len(said.encode()) < 8000


@relaxed
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_as_a_header(text: bytes, buffer: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_header(Path(folder) / "a.safetensors", text, buffer)
        looked_at(lambda: probe(path))


@relaxed
@given(st.dictionaries(tensor_names, values, max_size=4), st.integers(0, 100))
def test_any_json_as_a_header(header: dict[str, Any], buffer: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_header(Path(folder) / "a.safetensors", json.dumps(header).encode(), buffer)
        looked_at(lambda: probe(path))


@relaxed
@given(values, values, values, st.integers(0, 100))
def test_any_json_as_a_tensor(dtype: Any, shape: Any, offsets: Any, buffer: int) -> None:
    text = entry("F32", json.dumps(shape), json.dumps(offsets)).replace(b'"F32"', json.dumps(dtype).encode())
    with tempfile.TemporaryDirectory() as folder:
        path = write_header(Path(folder) / "a.safetensors", text, buffer)
        looked_at(lambda: probe(path))


@relaxed
@given(sound_headers())
def test_a_sound_header_is_read_whatever_stands_in_it(sound: tuple[dict[str, Any], int]) -> None:
    header, size = sound
    with tempfile.TemporaryDirectory() as folder:
        path = write_header(Path(folder) / "a.safetensors", json.dumps(header).encode(), size)
        with path.open("rb") as file:
            found = read_header(file.fileno(), path)
        assert set(found) == header.keys() - {"__metadata__"}
        assert sum(tensor.size_bytes for tensor in found.tensors) == size
        looked_at(lambda: probe(path))


@relaxed
@given(sound_headers(), st.data())
def test_a_sound_header_with_some_bytes_changed(
    sound: tuple[dict[str, Any], int], data: st.DataObject
) -> None:
    text = bytearray(json.dumps(sound[0]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        path = write_header(Path(folder) / "a.safetensors", bytes(text), sound[1])
        looked_at(lambda: probe(path))


@relaxed
@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_a_config(text: bytes) -> None:
    fd = os.memfd_create("config")
    try:
        os.write(fd, text)
        looked_at(lambda: json.dumps(read_object(fd, Path("config.json")), allow_nan=False).encode())
    finally:
        os.close(fd)


@relaxed
@given(st.sampled_from(sorted(name for _, name in ALLOWED)), st.data())
def test_any_values_under_known_keys_of_a_config(name: str, data: st.DataObject) -> None:
    keys = st.sampled_from([*sorted(known_keys(name)), "quantization_config", "attn_implementation"])
    config = data.draw(st.dictionaries(keys, values, max_size=6))
    looked_at(lambda: checked_config(name, config, Path("config.json")))


@settings(relaxed, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(
            ["_class_name", "architectures", "latent_channels", "scaling_factor", "block_out_channels"]
        ),
        values | st.sampled_from(["AutoencoderKL", 4, 16, 0.18215]),
        max_size=5,
    ),
    st.dictionaries(
        st.sampled_from(["_class_name", "unet", "vae", "text_encoder", "scheduler", "../x", "a/b"]),
        values | st.sampled_from([["diffusers", "AutoencoderKL"], "StableDiffusionPipeline", [[], {}]]),
        max_size=6,
    ),
    st.booleans(),
)
def test_any_values_in_the_configs_of_a_folder(
    config: dict[str, Any], index: dict[str, Any], is_pipeline: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for component in ("", "unet", "vae", "scheduler"):
            (folder / component).mkdir(exist_ok=True)
            write_header(folder / component / "diffusion_pytorch_model.safetensors", entry(), 4)
            for name in ("config.json", "scheduler_config.json"):
                (folder / component / name).write_text(json.dumps(config))
        if is_pipeline:
            index = {"_class_name": "StableDiffusionPipeline"} | index
            (folder / "model_index.json").write_text(json.dumps(index))
        looked_at(lambda: probe(folder))
