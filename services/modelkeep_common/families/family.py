"""What is known of one family of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .networks import Autoencoder, TextEncoder, UNet


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
    """A family: its base, its networks, and the settings that no shape shows.

    Attributes:
        base: As records have it.
        name: For people.
        words: What people write for it in names of files and folders, a regular expression; "" for nothing.
        unet: Its denoiser, if that is a UNet.
        text_encoders: Its CLIP text encoders by the names that pipelines give them.
        autoencoder: Its autoencoder; None if it has none of its own.
        pipelines: Classes of diffusers that hold its main models.
        components: What a single file holds beside the denoiser.
        vae: Settings of its AutoencoderKL that no shape shows, as its published configuration has them: with
            these the loader lends one that comes as a single file.
        lookalikes: Families without a base here whose UNets have the same layers: name → what people write
            for it, a regular expression.
    """

    base: str
    name: str
    words: str = ""
    unet: UNet | None = None
    text_encoders: Mapping[str, TextEncoder] = field(default_factory=dict)
    autoencoder: Autoencoder | None = None
    pipelines: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    vae: Mapping[str, Any] = field(default_factory=dict)
    lookalikes: Mapping[str, str] = field(default_factory=dict)

    @property
    def context_width(self) -> int:
        """Features of text that the UNet's cross-attention takes; 0 if it has no UNet."""
        return self.unet.context if self.unet else 0

    @property
    def text_widths(self) -> tuple[int, ...]:
        """Widths of its text encoders."""
        return tuple(encoder.width for encoder in self.text_encoders.values())

    @property
    def latent_channels(self) -> int:
        """Channels of its autoencoder's latents; 0 if it has none of its own."""
        return self.autoencoder.latents if self.autoencoder else 0
