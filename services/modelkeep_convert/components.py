"""What the helper process does with torch: from installed files to named tensors of one precision.

Four ways lead to the same tensors that the library's own from_pretrained or from_single_file yields:

* the file's names are the module's names, and the class needs no special care: the tensors are read and
  cast one by one, with no second copy in memory;
* anything else in a folder: from_pretrained itself, on a folder of links to the descriptors;
* a single-file VAE: its configuration follows from its shapes; the key layout of latent-diffusion
  checkpoints goes through diffusers' own conversion;
* a component of a main model in one file: through diffusers' own conversion (:mod:`.checkpoints.conversion`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.modules.module import register_module_parameter_registration_hook

from modelkeep import sealed
from modelkeep.dtypes import DTYPES as FILE_DTYPES
from modelkeep.exceptions import DiskFullException, InvalidModelException
from modelkeep.headers import Tensor
from modelkeep.worker.classconfig import checked_config
from modelkeep.worker.classes import kept_in_float32, resolve_class
from modelkeep.worker.lentfile import TORCH_DTYPES
from modelkeep.worker.manifest import Kind, Manifest
from modelkeep.worker.shell import DTYPES, build_module, without_weights
from modelkeep_common.families.oldnames import of_today
from modelkeep_convert import vaeconfig
from modelkeep_convert.checkpoints.conversion import convert
from modelkeep_convert.filetensors import FileTensor, open_tensors
from modelkeep_convert.quantised.rows import RowNumbers
from modelkeep_convert.quantised.sources import (
    Quantised,
    Source,
    bytes_of,
    written_out,
)
from modelkeep_convert.quantised.stored import Form
from modelkeep_convert.request import Build
from modelkeep_convert.spare import is_training, refuse_stray, refuse_twice

#: torch's dtype → code.
_CODES = {dtype: code for code, dtype in TORCH_DTYPES.items()}

#: What helps where a configuration and weights do not go together.
_AS_ONE = "Fetch config.json and the weights anew, both of one model."

#: Attributes of a module that needs more care than reading and casting its tensors.
_CARE = (
    "_keep_in_fp32_modules",
    "_keep_in_fp32_modules_strict",
    "_tied_weights_keys",
    "all_tied_weights_keys",
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that goes into the lent file.

    Attributes:
        read: Yields a tensor's bytes when its turn comes.
        in_files: Those whose bytes lie in a file as they are lent, by their names.
    """

    manifest: Manifest
    tensors: list[Tensor]
    read: Callable[[Tensor], memoryview]
    in_files: Mapping[str, FileTensor] = field(default_factory=dict)


def collect(wanted: Build, descriptors: list[int]) -> Parts:
    """Find out what the component consists of. Reads little; the bytes follow with ``Parts.read``.

    Raises:
        InvalidModelException: The class is not allowed, or the files do not fit it.
    """
    sources: Mapping[str, Source] = open_tensors(wanted, descriptors)
    if wanted.kind == Kind.STATE_DICT:
        return _state_dict(wanted, sources)
    refuse_twice(sources)
    cls = resolve_class(wanted.library, wanted.class_name)
    names: Mapping[str, torch.Tensor | None]
    if wanted.layout:
        config, names = wanted.config or {}, {}
    elif wanted.config is None:
        config, names = _single_file_vae(wanted, sources)
    else:
        config, names = wanted.config, dict.fromkeys(sources)
    config = checked_config(wanted.class_name, {**config, **wanted.overrides}, Path("config.json"))
    with without_weights(), _within_reason(sources):
        shell = build_module(wanted.library, wanted.class_name, config, DTYPES[wanted.precision])
    if wanted.layout:
        names, sources = _of_checkpoint(wanted, sources, shell)
    if wanted.layout and wanted.library == "transformers":
        parts = _from_module(wanted, config, _from_state(cls, wanted, config, names))
        return _in_form(wanted, parts, shell, sources)
    if wanted.layout or wanted.config is None:
        expected = shell.state_dict().keys()
        refuse_stray(wanted.class_name, names.keys() - expected)
        if missing := sorted(expected - names.keys()):
            raise _incomplete(wanted, missing)
    if _is_plain(shell, sources, names):
        return _in_form(wanted, _from_sources(wanted, config, shell, sources, names), shell, sources)
    if all(isinstance(source, FileTensor) for source in sources.values()):
        parts = _from_module(wanted, config, _from_pretrained(cls, wanted, config, descriptors))
        return _in_form(wanted, parts, shell, sources)
    kept = kept_in_float32(wanted.library, wanted.class_name, wanted.precision)
    with _closed(written_out(sources, wanted.precision, kept)) as memory:
        parts = _from_module(wanted, config, _from_pretrained(cls, wanted, config, [memory]))
    return _in_form(wanted, parts, shell, sources)


