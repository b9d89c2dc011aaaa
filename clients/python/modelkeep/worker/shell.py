"""Module shells: a module of the right class whose parameters hold no data yet."""

from __future__ import annotations

import contextlib
import json
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch.utils._device import DeviceContext

from modelkeep.dtypes import PRECISIONS
from modelkeep.exceptions import InvalidModelException
from modelkeep.worker.classconfig import ATTENTIONS
from modelkeep.worker.classes import resolve_class
from modelkeep.worker.manifest import Manifest

#: Precision name → torch dtype.
DTYPES: Final[Mapping[str, torch.dtype]] = {name: getattr(torch, name) for name in PRECISIONS}

#: Shells are kept pickled: loading one takes a fifth of building it anew. Pickling takes half of that
#: time again, so a shell is kept when it is asked for a second time; until then its place is empty.
_KEPT_SHELLS: Final = 8
_shells: OrderedDict[str, bytes] = OrderedDict()
_lock = threading.Lock()

#: Threads that build a shell right now, and the libraries' verbosity before the first of them began.
_building = 0
_verbosity = (0, 0)

#: What draws initial values; a shell has nowhere to put them.
_DRAWING: Final = frozenset(
    [
        *(
            function
            for name, function in vars(torch.nn.init).items()
            if name.endswith("_") and callable(function)
        ),
        *(torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.fill_, torch.Tensor.zero_),
    ]
)


class _Shell(DeviceContext):
    """``with torch.device("meta")``, which is this class of torch, without drawing initial values.

    Drawing them for no memory is half of the time that building on the meta device takes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWING:
            target = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(target, torch.Tensor) and target.is_meta:
                return target
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]  # torch's


def build_module(library: str, class_name: str, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Construct a module as its library's from_pretrained does, under whatever device is in force.

    Raises:
        InvalidModelException: The class, or the attention that the configuration asks for, is not on the
            list of those that may be built.
    """
    cls = resolve_class(library, class_name)
    if library == "diffusers":
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
    """A new module on the meta device, in evaluation mode, its parameters not requiring gradients.

    The device's context is local to the thread, unlike accelerate's init_empty_weights, which
    patches torch for every thread of a worker. That also leaves buffers without data: the caller must
    fill all of them, and :func:`modelkeep.worker.attachment.attach` does.
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
    with _quiet(), _Shell(torch.device("meta")):
        module = build_module(
            manifest.library, manifest.class_name, manifest.config, DTYPES[manifest.precision]
        )
    module.eval()
    module.requires_grad_(False)
    pickled = b"" if kept is None else pickle.dumps(module, protocol=pickle.HIGHEST_PROTOCOL)
    with _lock:
        _shells[key] = pickled
        while len(_shells) > _KEPT_SHELLS:
            _shells.popitem(last=False)
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Libraries warn about configuration keys of other versions; from_pretrained keeps that quiet too.

    Their verbosity is the whole process's. Of threads that build side by side the first notes it and the
    last puts it back, or one would put back what another has set.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    global _building, _verbosity
    with _lock:
        if _building == 0:
            _verbosity = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
            diffusers_logging.set_verbosity_error()
            transformers_logging.set_verbosity_error()
        _building += 1
    try:
        yield
    finally:
        with _lock:
            _building -= 1
            if _building == 0:
                diffusers_logging.set_verbosity(_verbosity[0])
                transformers_logging.set_verbosity(_verbosity[1])
