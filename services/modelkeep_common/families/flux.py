"""FLUX."""

from __future__ import annotations

from .family import Family
from .networks import Autoencoder

FLUX = Family(
    base="flux",
    name="FLUX",
    autoencoder=Autoencoder(16),
    vae={
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "force_upcast": True,
    },
)
