"""Module shells: a module of the right class whose parameters hold no data yet."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch

from modelkeep.dtypes import PRECISIONS
from modelkeep.exceptions import InvalidModelException
from modelkeep.worker.classconfig import ATTENTIONS
from modelkeep.worker.classes import resolve_class
from modelkeep.worker.manifest import Manifest
from modelkeep.worker.packedshell import pack

#: Precision name → torch dtype.
DTYPES: Final[Mapping[str, torch.dtype]] = {name: getattr(torch, name) for name in PRECISIONS}

#: Shells are kept pickled: loading one takes a fifth of building it anew. Pickling takes half of that
#: time again, so a shell is kept when it is asked for a second time; until then its place is empty.
_KEPT_SHELLS: Final = 8
_shells: OrderedDict[str, bytes] = OrderedDict()
_lock = threading.Lock()

#: Whether this thread makes modules without weights, and whether libraries are quiet in it.
_this_thread = threading.local()
#: Threads that do, and what they have replaced.
_bare_threads = 0
_originals: list[tuple[Any, str, Any]] = []
#: What fills the parameters of the layers that a module is made of.
_FILLING: Final = (
    torch.nn.Linear,
    torch.nn.modules.conv._ConvNd,
    torch.nn.Embedding,
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
)


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Parameters that this thread's new layers make get neither memory nor initial values.

    They are on the meta device; buffers are made as ever. Other threads notice nothing. ``torch.device``
    does the like, and takes longer for it than building the module does: it looks at every call of torch.
    """
    global _bare_threads
    with _lock:
        if _bare_threads == 0:
            _replace(torch, "empty", lambda empty: functools.partial(_on_meta, empty))
            for layer in _FILLING:
                _replace(layer, "reset_parameters", lambda reset: lambda layer: None)
        _bare_threads += 1
    before = getattr(_this_thread, "is_bare", False)
    _this_thread.is_bare = True
    try:
        yield
    finally:
        _this_thread.is_bare = before
        with _lock:
            _bare_threads -= 1
            while _bare_threads == 0 and _originals:
                setattr(*_originals.pop())


def _on_meta(empty: Callable[..., torch.Tensor], *args: Any, **more: Any) -> torch.Tensor:
    return empty(*args, **{**more, "device": "meta"})


def _replace(owner: Any, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Change a function for the threads that make modules without weights; the others get the original."""
    original = getattr(owner, name)
    changed = change(original)

    @functools.wraps(original)
    def either(*args: Any, **more: Any) -> Any:
        return (changed if getattr(_this_thread, "is_bare", False) else original)(*args, **more)

    _originals.append((owner, name, original))
    setattr(owner, name, either)


def build_module(library: str, class_name: str, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Construct a module as its library's from_pretrained does, under whatever device is in force.

    Raises:
        InvalidModelException: The class, or the attention that the configuration asks for, is not on the
            list of those that may be built.
    """
    cls = resolve_class(library, class_name)
    if getattr(cls, "config_class", None) is None:  # of diffusers, wherever it is defined
        return cls.from_config(dict(config))
    settings = cls.config_class.from_dict(dict(config))
    attention = settings._attn_implementation
    if attention is not None and attention not in ATTENTIONS:
        raise InvalidModelException(
            f"The configuration of this {class_name} asks for the attention {attention!r}, which is not "
            f"among those that may be used ({', '.join(ATTENTIONS)}).",
            metadata={"detail": f"attention {attention}"},
        )
    settings.dtype = dtype
    return cls(settings)


def empty_module(manifest: Manifest) -> Any:
    """A new module in evaluation mode whose parameters hold no data: the caller must replace all of them,
    and :func:`modelkeep.worker.attachment.attach` does.
    """
    key = json.dumps(
        [manifest.library, manifest.class_name, manifest.config, manifest.precision], sort_keys=True
    )
    with _lock:
        kept = _shells.get(key)
        if kept is not None:
            _shells.move_to_end(key)
    if kept:
        return pickle.loads(kept)  # made by this very process a few lines below
    module = _built(manifest)
    pickled = b"" if kept is None else pickle.dumps(module, protocol=pickle.HIGHEST_PROTOCOL)
    with _lock:
        _shells[key] = pickled
        while len(_shells) > _KEPT_SHELLS:
            _shells.popitem(last=False)
    return module


def packed_shell(manifest: Manifest) -> str:
    """The same module as a text that a lent file carries; "" if it cannot be packed."""
    return pack(manifest.library, _built(manifest))


def _built(manifest: Manifest) -> Any:
    with quiet(), without_weights():
        module = build_module(
            manifest.library, manifest.class_name, manifest.config, DTYPES[manifest.precision]
        )
    for part in module.modules():
        vars(part)["training"] = False  # what eval() comes to, without a module's costly __setattr__
    return module


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries warn about configuration keys of other versions; from_pretrained keeps that quiet too.

    For this thread only. Their verbosity is the whole process's, and setting it takes a millisecond, since
    every logger forgets then what it is enabled for.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        for handler in library.get_logger(library._get_library_name()).handlers:
            handler.addFilter(_passes)  # once, however often
    _this_thread.is_quiet = True
    try:
        yield
    finally:
        _this_thread.is_quiet = False


def _passes(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or not getattr(_this_thread, "is_quiet", False)
