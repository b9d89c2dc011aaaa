"""deploy/kubernetes is what kustomize takes, and what it makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from support import deployed

pytestmark = pytest.mark.interop


def built(folder: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of a kustomization by kind and name."""
    made = [one for one in yaml.safe_load_all(deployed.kustomized(folder)) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in made}


def loader_of(made: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    pod = made["DaemonSet", "loader"]["spec"]["template"]["spec"]
    return {
        "environment": {one["name"]: one["value"] for one in pod["containers"][0]["env"]},
        "limits": pod["containers"][0]["resources"]["limits"],
        "containers": [one["name"] for one in pod["containers"]],
    }


def test_the_base_is_whole() -> None:
    made = built("base")
    written = {(one["kind"], one["metadata"]["name"]) for one in deployed.objects()}
    generated = {(kind, name) for kind, name in made if kind == "ConfigMap"}
    assert set(made) == written | generated
    assert {name.rsplit("-", 1)[0] for _, name in generated} == {"callers"}
    assert all(one["metadata"].get("namespace", "modelkeep") == "modelkeep" for one in made.values())
    for one in made.values():
        pod = one.get("spec", {}).get("template", {}).get("spec")
        for container in (*pod["containers"], *pod.get("initContainers", [])) if pod else ():
            assert container["image"].count(":") == 1, container["image"]


def test_the_component_for_gpus_changes_the_loader_and_nothing_else() -> None:
    base, gpu = built("base"), built("overlays/gpu")
    assert {name for name in base if base[name] != gpu[name]} == {("DaemonSet", "loader")}
    before, after = loader_of(base), loader_of(gpu)
    assert after["environment"] == before["environment"] | {"MODELKEEP_LOADER_ACCELERATOR": "cuda"}
    assert after["limits"] == before["limits"] | {"nvidia.com/gpu": "1"}
    assert after["containers"] == before["containers"]
