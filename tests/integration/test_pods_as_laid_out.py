"""Services start as in the pods of deploy/kubernetes: as their user, with files that are root's."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import first_start
from modelkeep.defaults import SERVICES
from support import deployed
from support.ports import free_port
from support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """What docs/deployment.md has people make."""
    # Not where the tests have their temporary files, which is their user's alone.
    with tempfile.TemporaryDirectory(prefix="mk-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        assert first_start.main(["--certs", f"{folder}/secrets"]) == 0
        yield Path(folder)


def put_links(at: Path, files: dict[str, Path], mode: int, group: int) -> None:
    """Files as a kubelet mounts them: links to a folder that is turned as a whole."""
    turned = at / "..2026"
    turned.mkdir(parents=True)
    (at / "..data").symlink_to("..2026")
    for name, source in files.items():
        shutil.copyfile(source, turned / name)
        os.chown(turned / name, 0, group)
        (turned / name).chmod(mode)
        (at / name).symlink_to(f"..data/{name}")


def files_of(service: str, volume: dict[str, Any], secrets: Path) -> dict[str, Path]:
    """The keys of a mounted secret or ConfigMap, and where what they hold is here."""
    if "configMap" in volume:
        return {"callers.json": deployed.BASE / "callers.json"}
    if volume["name"] == "tokens":
        return {"tokens.json": secrets / "tokens.json"}
    named = {"ca.crt": "ca.pem", "tls.crt": f"{service}.pem", "tls.key": f"{service}.key"}
    return {key: secrets / name for key, name in named.items()}


def lay_out(service: str, root: Path, secrets: Path) -> None:
    """The folders of a service's container, below `root`."""
    pod = deployed.pods()[service]
    group = pod["securityContext"]["fsGroup"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    for mount in deployed.container(service)["volumeMounts"]:
        volume, at = volumes[mount["name"]], root / mount["mountPath"].lstrip("/")
        if mode := volume.get("secret", {}).get("defaultMode", 0o644 if "configMap" in volume else 0):
            put_links(at, files_of(service, volume, secrets), mode, group)
            continue
        at.mkdir(parents=True)
        if "hostPath" not in volume:
            os.chown(at, 0, group)
            at.chmod(0o2755 if mount.get("readOnly") else 0o2775)
        for before in pod.get("initContainers", []) if "hostPath" in volume else ():
            subprocess.run([text.replace("/host", str(at)) for text in before["command"]], check=True)


def environment_of(service: str, root: Path, probes: int) -> dict[str, str]:
    """The variables of its container, for files below `root` and ports that are free."""
    said = deployed.container_environment(service)
    below = {
        name: f"{root}{value}" if name.startswith("MODELKEEP_") and value.startswith("/") else value
        for name, value in said.items()
    }
    prefix = f"MODELKEEP_{service.upper()}"
    return below | {
        "PATH": os.environ["PATH"],
        "TMPDIR": f"{root}/tmp",
        f"{prefix}_HOST": "127.0.0.1",
        f"{prefix}_PORT": str(free_port()),
        f"{prefix}_METRICS_PORT": str(probes),
        f"{prefix}_DRAIN_DELAY_S": "0",
    }


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def interpreter(user: dict[str, Any]) -> str:
    """This one, or the system's of the same version where this one lies in a folder of root's."""
    for program in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            subprocess.run([program, "-c", ""], check=True, cwd="/", **user)
            return program
    assert "CI" not in os.environ, "another user has no Python of this version"
    pytest.skip("another user has no Python of this version")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_what_its_pod_gives_it(service: str, made: Path) -> None:
    context = deployed.pods()[service]["securityContext"]
    user: dict[str, Any] = {
        "user": context["runAsUser"],
        "group": context["runAsGroup"],
        "extra_groups": [],
    }
    root, probes = made / service, free_port()
    lay_out(service, root, made / "secrets")
    process = subprocess.Popen(
        [interpreter(user), "-P", "-m", f"modelkeep_{service}"],
        env=environment_of(service, root, probes) | {"PYTHONPATH": ":".join(sys.path)},
        cwd="/",
        **user,
    )
    try:
        wait_until(lambda: process.poll() is not None or is_ready(probes), timeout_s=90)
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(60)
    assert process.returncode == 0
