"""What deploy/ says, read as data: containers of Kubernetes and Compose, stages of the Dockerfile, units."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from modelkeep_common.settings import ServiceSettings, load_settings
from modelkeep_download.config import DownloadSettings
from modelkeep_install.config import InstallSettings
from modelkeep_loader.config import LoaderSettings
from modelkeep_record.config import RecordSettings

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
BASE: Final = DEPLOY / "kubernetes" / "base"
UNITS: Final = DEPLOY / "systemd"
CLASSES: Final[Mapping[str, type[ServiceSettings]]] = {
    "record": RecordSettings,
    "download": DownloadSettings,
    "install": InstallSettings,
    "loader": LoaderSettings,
}


def settings_of(
    service: str,
    environment: Mapping[str, str],
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> ServiceSettings:
    """The settings that a service would have; those of its class refuse what they do not know."""
    with monkeypatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        return load_settings(CLASSES[service], arguments)


@cache
def objects(kind: str = "") -> list[dict[str, Any]]:
    """The objects of the kustomize base, of one kind or of all."""
    found = []
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    for name in listed:
        found += [one for one in yaml.safe_load_all((BASE / name).read_text()) if kind in ("", one["kind"])]
    return found


@cache
def kustomized(folder: str) -> str:
    """What kustomize makes of a folder of deploy/kubernetes, as YAML."""
    program = tool("kustomize")
    command = [program, "build", str(DEPLOY / "kubernetes" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def tool(name: str) -> str:
    """The path of a program of scripts/tools.sh; without it the test is skipped, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        assert "CI" not in os.environ, f"{name} is missing: scripts/tools.sh {name}"
        pytest.skip(f"{name} is missing: scripts/tools.sh {name}")
    return found


@cache
def pods() -> dict[str, dict[str, Any]]:
    """The pods of the base by the name of what makes them."""
    made = [one for one in objects() if "template" in one.get("spec", {})]
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in made}


def container(service: str) -> dict[str, Any]:
    """The container of a service in its pod."""
    (found,) = (one for one in pods()[service]["containers"] if one["name"] == service)
    return dict(found)


def container_environment(service: str) -> dict[str, str]:
    """The variables of a service's container, with those of its image."""
    return stage_environment(service) | {one["name"]: one["value"] for one in container(service)["env"]}


@cache
def compose() -> dict[str, Any]:
    """Services of the Compose file by name."""
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"])


@cache
def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"FROM \S+ AS (\S+)", line):
            lines = found.setdefault(match[1], [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


def stage_environment(service: str) -> dict[str, str]:
    """The variables that the image of a service sets for it."""
    pairs = [word for line in stages()[service] if line.startswith("ENV ") for word in shlex.split(line)[1:]]
    return dict(pair.split("=", 1) for pair in pairs)


def command_of(service: str, instruction: str) -> list[str]:
    """ENTRYPOINT, or the command of HEALTHCHECK, of the image of a service."""
    (line,) = (line for line in stages()[service] if line.startswith(instruction))
    return list(json.loads(line[line.index("[") :]))


def unit(service: str) -> dict[str, list[str]]:
    """The settings of a service's unit, those that it shares with the others before its own."""
    said: dict[str, list[str]] = {}
    for path in (UNITS / "modelkeep-.service.d" / "50-shared.conf", UNITS / f"modelkeep-{service}.service"):
        for line in path.read_text().replace("\\\n", " ").splitlines():
            if "=" in line and not line.startswith("#"):
                name, _, value = line.partition("=")
                said.setdefault(name, []).append(value.strip())
    return said


def volumes_at(service: str) -> Iterator[Path]:
    """Where something is mounted into a service's container."""
    for mount in container(service)["volumeMounts"]:
        yield Path(mount["mountPath"])


def seconds(text: str) -> float:
    """A duration of Compose: 45s."""
    assert text.endswith("s"), text
    return float(text[:-1])
