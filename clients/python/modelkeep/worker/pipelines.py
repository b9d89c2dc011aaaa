"""Whole pipelines of diffusers over leased components: one lease for all of them, all or none.

A model's files never choose code: the pipeline's class is one of diffusers' own, its modules, tokenizers and
schedulers are lent, and what else it names, such as a feature extractor, is made in the worker if its class
is one of those that the loader would lend.
"""

from __future__ import annotations

import builtins
import inspect
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import diffusers
import torch

from modelkeep.exceptions import InvalidModelException
from modelkeep.modeljson import read_object
from modelkeep.taxonomy import BaseModelType, ModelType
from modelkeep.worker.info import ModelLocker
from modelkeep.worker.kept import KeptModel
from modelkeep.worker.objectclasses import OBJECTS, resolve_object

_INDEX: Final = "model_index.json"


@dataclass(frozen=True, slots=True)
class PipelineInfo:
    """A main model whose components are loaded, and the way to its pipeline.

    Use it as a context manager::

        with info as pipeline:
            image = pipeline("a cat").images[0]

    Entered, it holds one lease on every component. Entering it from outside makes a new pipeline each time;
    the last one goes on working after the exit.

    Attributes:
        context: What locks it; entering the PipelineInfo enters this.
        key: The model's key.
        name: Its name.
        base_model: Its family; a plain string where this version does not know it.
        type: ModelType.Main.
        location: Absolute path of the model's files on the loader's host.
        hash: Hash of the model as its record has it.
        device: Where it computes, as torch calls it: the first accelerator among those of its components,
            else the CPU.
        precisions: The data type of each component that has weights.
    """

    context: ModelLocker
    key: str
    name: str
    base_model: BaseModelType | str
    type: ModelType
    location: Path
    hash: str
    device: torch.device
    precisions: Mapping[str, torch.dtype]

    def keep(self) -> KeptModel:
        """Lock it for many uses, between which the loader may have its accelerators' memory back.

        Raises:
            ModelkeepError: As entering does.
        """
        return self.context.keep()

    def __enter__(self) -> Any:
        return self.context.__enter__()

    def __exit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.context.__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to put a pipeline together.

    Attributes:
        cls: Its class.
        settings: Arguments that are no components, and components that are there for every pipeline.
        lent: Components that are leased.
        location: The model's files.
    """

    cls: Any
    settings: Mapping[str, Any]
    lent: tuple[str, ...]
    location: Path

    def pipeline(self, leased: Mapping[str, Any]) -> Any:
        """The pipeline over leased components, by name."""
        arguments = {name: leased[name] for name in self.lent}
        made = self.cls(**self.settings, **arguments)
        made.register_to_config(_name_or_path=str(self.location))  # as from_pretrained does
        return made


def parts_of(pipeline_class: Any) -> set[str]:
    """The names of the components that a class of pipelines takes."""
    return set(pipeline_class._get_signature_keys(pipeline_class)[0])


def recipe(
    location: Path, lendable: Collection[str], given: Mapping[str, Any], pipeline_class: Any = None
) -> Recipe:
    """Read what a pipeline is made of.

    Args:
        location: The model's folder, or its one file.
        lendable: Components that are lent.
        given: Components and settings that take the place of the model's own; None for a component leaves it
            out, where the pipeline does without.
        pipeline_class: The class, instead of the one that the model names.

    Raises:
        InvalidModelException: Something is missing, or is nothing that may be made.
    """
    index = _index(location)
    cls = pipeline_class if pipeline_class is not None else _class_of(index, location)
    expected = parts_of(cls)
    optional = set(cls._optional_components)
    settings = {
        name: index[name]
        for name in cls._get_signature_keys(cls)[1]
        if name in index and name not in optional
    }
    # A class of one's own choice may have other parts than the model's.
    lent = tuple(name for name in lendable if name in expected and name not in given)
    settings |= given
    for name in sorted(expected.difference(lent, given)):
        entry = index.get(name)
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
            settings[name] = _made(entry[0], entry[1], location / name, cls)
        elif name in optional or _has_default(cls, name):
            settings[name] = None
        else:
            raise _lacks(cls, name, location, "the model does not name one")
    return Recipe(cls, settings, lent, location)


def _index(location: Path) -> dict[str, Any]:
    """What a model's folder says of its pipeline; nothing for a model in one file."""
    path = location / _INDEX
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except NotADirectoryError:
        return {}
    except OSError as error:
        raise InvalidModelException(
            f"What the pipeline is made of cannot be read: {path}: {error.strerror}.",
            metadata={"path": str(path), "detail": str(error.strerror)},
            remedy="Run the worker where it sees the model's folder, as the loader does.",
        ) from None
    try:
        return read_object(descriptor, path)
    finally:
        os.close(descriptor)


def _class_of(index: Mapping[str, Any], location: Path) -> Any:
    name = index.get("_class_name")
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if inspect.isclass(found) and issubclass(found, diffusers.DiffusionPipeline):
        return found
    said = f"names {name!r}, which is" if name else "names none, and"
    raise InvalidModelException(
        f"The pipeline's class has to be one of diffusers': the model {said} none of them.",
        metadata={"path": str(location), "detail": f"pipeline class {name}"},
        remedy="Say which it is, such as get_pipeline(key, pipeline_class=StableDiffusionPipeline).",
    )


def _made(library: str, class_name: str, folder: Path, cls: Any) -> Any:
    """An object without weights, from its folder."""
    if (library, class_name) not in OBJECTS:
        raise _lacks(cls, folder.name, folder, f"{class_name} of {library} is not lent")
    try:
        return resolve_object(library, class_name).from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidModelException(
            f"The {folder.name} of the pipeline, a {class_name}, cannot be read: {str(error)[:300]}",
            metadata={"path": str(folder), "detail": f"{folder.name}: {type(error).__name__}"},
            remedy=f"Fetch its files anew, or pass one: get_pipeline(key, {folder.name}=…).",
        ) from None


def _has_default(cls: Any, name: str) -> bool:
    return inspect.signature(cls.__init__).parameters[name].default is not inspect.Parameter.empty


def _lacks(cls: Any, name: str, path: Path, why: str) -> InvalidModelException:
    return InvalidModelException(
        f"A {cls.__name__} needs a {name}, and has none: {why}.",
        metadata={"path": str(path), "detail": f"component {name}: {why}"},
        remedy=f"Pass one: get_pipeline(key, {name}=…); None leaves out what the pipeline can do without.",
    )
