"""A worker process of the demo: ``python -m modelkeep.demo._decode LABEL``.

It holds a VAE and decodes, as told by lines of JSON on its input: first ``{"loader": address, "key": …}``,
then ``{"raw": path, "png": path}`` any number of times. Each is answered with one line of JSON. The end of
its input ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What from_pretrained needs as well; imported here, so that no time that is told contains it.
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from modelkeep.demo._answers import Answers
from modelkeep.demo._latents import decode, raw_bytes, weights_bytes, weights_digest, write_png
from modelkeep.exceptions import ModelkeepError
from modelkeep.taxonomy import SubModelType
from modelkeep.worker import ModelLoader, mapped_memory


def work(orders: Iterator[dict[str, Any]], answers: Answers, label: str) -> None:
    """Hold the VAE, and decode with it until there are no more orders."""
    order = next(orders, None)
    if order is None:
        return
    with ModelLoader(order["loader"], label=label) as loader:
        began = time.perf_counter()
        info = loader.get_model(order["key"], SubModelType.VAE, precision="bfloat16")
        loaded = time.perf_counter()
        with info as vae:
            ready = time.perf_counter()
            assert type(vae) is AutoencoderKL
            device, inode = mapped_memory(vae)
            answers.give(
                {
                    "lease": info.context.lease_id,
                    "memory": [device, inode],
                    "bytes": weights_bytes(vae),
                    "weights": weights_digest(vae),
                    "load_seconds": loaded - began,
                    "attach_seconds": ready - loaded,
                }
            )
            for order in orders:
                began = time.perf_counter()
                image = decode(vae)
                seconds = time.perf_counter() - began
                Path(order["raw"]).write_bytes(raw_bytes(image))
                if order["png"]:
                    write_png(Path(order["png"]), image)
                standing = info.context.away or info.context.lost
                answers.give({"seconds": seconds, "shape": list(image.shape), "loader": standing})


def main() -> None:
    """Serve until the input ends."""
    answers = Answers()
    answers.give({"ready": os.getpid()})
    try:
        work((json.loads(line) for line in sys.stdin), answers, sys.argv[1])
    except ModelkeepError as error:
        answers.give({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
