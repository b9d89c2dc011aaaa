"""What diffusers called the parts of an attention until 0.17. Files with these names are still about, and its
from_pretrained reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_ATTENTION: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD: Final = re.compile(r"(?<=\.attentions\.\d\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)")


def of_today(name: str) -> str:
    """A tensor's name as diffusers has it now."""
    return _OLD.sub(lambda old: _ATTENTION[old[0]], name)


def twice(names: Iterable[str]) -> tuple[str, str] | None:
    """Two of the names that are one today; None if there are none. Who reads both keeps one in silence."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(of_today(name), name)) != name:
            return other, name
    return None