def _in_form(wanted: Build, parts: Parts, shell: torch.nn.Module, sources: Mapping[str, Source]) -> Parts:
    """The component with its weights in the form that is asked for."""
    if wanted.weights == "dequantised":
        return parts
    form = Form(parts.tensors, parts.read)
    if wanted.weights == "float8":
        form.as_float8(shell)
    else:
        form.as_stored(sources, parts.manifest)
        aliases = parts.manifest.aliases
        lost = [name for name in sources if wanted.layout and aliases.get(name, name) not in form.weights]
        if lost:  # the numbers that stand in for it mean nothing
            raise InvalidModelException(
                f"{wanted.class_name} does not have {lost[0][:200]} as the files have it, so it cannot be "
                "lent as it is stored.",
                metadata={"detail": f"as stored: {lost[0][:200]}"},
                remedy="Ask for it dequantised (WEIGHT_FORM_DEQUANTISED).",
            )
    return Parts(replace(parts.manifest, quantised=form.weights), form.tensors, form.read)


@contextlib.contextmanager
def _closed(descriptor: int) -> Iterator[int]:
    """A descriptor that is closed in the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _within_reason(sources: Mapping[str, Source]) -> Iterator[None]:
    """Refuse to build a module of far more parameters or elements than there are in the files.

    One wrong number in a configuration would keep this process busy until memory is used up, and every
    other load waiting.
    """
    held = sum(prod(source.shape()) for source in sources.values())
    left, elements = 100 + 4 * len(sources), (1 << 24) + 4 * held

    def count(_module: torch.nn.Module, _name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal left, elements
        left -= 1
        elements -= 0 if parameter is None else parameter.numel()
        if left < 0 or elements < 0:
            raise InvalidModelException(
                f"The config.json asks for far more than the {len(sources):,} tensors of {held:,} numbers "
                "that the files hold.",
                metadata={"detail": "configuration too large"},
                remedy=_AS_ONE,
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _is_plain(
    shell: torch.nn.Module,
    sources: Mapping[str, Source],
    names: Mapping[str, torch.Tensor | None],
) -> bool:
    """Whether reading and casting the tensors one by one is all that from_pretrained would do."""
    state = shell.state_dict()
    transient = [b for name, b in shell.named_buffers() if name not in state]
    return (
        names.keys() == state.keys()
        and all(
            FILE_DTYPES[sources[name].code()].is_float == state[name].is_floating_point()
            for name, ready in names.items()
            if ready is None
        )
        # Of the module and not of its class: parts of it may have some of their own.
        and not any(getattr(shell, name, None) for name in _CARE)
        and not any(b.is_floating_point() for b in transient)
        and len(list(shell.named_parameters())) == len(list(shell.named_parameters(remove_duplicate=False)))
    )


def _from_sources(
    wanted: Build,
    config: Mapping[str, Any],
    shell: torch.nn.Module,
    sources: Mapping[str, Source],
    names: Mapping[str, torch.Tensor | None],
) -> Parts:
    dtype = DTYPES[wanted.precision]
    expected = shell.state_dict()
    buffers = dict(shell.named_buffers())
    transient = {name: b for name, b in buffers.items() if name not in expected}
    tensors: list[Tensor] = []
    for name, ready in names.items():
        shape = list(ready.shape) if ready is not None else sources[name].shape()
        if shape != list(expected[name].shape):
            raise InvalidModelException(
                f"{name} has the shape {shape}; by its configuration {wanted.class_name} has "
                f"{list(expected[name].shape)} there.",
                metadata={"detail": f"shape of {name}"},
                remedy=_AS_ONE,
            )
        code = _CODES[ready.dtype] if ready is not None else sources[name].code()
        tensors.append(Tensor(name, _CODES[dtype] if FILE_DTYPES[code].is_float else code, tuple(shape)))
    tensors += [Tensor(name, _CODES[b.dtype], tuple(b.shape)) for name, b in transient.items()]

    def read(tensor: Tensor) -> memoryview:
        if tensor.name in transient:
            return bytes_of(transient[tensor.name])
        value = names[tensor.name]
        if value is None:
            value = sources[tensor.name].read()
        return bytes_of(value.to(dtype) if value.is_floating_point() else value)

    manifest = _manifest(wanted, config, {}, list(buffers), list(transient))
    filed = {name: sources[name] for name, ready in names.items() if ready is None}
    return Parts(manifest, tensors, read, _as_they_are(tensors, filed))


def _as_they_are(tensors: list[Tensor], sources: Mapping[str, Source]) -> dict[str, FileTensor]:
    """Those of some tensors whose bytes in the lent file are those of the installed one."""
    return {
        tensor.name: source
        for tensor in tensors
        if isinstance(source := sources.get(tensor.name), FileTensor) and source.code() == tensor.dtype
    }


def _state_dict(wanted: Build, sources: Mapping[str, Source]) -> Parts:
    """The tensors of the files, and nothing else."""
    dtype = DTYPES[wanted.precision]

    def code(source: Source) -> str:
        own = source.code()
        return _CODES[dtype] if wanted.cast and FILE_DTYPES[own].is_float else own

    def read(tensor: Tensor) -> memoryview:
        value = sources[tensor.name].read()
        return bytes_of(value.to(dtype) if wanted.cast and value.is_floating_point() else value)

    tensors = [Tensor(name, code(source), tuple(source.shape())) for name, source in sources.items()]
    manifest = Manifest("", "", {}, wanted.precision, {}, (), (), Kind.STATE_DICT)
    return Parts(manifest, tensors, read, _as_they_are(tensors, sources))


def _from_module(wanted: Build, config: Mapping[str, Any], module: torch.nn.Module) -> Parts:
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    values: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if (seen := first.setdefault(id(parameter), name)) != name:
            aliases[name] = seen
        else:
            values[name] = parameter.detach()
    buffers = dict(module.named_buffers())
    state = module.state_dict().keys()
    values |= buffers
    tensors = [Tensor(name, _CODES[value.dtype], tuple(value.shape)) for name, value in values.items()]
    transient = [name for name in buffers if name not in state]
    return Parts(
        _manifest(wanted, config, aliases, list(buffers), transient),
        tensors,
        # Let go of as it is written: the component then is not twice in memory.
        lambda tensor: bytes_of(values.pop(tensor.name)),
    )


def _manifest(
    wanted: Build,
    config: Mapping[str, Any],
    aliases: Mapping[str, str],
    buffers: list[str],
    transient: list[str],
) -> Manifest:
    return Manifest(
        library=wanted.library,
        class_name=wanted.class_name,
        config=config,
        precision=wanted.precision,
        aliases=aliases,
        buffers=tuple(buffers),
        transient_buffers=tuple(transient),
    )


def _from_pretrained(
    cls: Any, wanted: Build, config: Mapping[str, Any], descriptors: list[int]
) -> torch.nn.Module:
    """The library's own loader, on a private folder of links to the descriptors."""
    with tempfile.TemporaryDirectory(prefix="modelkeep-") as folder, _strict(wanted):
        root = Path(folder)
        with _room_in(root):
            (root / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        is_diffusers = getattr(cls, "config_class", None) is None
        stem = "diffusion_pytorch_model" if is_diffusers else "model"
        shards: dict[str, str] = {}
        for number, fd in enumerate(descriptors):
            name = f"{stem}.safetensors" if len(descriptors) == 1 else f"{stem}-{number}.safetensors"
            (root / name).symlink_to(f"/proc/self/fd/{fd}")
            with safe_open(str(root / name), framework="pt") as file:
                shards |= dict.fromkeys(file.keys(), name)
        if len(descriptors) > 1:
            index = {"metadata": {"total_size": 0}, "weight_map": shards}
            with _room_in(root):
                (root / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        dtype = {"torch_dtype" if is_diffusers else "dtype": DTYPES[wanted.precision]}
        loaded, report = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **dtype
        )
    if missing := sorted(report["missing_keys"]):
        raise _incomplete(wanted, missing)
    refuse_stray(wanted.class_name, report["unexpected_keys"])
    module: torch.nn.Module = loaded
    return module


def _from_state(
    cls: Any, wanted: Build, config: Mapping[str, Any], names: Mapping[str, torch.Tensor | None]
) -> torch.nn.Module:
    """The library's own loader, on tensors that are there already."""
    with _strict(wanted):
        loaded, report = cls.from_pretrained(
            None,
            config=cls.config_class.from_dict(dict(config)),
            state_dict=dict(names),
            dtype=DTYPES[wanted.precision],
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise _incomplete(wanted, missing)
    refuse_stray(wanted.class_name, report["unexpected_keys"])
    module: torch.nn.Module = loaded
    return module


@contextlib.contextmanager
def _room_in(folder: Path) -> Iterator[None]:
    """Tell a full temporary folder as what it is: here an OSError of that kind would be one of memory."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullException(
            f"The temporary folder {folder.parent} of LoaderService has no room for a few kilobytes.",
            metadata={"path": str(folder.parent)},
            remedy="Make room there, or start LoaderService with TMPDIR naming another folder.",
        ) from None


def _incomplete(wanted: Build, missing: list[str]) -> InvalidModelException:
    return InvalidModelException(
        f"The files lack {len(missing)} tensors of {wanted.class_name}, among them {missing[0]}.",
        metadata={"detail": f"{len(missing)} tensors are missing"},
        remedy="Fetch the model anew, with all of its files.",
    )


@contextlib.contextmanager
def _strict(wanted: Build) -> Iterator[None]:
    """Turn what a library raises for files that do not fit into the suite's own error."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if sealed.is_out_of_memory(error):
            raise
        detail = re.sub(r"\s+", " ", str(error))[:400]
        raise InvalidModelException(
            f"{wanted.class_name} cannot be built from the model's files: {detail}",
            metadata={"detail": detail},
            remedy=_AS_ONE,
        ) from error


def _of_checkpoint(
    wanted: Build, sources: Mapping[str, Source], shell: torch.nn.Module
) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Source]]:
    """A component's tensors of a whole checkpoint under the names of its class, and of those that are
    quantised, where their rows are left whole, the sources.
    """
    dtype = DTYPES[wanted.precision]
    kept = kept_in_float32(wanted.library, wanted.class_name, wanted.precision)
    held = {name.removeprefix(wanted.prefix): source for name, source in sources.items()}

    def read(name: str, source: Source) -> torch.Tensor:
        value = source.read()
        # Dequantised numbers are in memory, and in float32 they would be twice as many bytes as are wanted.
        is_wide = isinstance(source, Quantised) and kept.isdisjoint(name.split("."))
        return value.to(dtype) if is_wide else value

    def converted(checkpoint: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        with _strict(wanted):
            return convert(wanted.layout, wanted.class_name, wanted.config or {}, checkpoint)

    stored: dict[str, Source] = {}
    if wanted.weights == "stored":
        numbers = RowNumbers(held)
        stand_ins = numbers.stand_ins
        mixed = converted({n: stand_ins[n] if n in stand_ins else read(n, s) for n, s in held.items()})
        state = shell.state_dict()
        # transformers' classes have been saved with and without a word before their names.
        own = {n: n if n in state else n.removeprefix("text_model.") for n in mixed}
        shapes = {n: tuple(state[name].shape) for n, name in own.items() if name in state}
        found = numbers.found(mixed, shapes)
        stored = {own[n]: source for n, source in found.items()}
        # Nobody reads what is lent as it is stored: only its shape matters, and whether it is a float.
        blank = torch.zeros((), dtype=dtype)
        known = {n: blank.expand(shapes[n]) if n in found else tensor for n, tensor in mixed.items()}
        left = [own[n] for n, tensor in known.items() if tensor.dtype == torch.int64 and n in shapes]
        if not any(state[name].is_floating_point() for name in left):
            return known, stored
    return converted({name: read(name, source) for name, source in held.items()}), stored


def _single_file_vae(
    wanted: Build, sources: Mapping[str, Source]
) -> tuple[dict[str, Any], dict[str, torch.Tensor | None]]:
    """Configuration and module names of a single-file VAE; a tensor where the file's own is not usable."""
    shapes = {name: tuple(source.shape()) for name, source in sources.items()}
    config = vaeconfig.infer(shapes, base=wanted.base, scaling_factor=wanted.scaling_factor)
    if vaeconfig.is_diffusers_layout(shapes):
        today = {name: of_today(name) for name in sources}
        return config, {new: None if new == name else sources[name].read() for name, new in today.items()}
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    # Of a whole checkpoint the VAE is what stands under its prefix; the rest is other components.
    prefix = vaeconfig.ldm_prefix(shapes)
    checkpoint = {
        name: s.read()
        for name, s in sources.items()
        if name.startswith(prefix) and not is_training(name.removeprefix(prefix))
    }
    names = dict(convert_ldm_vae_checkpoint(checkpoint, config))
    # It passes over what it does not know. What it takes it renames and reshapes, and does not copy.
    taken = {tensor.data_ptr() for tensor in names.values()}
    refuse_stray("AutoencoderKL", (name for name, t in checkpoint.items() if t.data_ptr() not in taken))
    return config, names
