"""What benchmarks of workers run in processes of their own, and how these are started.

A process imports, says so, waits for its turn, and says what it measured as a line of JSON. As a script it
is one of the functions below: ``python attachroles.py attach ADDRESS KEY SUBMODEL PRECISION``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelkeep.dtypes import Precision

# In the child processes.


def model_class(submodel: str) -> Any:
    """diffusers' class of a component."""
    import diffusers

    return diffusers.AutoencoderKL if submodel == "vae" else diffusers.UNet2DConditionModel


@contextmanager
def start_signal() -> Iterator[None]:
    """Say that the imports are done, and wait for the turn."""
    print(json.dumps({"imported": True}), flush=True)
    sys.stdin.readline()
    yield


def finish(module: Any, before: int, began: float, **facts: Any) -> None:
    """Print what was measured."""
    import torch

    ready = time.perf_counter() - began
    page = os.sysconf("SC_PAGE_SIZE")
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.detach().reshape(-1).view(torch.uint8)[::page].sum()
    touched = time.perf_counter() - began
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    private = anonymous_bytes() - before
    found = {"ready": ready, "touched": touched, "private": private, "size": size, **facts}
    print(json.dumps(found), flush=True)


def anonymous_bytes() -> int:
    """Memory of this process that belongs to no file: what a copy of weights would be."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not count anonymous memory")


def output_of(module: Any) -> str:
    """SHA-256 of what a module makes of fixed input."""
    import torch

    torch.manual_seed(0)
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        if hasattr(module, "decode"):
            made = module.decode(torch.randn(1, 4, 8, 8).to(dtype))[0]
        else:
            conditions = torch.randn(1, 4, module.config.cross_attention_dim).to(dtype)
            made = module(torch.randn(1, 4, 16, 16).to(dtype), 10, conditions, **_added(module, dtype))[0]
    return hashlib.sha256(made.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _added(module: Any, dtype: Any) -> dict[str, Any]:
    """SDXL's UNet is told sizes and a pooled text besides."""
    import torch

    if module.config.addition_embed_type != "text_time":
        return {}
    pooled = module.config.projection_class_embeddings_input_dim - 6 * module.config.addition_time_embed_dim
    times = {"text_embeds": torch.zeros(1, pooled, dtype=dtype), "time_ids": torch.ones(1, 6, dtype=dtype)}
    return {"added_cond_kwargs": times}


def build(folder: str, shrink: str = "1") -> None:
    """Write two models in diffusers' layout, with random weights.

    ``pipeline``: in float32 a VAE as SDXL has it (335 MB) and a UNet as Stable Diffusion 1.5 has it (3.4 GB).
    ``xl``: in bfloat16 a UNet with SDXL's 1,680 tensors at half of their widths (1.3 GB).

    Args:
        folder: Where both go.
        shrink: All widths are divided by this; a power of two, at most 4.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    def widths(*full: int) -> tuple[int, ...]:
        return tuple(max(32, width // int(shrink) // 32 * 32) for width in full)

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=widths(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024,
        scaling_factor=0.13025,
        force_upcast=True,
    )
    vae.save_pretrained(f"{folder}/pipeline/vae")
    with torch.device("meta"):  # its own way to draw initial values takes half a minute
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, block_out_channels=widths(320, 640, 1280, 1280)
        )
        large = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=widths(160, 320, 640),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20) if shrink == "1" else (4, 8, 16),
            cross_attention_dim=1024,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ).to(torch.bfloat16)
    for module, where in ((unet, "pipeline"), (large, "xl")):
        filled = module.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in filled.parameters():
                parameter.uniform_(-0.02, 0.02)
        filled.save_pretrained(f"{folder}/{where}/unet")
    for name, parts in (("pipeline", ("unet", "vae")), ("xl", ("unet",))):
        classes = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
        pipeline = "StableDiffusionPipeline" if name == "pipeline" else "StableDiffusionXLPipeline"
        index = {"_class_name": pipeline, **{part: classes[part] for part in parts}}
        Path(folder, name, "model_index.json").write_text(json.dumps(index), encoding="ascii")


def attach(address: str, key: str, submodel: str, precision: Precision = "bfloat16") -> None:
    """Hold a component as a user's worker does; makes its output anew for each further line that comes."""
    model_class(submodel)  # imported before the clock runs, as from_pretrained's user did

    from modelkeep.worker import ModelLoader

    with start_signal(), ModelLoader(address) as loader:
        before, began = anonymous_bytes(), time.perf_counter()
        info = loader.get_model(key, submodel, precision=precision)
        loaded = time.perf_counter()
        with info as module:
            finish(module, before, began, get_model=loaded - began, lease=info.context.lease_id)
            for _ in sys.stdin:
                print(json.dumps({"output": output_of(module)}), flush=True)


def from_pretrained(folder: str, submodel: str, precision: str = "bfloat16") -> None:
    """Load it as diffusers does."""
    import torch

    cls = model_class(submodel)
    with start_signal():
        before, began = anonymous_bytes(), time.perf_counter()
        module = cls.from_pretrained(folder, subfolder=submodel, torch_dtype=getattr(torch, precision))
        finish(module, before, began)
        for _ in sys.stdin:
            print(json.dumps({"output": output_of(module)}), flush=True)


def load_file(path: str) -> None:
    """Map the tensors of a file, as safetensors' own does; there is no module."""
    import torch
    from safetensors.torch import load_file as load

    with start_signal():
        began = time.perf_counter()
        tensors = load(path)
        page = os.sysconf("SC_PAGE_SIZE")
        for tensor in tensors.values():
            tensor.reshape(-1).view(torch.uint8)[::page].sum()
        print(json.dumps({"touched": time.perf_counter() - began}), flush=True)


# In the benchmark.


class Child:
    """One of the functions of a benchmark in a fresh process."""

    def __init__(
        self, role: str, *arguments: str, script: str = __file__, python: str = sys.executable
    ) -> None:
        self._role = role
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._process = subprocess.Popen(
            [python, "-W", "ignore", script, role, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def answer(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self._role} process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self) -> dict[str, Any]:
        """Let it do what it is for."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()

    def kill(self) -> None:
        """SIGKILL; returns at once."""
        self._process.kill()

    def close(self) -> None:
        """Wait for its end."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()

    def ask(self) -> dict[str, Any]:
        """Let it make its output."""
        return self.run()


if __name__ == "__main__":
    roles: dict[str, Callable[..., None]] = {
        "build": build,
        "attach": attach,
        "from_pretrained": from_pretrained,
        "load_file": load_file,
    }
    roles[sys.argv[1]](*sys.argv[2:])
