"""A module's shell as text: made once where the weights are built, and unpacked by every worker.

To build a module of some thousand parts anew takes a worker longer than everything else that attaching does,
and each would build the same. So a lent file carries its shell: the module without any tensor, pickled. What
is unpacked may name classes only, and only those that modules consist of (:func:`_is_part`), so that the
text can make nothing else happen, whoever wrote it. A shell is made by the versions of libraries that it
names; a worker with others, and a module that cannot be packed, is built as ever
(:func:`modelkeep.worker.shell.empty_module`).
"""

from __future__ import annotations

import base64
import io
import pickle
import sys
import zlib
from collections import OrderedDict
from typing import Any, Final, NamedTuple

import torch

from modelkeep.worker.classes import resolve_class

#: Key of the text in ``__metadata__`` of a lent file.
SHELL_KEY: Final = "modelkeep_shell"
#: Form of the text: this number, versions, count of tensors, contents. Another one is not read.
_FORM: Final = "1"
#: Bytes of a shell that is kept, unpacked: many times those of the largest module.
_MOST_BYTES: Final = 32 << 20
#: Packages whose classes a module may consist of.
_HOMES: Final = ("torch.nn.modules.", "diffusers.", "transformers.")


def pack(library: str, module: torch.nn.Module) -> str:
    """The shell of a module; "" if it is one that cannot be packed.

    The module loses its tensors: it is of no more use.
    """
    buffers = list(module.named_buffers(remove_duplicate=False))
    if len({id(buffer) for _, buffer in buffers}) < len(buffers):
        return ""  # a lent file has each buffer under one name
    count = 0
    for part in module.modules():
        for slots in (part._parameters, part._buffers):
            for name, tensor in slots.items():
                count += tensor is not None
                slots[name] = None
    try:
        pickled = pickle.dumps(module, protocol=5)
        restored = _load(pickled)
    except Exception:  # whatever its parts raise: a lambda among them, a tensor, a class of somewhere else
        return ""
    if type(restored) is not type(module) or len(pickled) > _MOST_BYTES:
        return ""
    text = base64.b64encode(zlib.compress(pickled, 6)).decode("ascii")
    return f"{_FORM} {_versions(library)} {count} {text}"


class PackedShell(NamedTuple):
    """A module whose parameters and buffers are all None, and how many of them had a tensor."""

    module: torch.nn.Module
    tensor_count: int


def unpack(library: str, class_name: str, text: str) -> PackedShell | None:
    """What :func:`pack` made of a module of this class; None if that was done with other versions of the
    libraries than this process's, or if it is no such shell at all.

    Raises:
        InvalidModelException: The class is not on the list of those that may be built.
    """
    cls = resolve_class(library, class_name)
    form, _, rest = text.partition(" ")
    versions, _, rest = rest.partition(" ")
    count, _, packed = rest.partition(" ")
    if form != _FORM or versions != _versions(library):
        return None
    try:
        inflate = zlib.decompressobj()
        pickled = inflate.decompress(base64.b64decode(packed), _MOST_BYTES)
        module = _load(pickled)
        return PackedShell(module, int(count)) if type(module) is cls else None
    except Exception:  # what is not a shell of ours is built anew
        return None


def _versions(library: str) -> str:
    """What a shell depends on besides its configuration, without spaces."""
    made_by = getattr(sys.modules.get(library), "__version__", "?")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"python-{python},torch-{torch.__version__},{library}-{made_by}".replace(" ", "")


def _load(pickled: bytes) -> Any:
    return _Unpickler(io.BytesIO(pickled)).load()


class _Unpickler(pickle.Unpickler):
    """Makes objects of the classes that modules consist of, and of no others."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """See :class:`pickle.Unpickler`.

        Raises:
            UnpicklingError: It is no such class.
        """
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module_name == "torch" and isinstance(found := getattr(torch, global_name, None), torch.dtype):
            return found
        if not module_name.startswith(_HOMES) or "." in global_name:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of a module")
        found = super().find_class(module_name, global_name)
        if not _is_part(found, module_name):
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of a module")
        return found


def _is_part(found: Any, module_name: str) -> bool:
    """Whether it is a class of modules, or of what these have as attributes: configurations, processors."""
    if not isinstance(found, type) or found.__module__ != module_name:
        return False
    if issubclass(found, torch.nn.Module):
        return True
    if issubclass(found, dict):
        return found.__name__ == "FrozenDict"
    bases = {base.__name__ for base in found.__mro__}
    return found.__name__.endswith(("Processor", "Processor2_0")) or bool(
        bases & {"PretrainedConfig", "PreTrainedConfig", "GenerationConfig"}
    )
