"""What a worker does with weights on an accelerator; see ``support.workers``."""

from __future__ import annotations

import hashlib
from typing import Any

#: The loader's side of this process, what is kept, and what is captured.
_here: dict[str, Any] = {}


def keep_on(address: str, key: str, submodel: str, device: str, **terms: Any) -> dict[str, Any]:
    """Keep a component on a device, in bfloat16; where that is, and what it took of the free bytes there."""
    import gc

    import torch

    from modelkeep.worker import ModelLoader

    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.zeros(1, device="cuda")  # the context is not the weights'
    gc.collect()
    loader = _here.setdefault("loader", ModelLoader(address, max_wait_s=20.0))
    info = loader.get_model(key, submodel, precision="bfloat16", device=device, **terms)
    before = torch.cuda.mem_get_info()[0] if is_cuda else 0
    _here.update(kept=info.keep(), device=info.device)
    after = torch.cuda.mem_get_info()[0] if is_cuda else 0
    return {"device": str(info.device), "taken_bytes": before - after}


def result_on() -> str:
    """SHA-256 of what the kept module makes of fixed inputs."""
    with _here["kept"] as module:
        return _result(module, _here["device"])


def original_on(folder: str, class_name: str, device: str) -> str:
    """The same of what from_pretrained brings to the device."""
    import diffusers
    import torch
    import transformers

    cls: Any = getattr(diffusers, class_name, None) or getattr(transformers, class_name)
    dtype = {"torch_dtype" if hasattr(diffusers, class_name) else "dtype": torch.bfloat16}
    more = {"device_map": device} if device.startswith("cuda") else {}
    module = cls.from_pretrained(folder, **dtype, **more).eval()
    for parameter in module.parameters() if not more else ():
        parameter.data = parameter.data.clone()  # as they lie in a small file kernels may round otherwise
    return _result(module, torch.device(device if more else "cpu"))


def is_demoted() -> bool:
    """Whether the loader had the memory back."""
    return bool(_here["kept"].demoted)


def capture() -> str:
    """Capture the kept module's work as a CUDA graph; what it makes."""
    import torch

    with _here["kept"] as module, torch.no_grad():
        run = _work(module, _here["device"])
        stream: Any = torch.cuda.Stream
        beside = stream()
        with torch.cuda.stream(beside):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = run()
        _here.update(graph=graph, made=made)
    return replay()


def replay() -> str:
    """Run what was captured anew."""
    with _here["kept"]:
        _here["made"].zero_()
        _here["graph"].replay()
        return _digest(_here["made"])


def write_on() -> str:
    """Write into a weight; what comes of it, if the process is there to tell."""
    import torch

    with _here["kept"] as module, torch.no_grad():
        try:
            next(module.parameters()).fill_(7)
            torch.cuda.synchronize()
        except RuntimeError as error:
            return str(error).split("\n")[0]
    return "it went through"


def let_go_on() -> None:
    """Release what is kept."""
    _here.pop("kept").release()
    _here.pop("graph", None)


def _work(module: Any, device: Any) -> Any:
    """The module's work on inputs that are there already."""
    import torch

    like = {"device": device, "dtype": next(module.parameters()).dtype}

    def spread(*shape: int) -> torch.Tensor:
        count = int(torch.tensor(shape).prod())
        return torch.linspace(-1, 1, count).reshape(shape).to(**like)

    name = type(module).__name__
    if name == "AutoencoderKL":
        latents = spread(1, module.config.latent_channels, 4, 4)
        return lambda: module.decode(latents)[0]
    if name == "UNet2DConditionModel":
        sample = spread(1, module.config.in_channels, 8, 8)
        words = spread(1, 5, module.config.cross_attention_dim)
        step = torch.tensor(7, device=device)
        return lambda: module(sample, step, words).sample
    tokens = torch.arange(3, 12, device=device)[None]
    return lambda: module(tokens)[0]


def _result(module: Any, device: Any) -> str:
    import torch

    with torch.no_grad():
        return _digest(_work(module, device)())


def _digest(made: Any) -> str:
    import torch

    data = made.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()
