"""Watches that a module computes with nothing that lies in host memory, as on a real accelerator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the tensors of every operation; those that only show a tensor otherwise, and copies, are fine.

    Args:
        host: The memory that nothing may compute with, as a row of bytes.

    Attributes:
        strays: Operations that did.
        copied_bytes: What was copied from there.
    """

    def __init__(self, host: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._first, self._end = host.data_ptr(), host.data_ptr() + host.numel()
        self.strays: list[str] = []
        self.copied_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inside = [
            one
            for one in tree_leaves((args, kwargs or {}))
            if isinstance(one, torch.Tensor) and self._first <= one.data_ptr() < self._end
        ]
        if inside and func is torch.ops.aten.copy_.default:
            self.copied_bytes += sum(one.numel() * one.element_size() for one in inside)
        elif inside and not func.is_view and func is not torch.ops.aten.detach.default:
            self.strays.append(str(func))
        run: Callable[..., Any] = func
        return run(*args, **(kwargs or {}))
