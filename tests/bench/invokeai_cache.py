"""InvokeAI's own cache of models, in an environment of its own, as sharing.py compares with it.

As a script, run there: ``python invokeai_cache.py cached FOLDER`` loads a VAE as InvokeAI's loader of
diffusers models does (from_pretrained with the dtype), puts it into a ModelCache and locks it. InvokeAI's
cache is of one process: a second process loads anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: What InvokeAI's cache imports besides what tests/data/invokeai names.
MORE = (
    "opencv-python-headless==5.0.0.93",
    "onnx==1.23.2",
    "ml-dtypes==0.6.0",
    "compel==2.5.1",
    "pyparsing==3.3.3",
)


def python() -> Path | None:
    """The environment's interpreter, made at first use; None where no package index is to make it of."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support import invokeai_environment

    try:
        found = invokeai_environment.python()
    except AssertionError:
        return None
    ready = found.parents[1] / "ready-cache"
    if not ready.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(found), *MORE]
        if subprocess.run(command, check=False).returncode != 0:
            return None
        ready.touch()
    return found


def cached(folder: str) -> None:
    """Load, put, lock; print what was measured, then wait for the end."""
    with tempfile.TemporaryDirectory() as root:
        os.environ["INVOKEAI_ROOT"] = root
        sys.argv = sys.argv[:1]  # importing InvokeAI reads it
        import torch
        from diffusers import AutoencoderKL
        from invokeai.backend.model_manager.load.load_base import LoadedModelWithoutConfig
        from invokeai.backend.model_manager.load.model_cache.model_cache import ModelCache

        cache = ModelCache(1.0, False, True, max_ram_cache_size_gb=4.0, execution_device="cpu")
        print(json.dumps({"imported": True}), flush=True)
        sys.stdin.readline()
        before, began = _anonymous(), time.perf_counter()
        model = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.bfloat16, local_files_only=True)
        cache.put("vae", model)
        with LoadedModelWithoutConfig(cache.get("vae"), cache) as vae:
            ready = time.perf_counter() - began
            size = sum(parameter.numel() * parameter.element_size() for parameter in vae.parameters())
            private = _anonymous() - before
            print(json.dumps({"ready": ready, "private": private, "size": size}), flush=True)
            sys.stdin.readline()
        os._exit(0)  # its threads need not be waited for


def _anonymous() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not count anonymous memory")


if __name__ == "__main__":
    cached(sys.argv[2])
