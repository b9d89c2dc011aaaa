"""What the shapes of a Stable Diffusion UNet tell; shared by single files, folders and LoRAs."""

from __future__ import annotations

from collections.abc import Mapping

from modelkeep_common.families import FAMILIES

#: Width of the text embedding that the cross-attention takes -> base.
BASE_BY_CONTEXT: Mapping[int, str] = {
    family.context_width: family.base for family in FAMILIES if family.context_width
}
