"""Which folder of installed models a suite has: one, for all its services."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelkeep.defaults import EXIT_CONFIG, MODELS
from modelkeep.supervisor._errors import SuiteError


def models_folder(
    given: Path | None, data_dir: Path, services: Sequence[str], environ: Mapping[str, str]
) -> Path | None:
    """The folder of models for all services, absolute.

    Args:
        given: What the caller says.
        data_dir: The suite's data folder, in which it is by default.
        services: The services that shall start.
        environ: Their environment; a folder that it names for one of them is taken for all.

    Returns:
        None if nobody names one here, but a service has a file of settings, which may.

    Raises:
        SuiteError: exit code 78 if the environment names several.
    """
    if given is not None:
        return given.expanduser().absolute()
    named = {
        variable: environ[variable]
        for variable in (f"MODELKEEP_{service.upper()}_MODELS_DIR" for service in services)
        if environ.get(variable)
    }
    folders = {os.path.realpath(Path(text).expanduser()): Path(text) for text in named.values()}
    if len(folders) > 1:
        said = ", ".join(f"{variable}={text}" for variable, text in named.items())
        raise SuiteError(
            f"The services of a suite have one folder of models, and {said} name {len(folders)}. "
            "Name it once: modelkeep up --models-dir FOLDER, or MODELKEEP_MODELS_DIR",
            exit_code=EXIT_CONFIG,
        )
    for folder in folders.values():
        return folder.expanduser().absolute()
    if any(environ.get(f"MODELKEEP_{service.upper()}_CONFIG") for service in services):
        return None
    return data_dir / MODELS
