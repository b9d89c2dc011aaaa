"""The configuration of a text encoder in an original checkpoint, from its shapes.

Settings that no shape shows stand here as the published configurations have them. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from modelkeep.exceptions import InvalidModelException

Shapes = Mapping[str, tuple[int, ...]]

_HEAD: Final = 64  # features of one head, of every published CLIP and T5
_CLIP_LAYER: Final = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")
_OPENCLIP_LAYER: Final = re.compile(r"transformer\.resblocks\.(\d+)\.")
_T5_LAYER: Final = re.compile(r"encoder\.block\.(\d+)\.")
_TOKENS: Final = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
#: SD 2 takes what the layer before the last gives; diffusers leaves the last one out for it.
SD2_LAYERS: Final = 24


def clip(shapes: Shapes, class_name: str, *, opens: bool) -> dict[str, Any]:
    """Configuration of a CLIP text encoder under transformers' names.

    Args:
        shapes: Name → shape, without prefix.
        class_name: Of the encoder.
        opens: Whether it is one of OpenCLIP's, which activate in another way than OpenAI's.

    Raises:
        InvalidModelException: The tensors are none.
    """
    try:
        words, width = shapes["text_model.embeddings.token_embedding.weight"]
        places = shapes["text_model.embeddings.position_embedding.weight"][0]
        inner = shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, IndexError, ValueError):
        _bad("a CLIP text encoder")
    projection = shapes.get("text_projection.weight")
    return _clip(
        class_name, words, width, places, inner, _layers(shapes, _CLIP_LAYER),
        projection=projection[0] if projection else width,
        act="gelu" if opens else "quick_gelu",
    )  # fmt: skip


def openclip(shapes: Shapes, class_name: str, base: str) -> dict[str, Any]:
    """Configuration of a CLIP text encoder under OpenCLIP's names.

    Raises:
        InvalidModelException: The tensors are none.
    """
    try:
        words, width = shapes["token_embedding.weight"]
        places = shapes["positional_embedding"][0]
        inner = shapes["transformer.resblocks.0.mlp.c_fc.weight"][0]
    except (KeyError, IndexError, ValueError):
        _bad("a text encoder of OpenCLIP")
    layers = _layers(shapes, _OPENCLIP_LAYER)
    if base == "sd-2" and layers == SD2_LAYERS:
        layers -= 1
    projection = shapes.get("text_projection")
    return _clip(
        class_name, words, width, places, inner, layers,
        projection=projection[1] if projection and len(projection) == 2 else width,
        act="gelu",
    )  # fmt: skip


def t5(shapes: Shapes) -> dict[str, Any]:
    """Configuration of a T5 encoder.

    Raises:
        InvalidModelException: The tensors are none.
    """
    attention = "encoder.block.0.layer.0.SelfAttention"
    feed = "encoder.block.0.layer.1.DenseReluDense"
    try:
        words, width = shapes["shared.weight"]
        buckets, heads = shapes[f"{attention}.relative_attention_bias.weight"]
        inner = shapes[f"{attention}.q.weight"][0]
        gated = f"{feed}.wi_0.weight" in shapes
        wide = shapes[f"{feed}.wi_0.weight" if gated else f"{feed}.wi.weight"][0]
        if not heads or inner % heads:
            raise ValueError
    except (KeyError, IndexError, ValueError):
        _bad("a T5 encoder")
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": words,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": wide,
        "num_layers": _layers(shapes, _T5_LAYER),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "use_cache": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def _clip(
    class_name: str,
    words: int,
    width: int,
    places: int,
    inner: int,
    layers: int,
    *,
    projection: int,
    act: str,
) -> dict[str, Any]:
    if width % _HEAD or not width:
        _bad(f"a CLIP text encoder with heads of {_HEAD} features")
    return {
        "architectures": [class_name],
        "model_type": "clip_text_model",
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": inner,
        "projection_dim": projection,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD,
        "max_position_embeddings": places,
        "hidden_act": act,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        **_TOKENS,
    }


def _layers(shapes: Shapes, pattern: re.Pattern[str]) -> int:
    found = {int(match[1]) for name in shapes if (match := pattern.match(name))}
    if found != set(range(len(found))):
        _bad("a text encoder with all of its layers")
    return len(found)


def _bad(kind: str) -> NoReturn:
    raise InvalidModelException(
        f"The file holds no text encoder that can be lent: it should be {kind}, and its tensors are others.",
        metadata={"detail": f"not {kind}"},
        remedy="Correct the record's base, or install the model as a folder in diffusers' layout.",
    )
