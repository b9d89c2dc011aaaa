"""A lent file carries its module's shell, and a worker makes of it what it would have built itself."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import read_header
from modelkeep.worker.attachment import attach
from modelkeep.worker.lentfile import LentFile
from modelkeep.worker.manifest import METADATA_KEY
from modelkeep.worker.packedshell import SHELL_KEY, pack, unpack
from modelkeep.worker.verification import verify_attachment
from modelkeep_convert.build import build
from modelkeep_convert.request import Build
from support import tinymodels

pytestmark = pytest.mark.timeout(180)

#: Class → (library, a tiny one of it). The T5 has tied weights, the CLIP a transient buffer.
TINY: dict[str, tuple[str, Callable[[], Any]]] = {
    "AutoencoderKL": ("diffusers", lambda: tinymodels.vae(widths=(32, 64))),
    "UNet2DConditionModel": ("diffusers", tinymodels.unet),
    "CLIPTextModel": ("transformers", tinymodels.text_encoder),
    "T5EncoderModel": ("transformers", tinymodels.t5_encoder),
}


class LentOne:
    """What the helper process makes of a model, as a file whose header can be changed."""

    def __init__(self, folder: Path, class_name: str) -> None:
        self.library, make = TINY[class_name]
        self.class_name = class_name
        make().save_pretrained(folder)
        (weights,) = folder.glob("*.safetensors")
        wanted = Build(
            library=self.library,
            class_name=class_name,
            config=json.loads((folder / "config.json").read_text()),
            precision="bfloat16",
            files=[weights.name],
            base="sd-1",
            scaling_factor=None,
            overrides={},
            name="modelkeep:of the test",
        )
        source = os.open(weights, os.O_RDONLY)
        self._memory = build(wanted, [source], lambda done: None)
        os.close(source)
        self._folder = folder
        self.path = folder / "none yet"

    def opened(self, **metadata: str) -> int:
        """A descriptor of it, with other texts in its header; "" takes one away."""
        text = Path(f"/proc/self/fd/{self._memory}").read_bytes()
        length = int.from_bytes(text[:8], "little")
        header = json.loads(text[8 : 8 + length])
        header["__metadata__"] = {k: v for k, v in (header["__metadata__"] | metadata).items() if v}
        head = json.dumps(header).encode()
        head += b" " * (-(8 + len(head)) % 4096)
        # Each in a file of its own: the others may be mapped.
        self.path = self._folder / f"lent-{len(list(self._folder.glob('lent-*')))}"
        self.path.write_bytes(len(head).to_bytes(8, "little") + head + text[8 + length :])
        return os.open(self.path, os.O_RDONLY)

    def close(self) -> None:
        os.close(self._memory)


@pytest.fixture(params=TINY)
def lent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LentOne]:
    made = LentOne(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def vae(tmp_path: Path) -> Iterator[LentOne]:
    made = LentOne(tmp_path, "AutoencoderKL")
    yield made
    made.close()


def attached(fd: int) -> Any:
    try:
        return attach(fd)
    finally:
        os.close(fd)


def form_of(module: Any) -> dict[str, Any]:
    """Everything that there is to a module: classes and plain attributes of its parts, and its tensors."""
    parts = {
        name: (type(part), {k: v for k, v in vars(part).items() if isinstance(v, bool | int | float | str)})
        for name, part in module.named_modules()
    }
    names = [n for n, _ in module.named_parameters(remove_duplicate=False)]
    tied = {n: id(p) for n, p in module.named_parameters(remove_duplicate=False)}
    ties = [[n for n in names if tied[n] == one] for one in dict.fromkeys(tied.values())]
    persistent = {name: sorted(part._non_persistent_buffers_set) for name, part in module.named_modules()}
    return {"parts": parts, "names": names, "ties": ties, "persistent": persistent}


def test_an_unpacked_shell_is_the_module_that_would_have_been_built(lent: LentOne) -> None:
    packed, built = attached(lent.opened()), attached(lent.opened(**{SHELL_KEY: ""}))
    assert form_of(packed) == form_of(built)
    mine, theirs = packed.state_dict(), built.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    buffers = dict(built.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in packed.named_buffers())
    verify_attachment(packed)


def test_a_lent_file_carries_a_shell_that_this_process_can_unpack(lent: LentOne) -> None:
    fd = lent.opened()
    file = LentFile(fd)
    found = unpack(lent.library, lent.class_name, file.metadata[SHELL_KEY])
    os.close(fd)
    assert found is not None
    assert type(found.module).__name__ == lent.class_name
    assert all(p is None for part in found.module.modules() for p in part._parameters.values())


def test_a_shell_of_other_versions_is_left_alone_and_the_module_built(vae: LentOne) -> None:
    fd = vae.opened()
    form, _versions, rest = LentFile(fd).metadata[SHELL_KEY].split(" ", 2)
    os.close(fd)
    other = f"{form} python-3.99,torch-9.9,diffusers-9.9 {rest}"
    assert unpack("diffusers", "AutoencoderKL", other) is None
    assert form_of(attached(vae.opened(**{SHELL_KEY: other}))) == form_of(attached(vae.opened()))


class _Touch:
    """Unpickled by anybody who lets it, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def _of_torch(path: Path) -> Any:
    class Loads:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.load, (str(path),)

    return Loads()


