"""What is known of one family of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Component:
    """A component in a single file, in the original ("ldm") key layout.

    Attributes:
        name: As a submodel's type in the taxonomy: ``text_encoder``.
        prefix: What the names of its tensors begin with.
        class_name, library: What implements it.
    """

    name: str
    prefix: str
    class_name: str
    library: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family: its base, the shapes that decide, and the settings that no shape shows.

    Attributes:
        base: As records have it.
        name: For people.
        words: What people write for it in names of files and folders, a regular expression; "" for nothing.
        context_width: Features of text that the denoiser's cross-attention takes; 0 if it has none.
        text_widths: Widths of its text encoders.
        block_depth: Transformer blocks that the denoiser has in a row, at most.
        pipelines: Classes of diffusers that hold its main models.
        components: What a single file holds beside the denoiser.
        latent_channels: Of its autoencoder; 0 if it has none of its own.
        vae: Settings of its AutoencoderKL that no shape shows, as its published configuration has them: with
            these the loader lends one that comes as a single file.
    """

    base: str
    name: str
    words: str = ""
    context_width: int = 0
    text_widths: tuple[int, ...] = ()
    block_depth: int = 0
    pipelines: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    latent_channels: int = 0
    vae: Mapping[str, Any] = field(default_factory=dict)
