"""Records in memory and weights in small, for tests of plans. Real files, no torch."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from modelkeep.headers import Tensor
from modelkeep_common.paths import AllowedRoots
from modelkeep_convert.weightfile import lay_out
from modelkeep_loader.domain.components import ComponentRef, Plan
from modelkeep_loader.domain.find import Finder
from modelkeep_loader.domain.plan import Planner
from modelkeep_loader.domain.records import FileFacts, Record

KEY, OTHER = "ab" * 16, "cd" * 16
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Shelf:
    """Records in memory. Of a model whose files are not set, every file is listed, without a digest."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self.records: dict[str, Record] = {}
        self.listed: dict[str, Mapping[str, FileFacts]] = {}

    async def get(self, key: str) -> Record:
        return self.records[key]

    async def files(self, key: str) -> Mapping[str, FileFacts]:
        if key in self.listed:
            return self.listed[key]
        return await asyncio.to_thread(everything_in, self.models / self.records[key].path)

    async def owner(self, paths: Sequence[str], root_id: str) -> Record | None:
        found = [one for one in self.records.values() if one.path in paths]
        return max(found, key=lambda one: len(one.path), default=None)


def everything_in(place: Path) -> dict[str, FileFacts]:
    """A list of all that is there, which claims nothing."""
    paths = place.rglob("*") if place.is_dir() else [place]
    names = [p.relative_to(place).as_posix() if p != place else p.name for p in paths]
    return {name: FileFacts(0, None, "") for name in names}


def planner_of(shelf: Shelf, **more: Any) -> Planner:
    finder = Finder(
        shelf.models,
        lambda: "root",
        AllowedRoots([shelf.models, *more.pop("roots", ())], data_dir=Path("/nowhere")),
    )
    return Planner(shelf, finder, **{"budget_bytes": 1 << 30, **more})


def weights(path: Path, dtype: str = "F32", fill: int = 0, names: tuple[str, ...] = ("a", "b")) -> Path:
    layout = lay_out([Tensor(name, dtype, (8, 8)) for name in names], {})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(layout.head + bytes([fill]) * (layout.size_bytes - len(layout.head)))
    return path


def pipeline(folder: Path) -> Path:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
    }
    weights(folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "vae" / "config.json").write_text(
        json.dumps({"_class_name": "AutoencoderKL", "sample_size": 1})
    )
    weights(folder / "unet" / "diffusion_pytorch_model.safetensors")
    unet = {"_class_name": "UNet2DConditionModel", "upcast_attention": False}
    (folder / "unet" / "config.json").write_text(json.dumps(unet))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def record(path: str, **more: Any) -> Record:
    values: dict[str, Any] = {
        "key": KEY,
        "revision": 1,
        "name": "tiny",
        "type": "main",
        "format": "diffusers",
        "base": "sd-1",
        "path": path,
        "root_id": "root",
        "hash": "h",
    }
    common = {one.name for one in fields(Record)}
    config = {name: value for name, value in more.items() if name not in common}
    return Record(**(values | {name: more[name] for name in more.keys() & common}), config=config)


def facts_of(path: Path) -> FileFacts:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FileFacts(path.stat().st_size, path.stat().st_mtime, f"sha256:{digest}")


def hashed(folder: Path) -> dict[str, FileFacts]:
    """What InstallService would write down about a folder's files."""
    return {p.relative_to(folder).as_posix(): facts_of(p) for p in folder.rglob("*") if p.is_file()}


async def plan(planner: Planner, submodel: str = "vae", precision: str = "auto", key: str = KEY) -> Plan:
    (made,) = await planner.plan([ComponentRef(key, submodel, precision)])
    return made