@pytest.mark.parametrize("make", [_Touch, _of_torch, lambda path: path, lambda path: len])
def test_a_shell_that_names_anything_but_parts_of_modules_is_not_unpacked(
    vae: LentOne, tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    fd = vae.opened()
    form, versions, count, _ = LentFile(fd).metadata[SHELL_KEY].split(" ", 3)
    os.close(fd)
    evil = base64.b64encode(zlib.compress(pickle.dumps(make(tmp_path / "touched")))).decode()
    text = f"{form} {versions} {count} {evil}"
    assert unpack("diffusers", "AutoencoderKL", text) is None
    assert not (tmp_path / "touched").exists()
    verify_attachment(attached(vae.opened(**{SHELL_KEY: text})))


def test_a_shell_of_another_class_than_the_manifest_names_is_not_unpacked() -> None:
    text = pack("diffusers", tinymodels.unet())
    assert text
    assert unpack("diffusers", "AutoencoderKL", text) is None


def test_a_module_that_cannot_be_packed_says_so_instead_of_failing() -> None:
    module = tinymodels.vae(widths=(32, 64))
    module.encoder.shortcut = lambda value: value
    assert pack("diffusers", module) == ""


def test_a_shell_that_has_other_tensors_than_the_file_is_a_misfit(vae: LentOne) -> None:
    text = pack("diffusers", tinymodels.vae(widths=(32, 64, 64)))
    fd = vae.opened(**{SHELL_KEY: text})
    with pytest.raises(InvalidModelException, match="do not fit the AutoencoderKL"):
        attached(fd)


def test_lent_tensors_are_views_of_one_private_mapping(vae: LentOne) -> None:
    fd = vae.opened()
    file = LentFile(fd)
    tensors = dict(file.tensors())
    header = read_header(fd, vae.path)
    os.close(fd)
    base = next(iter(tensors.values())).untyped_storage().data_ptr()
    for entry in header.tensors:
        tensor = tensors[entry.name]
        assert tensor.untyped_storage().data_ptr() == base
        assert (tuple(tensor.shape), tensor.data_ptr() - base) == (entry.shape, entry.begin)
        assert tensor.is_contiguous()
    before = vae.path.read_bytes()
    tensors[header.tensors[0].name].zero_()
    assert vae.path.read_bytes() == before


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF16", "shape": [2], "data_offsets": [1, 5]},
        {"dtype": "BF16", "shape": [3], "data_offsets": [0, 4]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [-4, 0]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [8, 12]},
        {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]},
    ],
)
def test_an_entry_that_does_not_fit_the_file_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    head = json.dumps({"__metadata__": {METADATA_KEY: "{}"}, "one": entry}).encode()
    head += b" " * (-(8 + len(head)) % 16)
    (tmp_path / "odd").write_bytes(len(head).to_bytes(8, "little") + head + bytes(10))
    fd = os.open(tmp_path / "odd", os.O_RDONLY)
    with pytest.raises(InvalidModelException, match="no safetensors file that can be read"):
        dict(LentFile(fd).tensors())
    os.close(fd)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, (3).to_bytes(8, "little") + b"[1]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd").write_bytes(content)
    fd = os.open(tmp_path / "odd", os.O_RDONLY)
    with pytest.raises(InvalidModelException, match="no safetensors file that can be read"):
        LentFile(fd)
    os.close(fd)
