"""What kustomize makes of deploy/kubernetes, by the schemas of Kubernetes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import deployed

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

#: The first that has all that the base needs for good (ReadWriteOncePod), and the newest that the tool knows.
VERSIONS = ("1.29", "1.37")
OVERLAYS = [
    path.parent.name for path in (deployed.DEPLOY / "kubernetes/overlays").glob("*/kustomization.yaml")
]
Manifest = dict[str, Any]


def objects(folder: str) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(deployed.kustomized(folder)) if one]


def complaints(manifests: list[Manifest], folder: Path) -> list[str]:
    """What is wrong with them, a line each; a kind that is not known, too, of which the tool only warns."""
    file = folder / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    versions = [text for version in VERSIONS for text in ("--kubernetes-version", version)]
    done = subprocess.run(
        [deployed.tool("kubernetes-validate"), "--strict", *versions, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    told = done.stdout.splitlines()
    wrong = [line for line in told if not line.startswith("INFO ")]
    assert wrong or len(told) == len(manifests) * len(VERSIONS)
    return wrong


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_all_that_is_applied_is_as_kubernetes_wants_it(folder: str, tmp_path: Path) -> None:
    assert complaints(objects(folder), tmp_path) == []


def pod(manifest: Manifest) -> Any:
    return manifest["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda one: pod(one)["containers"][0].update(imagePullPolcy="Always"), "imagePullPolcy"),
        (lambda one: pod(one)["containers"][0]["livenessProbe"].update(path="/livez"), "path"),
        (lambda one: one["spec"].update(replicas="one"), "replicas"),
        (lambda one: pod(one)["containers"][0]["env"][0].update(value=5), "env"),
        (lambda one: one["spec"].pop("selector"), "selector"),
        (lambda one: pod(one)["volumes"][0].pop("name"), "volumes"),
        (lambda one: one.update(apiVersion="apps/v1beta1"), "apps/v1beta1"),
        (lambda one: one.update(kind="Deploymnt"), "Deploymnt"),
    ],
)
def test_what_kubernetes_would_refuse_is_found(
    spoil: Callable[[Manifest], object], named: str, tmp_path: Path
) -> None:
    (record,) = (
        one for one in objects("base") if (one["kind"], one["metadata"]["name"]) == ("Deployment", "record")
    )
    spoil(record)
    found = complaints([record], tmp_path)
    assert len(found) == len(VERSIONS)
    assert all(named in line for line in found), found
