"""What an application sets when somebody picks a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_MOST = 2**31 - 1
_Count = Annotated[int, Field(ge=1, le=_MOST)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class DefaultSettings(BaseModel):
    """Settings to begin with; None says nothing. What each is for is documented, and kept whatever the type.

    The suite uses none of them. Names are the original's.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())

    vae: str | None = Field(
        default=None, description="Main models: a VAE to decode with, as key, name or path; '': its own."
    )
    vae_precision: str | None = Field(default=None, description="Main models: precision of the VAE: `fp16`.")
    scheduler: str | None = Field(default=None, description="Main models: the scheduler: `euler_a`.")
    steps: _Count | None = Field(default=None, description="Main models: number of denoising steps.")
    cfg_scale: _Number | None = Field(
        default=None, description="Main models: scale of classifier-free guidance."
    )
    cfg_rescale_multiplier: _Number | None = Field(
        default=None, description="Main models: multiplier of the guidance's rescale."
    )
    width: _Count | None = Field(default=None, description="Main models: width of an image in pixels.")
    height: _Count | None = Field(default=None, description="Main models: height of an image in pixels.")
    guidance: _Number | None = Field(
        default=None, description="Main models with a distilled guidance (FLUX): its strength."
    )
    cpu_only: bool | None = Field(default=None, description="Any model: whether it runs on the CPU alone.")
    fp8_storage: bool | None = Field(
        default=None, description="Any model: whether its weights are held in 8-bit floating point."
    )
    weight: _Number | None = Field(default=None, description="LoRAs: strength to apply it with at first.")
    weight_min: _Number | None = Field(default=None, description="LoRAs: least strength to offer.")
    weight_max: _Number | None = Field(default=None, description="LoRAs: greatest strength to offer.")
    preprocessor: str | None = Field(
        default=None, description="Control models: the preprocessor of the picture: `canny_image_processor`."
    )
