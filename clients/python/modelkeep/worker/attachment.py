"""Lent memory becomes a live module: map, build the shell, assign, verify.

The tensors of the module are the loader's memory itself. Host memory is mapped privately (MAP_PRIVATE):
reading costs no copy and no own memory, and a write, should one happen, copies the one page for this process
only. An accelerator's is mapped for reading only, and a write ends this process. The mapping holds the memory
by itself, so a module goes on working when its lease has ended and when the loader has died.
"""

from __future__ import annotations

import contextlib
import gc
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from modelkeep.exceptions import InvalidModelException
from modelkeep.worker.devicepart import DevicePart
from modelkeep.worker.lentfile import LentFile
from modelkeep.worker.manifest import METADATA_KEY, Kind, Manifest
from modelkeep.worker.objects import build_object
from modelkeep.worker.packedshell import SHELL_KEY, unpack
from modelkeep.worker.quantised import install
from modelkeep.worker.shell import empty_module
from modelkeep.worker.streaming import stream_weights
from modelkeep.worker.verification import ADDRESSES

#: What most attributes of modules are.
_PLAIN = frozenset({bool, int, float, str, type(None), tuple, list, dict, set, OrderedDict})


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage collection waits: it would run several times over the thousands of objects that are made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_collection()
def attach(descriptor: int, device: DevicePart | None = None) -> Any:
    """Build what the lent memory behind a descriptor is: a module, mostly.

    Args:
        descriptor: Open descriptor of a lent safetensors file. It may be closed afterwards.
        device: What of the file lies on an accelerator; None: nothing.

    Returns:
        A module, in evaluation mode, without gradients, on the CPU or on the accelerator. Its parameters are
        read from the lent memory; its buffers are own copies, since modules may change those while they run.
        Where only a part of the file is on the accelerator, the other weights are copied there whenever they
        are needed. Or a dict of tensors that are read from the lent memory (LoRAs and the like); or an object
        without weights: a tokenizer, a scheduler, an image processor.

    Raises:
        InvalidModelException: The file has no manifest, or does not fit the class that it names.
    """
    lent = LentFile(descriptor, device)
    manifest = _manifest_in(lent)
    if manifest.kind is Kind.STATE_DICT:
        return dict(lent.tensors())
    if manifest.kind is Kind.OBJECT:
        return build_object(manifest, dict(lent.tensors()))
    # Quantised weights change the module itself, and need it whole.
    text = "" if manifest.quantised else lent.metadata.get(SHELL_KEY, "")
    packed = unpack(manifest.library, manifest.class_name, text)
    module: torch.nn.Module = packed.module if packed is not None else empty_module(manifest)
    owners = _parts(module)
    buffers, transient = set(manifest.buffers), set(manifest.transient_buffers)
    channels_last = frozenset(manifest.channels_last)
    addresses: dict[str, int] = {}
    if manifest.quantised:
        try:
            addresses = install(manifest.quantised, manifest.aliases, owners, dict(lent.tensors()))
        except KeyError as error:
            raise _misfit(manifest, f"it has no {error.args[0]}") from None
    parts = {part for weight in manifest.quantised.values() for part in weight.parts.values()}
    for name, tensor in lent.tensors():
        if name in parts:
            continue
        path, _, leaf = name.rpartition(".")
        owner = owners.get(path)
        if owner is None or leaf not in (owner._buffers if name in buffers else owner._parameters):
            raise _misfit(manifest, f"it has no {name}")
        if name in channels_last:
            if tensor.dim() != 4:
                raise _misfit(manifest, f"{name} does not have four dimensions")
            tensor = tensor.permute(0, 3, 1, 2)
        if name in buffers:
            own = tensor.clone() if device is None else tensor.to(device.torch_device, copy=True)
            owner.register_buffer(leaf, own, persistent=name not in transient)
            continue
        expected = owner._parameters[leaf]
        # A packed shell was made with the file, and says no shapes.
        if packed is None and (expected is None or expected.shape != tensor.shape):
            raise _misfit(manifest, f"{name} has another shape")
        # What load_state_dict(assign=True) comes to, in a third of its time.
        owner._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
        addresses[name] = tensor.data_ptr()
    for alias, name in manifest.aliases.items():
        if name in manifest.quantised:
            continue
        # Tied weights are one parameter under two names, and must stay one.
        path, _, leaf = alias.rpartition(".")
        target, _, target_leaf = name.rpartition(".")
        if path not in owners or target not in owners:
            raise _misfit(manifest, f"it has no {alias}")
        owners[path]._parameters[leaf] = owners[target]._parameters[target_leaf]
        addresses[alias] = addresses[name]
    if packed is None:
        _check_complete(manifest, owners)
    elif (there := len(addresses) + len(buffers)) != packed.tensor_count:
        raise _misfit(manifest, f"it has {packed.tensor_count} tensors, and not {there}")
    module.__dict__[ADDRESSES] = addresses
    if device is not None and lent.host is not None:
        stream_weights(owners.values(), lent.host, device)
    return module


def _parts(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """What named_modules() gives, in a fraction of its time: it goes through one generator for each level."""
    found = {"": module}
    seen = {id(module)}
    below = [("", module)]
    while below:
        path, part = below.pop()
        for name, child in part._modules.items():
            if child is None or id(child) in seen:
                continue
            seen.add(id(child))
            found[path + name] = child
            below.append((f"{path}{name}.", child))
    return found


def _manifest_in(file: LentFile) -> Manifest:
    text = file.metadata.get(METADATA_KEY)
    if text is None:
        raise InvalidModelException("The lent file has no modelkeep manifest.")
    return Manifest.from_json(text)


def _check_complete(manifest: Manifest, owners: Mapping[str, torch.nn.Module]) -> None:
    """No tensor may be left without data: not a parameter, not a buffer, not a plain attribute."""
    for path, owner in owners.items():
        for held in (owner._parameters, owner._buffers, vars(owner)):
            for name, value in held.items():
                # Whether a thing is a tensor is a slow question of torch's, and asked of all attributes.
                if type(value) not in _PLAIN and isinstance(value, torch.Tensor) and value.is_meta:
                    raise _misfit(manifest, f"{path}.{name} is left empty")


def _misfit(manifest: Manifest, detail: str) -> InvalidModelException:
    return InvalidModelException(
        f"The lent weights do not fit the {manifest.class_name} of this worker: {detail}. "
        "Loader and worker must have the same versions of diffusers and transformers.",
        metadata={"detail": detail},
    )
