"""Runs deploy/compose.yaml without Docker, with images that buildah has: what ``make images`` tries them by.

A container is its image's root, read-only, with the user, environment, volumes, entry point and health check
that Compose and the image give it, without capabilities. What is not as in Docker: all share one network that
has a loopback and nothing else, so services' names are names of 127.0.0.1; they share process ids and the
host's devices; no call of the kernel is filtered, and no memory or processor is limited.
Needs root, util-linux and iproute2. ``BUILDAH`` is the command of buildah with its storage's options.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

COMPOSE: Final = Path(__file__).resolve().parents[1] / "deploy" / "compose.yaml"
SERVICES: Final = ("record", "download", "install", "loader")
GATEWAY: Final = "https://localhost:8443"
READY_SECONDS: Final = 180.0
_NO_NEW_PRIVILEGES: Final = 38  # PR_SET_NO_NEW_PRIVS of linux/prctl.h
# Another port for each one's probes, since the network is shared.
_PROBES_AT: Final = {name: str(19464 + at) for at, name in enumerate(SERVICES)}
_WORKER: Final = """
from modelkeep.client import Client

with Client() as client:
    (model,) = client.model_record_store.all_models()
    with client.model_loader.get_model(model.key, "vae", precision="bfloat16") as vae:
        print("a worker has", type(vae).__name__, vae.dtype)
"""


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def mounted(target: str) -> Iterator[dict[str, Any]]:
    """An image's root, which may be looked at until the end, and what its configuration says."""
    buildah = shlex.split(os.environ.get("BUILDAH", "buildah"))
    container = _run(*buildah, "from", f"localhost/modelkeep/{target}").strip()
    try:
        said = json.loads(_run(*buildah, "inspect", container))["Docker"]["config"]
        yield {"root": _run(*buildah, "mount", container).strip(), **said}
    finally:
        _run(*buildah, "rm", container)


@dataclass(frozen=True)
class Container:
    """One that runs: its process, and what runs another command inside it."""

    name: str
    process: subprocess.Popen[bytes]
    inside: Callable[[list[str]], subprocess.Popen[bytes]]
    health: list[str]
    patience: float

    def end(self) -> None:
        """Ask it to end, and have it end in time and without an error."""
        self.process.terminate()
        code = self.process.wait(self.patience)
        if code not in (0, -15):
            raise SystemExit(f"{self.name} ended with {code} when it was asked to")


class Suite:
    """The containers of one Compose file, below a folder.

    Args:
        images: What is mounted of each target.
        work: Volumes, mount points and logs get folders here.
    """

    def __init__(self, images: dict[str, dict[str, Any]], work: Path) -> None:
        self._images, self._work = images, work
        self._compose = yaml.safe_load(COMPOSE.read_text())["services"]
        loader, tools = self._compose["loader"], self._compose["tools"]
        volumes = [one for one in loader["volumes"] if not one.startswith("data:")]
        self._compose["worker"] = loader | {"environment": tools["environment"], "volumes": volumes}
        self._hosts = work / "hosts"
        self._hosts.write_text(f"127.0.0.1 localhost {' '.join((*SERVICES, 'gateway'))}\n")

    def _volume(self, name: str, like: Path) -> Path:
        """A named volume; a new one has the owner and the mode of what it covers, as with Docker."""
        place = self._work / "volumes" / name
        if not place.exists():
            place.mkdir(parents=True)
            before = like.stat()
            os.chown(place, before.st_uid, before.st_gid)
            place.chmod(before.st_mode & 0o7777)
        return place

    def start(self, name: str, command: list[str] | None = None) -> Container:
        """Start a service of the file, or ``worker``; a command takes the place of its entry point."""
        said = self._compose[name]
        config = self._images[said["image"].rpartition("/")[2]]
        place, root = self._work / "containers" / name, Path(config["root"])
        if not place.is_mount():
            self._mount(place, root, said)
        environment = dict(one.split("=", 1) for one in config["Env"]) | said.get("environment", {})
        if name in _PROBES_AT:
            environment[f"MODELKEEP_{name.upper()}_METRICS_PORT"] = _PROBES_AT[name]
        user, group = map(int, said["user"].split(":"))
        log = (self._work / f"{name}.log").open("ab")

        def enter() -> None:
            os.chroot(place)
            os.chdir("/")
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)

        def inside(command: list[str]) -> subprocess.Popen[bytes]:
            # env of the image, so that PATH of the image counts and not this machine's.
            whole = ["/usr/bin/env", *command]
            return subprocess.Popen(whole, env=environment, preexec_fn=enter, stdout=log, stderr=log)

        entry = said.get("entrypoint") or config.get("Entrypoint") or []
        whole = [*entry, *(said.get("command") or config.get("Cmd") or [])] if command is None else command
        health = (config.get("Healthcheck") or {"Test": ["CMD"]})["Test"][1:]
        return Container(name, inside(whole), inside, health, float(said["stop_grace_period"].rstrip("s")))

    def _mount(self, place: Path, root: Path, said: dict[str, Any]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (root / "etc" / "hosts").touch()
        _run("mount", "--bind", str(root), str(place))
        _run("mount", "-o", "remount,bind,ro", str(place))
        _run("mount", "--bind", str(self._hosts), str(place / "etc/hosts"))
        _run("mount", "-t", "proc", "proc", str(place / "proc"))
        _run("mount", "--rbind", "/dev", str(place / "dev"))
        for one in said["tmpfs"]:
            at, _, options = one.partition(":")
            _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", f"{place}{at}")
        for one in said.get("volumes", []):
            volume, at, *mode = one.split(":")
            _run("mount", "--bind", str(self._volume(volume, place / at[1:])), f"{place}{at}")
            if mode == ["ro"]:
                _run("mount", "-o", "remount,bind,ro", f"{place}{at}")

    def once(self, name: str, command: list[str] | None = None) -> None:
        """Run a container to its end, and say what it said.

        Raises:
            SystemExit: It ended with an error.
        """
        code = self.start(name, command).process.wait(READY_SECONDS)
        said = (self._work / f"{name}.log").read_text()
        print(said, end="")
        (self._work / f"{name}.log").unlink()
        if code != 0:
            raise SystemExit(f"images: {name} ended with {code}")

    def healthy(self, one: Container) -> None:
        """Wait until a container's health check is content; one that has none is asked for the page."""
        until = time.monotonic() + READY_SECONDS
        while not (one.inside(one.health).wait() == 0 if one.health else self._page()):
            if one.process.poll() is not None or time.monotonic() > until:
                print((self._work / f"{one.name}.log").read_text()[-4000:], file=sys.stderr)
                raise SystemExit(f"images: {one.name} does not become ready")
            time.sleep(0.5)
        print(f"images: {one.name} is healthy")

    def _page(self) -> bool:
        try:
            return "<!doctype html>" in self.get("/").lower()
        except OSError:
            return False

    def get(self, path: str) -> str:
        """What the gateway answers to the owner; its certificate has to be of the authority in the volume."""
        certs = self._work / "volumes" / "certs"
        trust = ssl.create_default_context(cafile=str(certs / "ca.pem"))
        token = (certs / "owner.token").read_text().strip()
        asked = urllib.request.Request(GATEWAY + path, headers={"authorization": f"Bearer {token}"})
        # Not by the proxy that a mirror of packages may need: it does not know this loopback.
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with direct.open(asked, timeout=10) as answer:
            return str(answer.read().decode())


def tried(images: dict[str, dict[str, Any]], work: Path) -> None:
    """Start what there is, use it, and have it end."""
    _run("ip", "link", "set", "lo", "up")
    suite = Suite(images, work)
    suite.once("certs")
    running: dict[str, Container] = {}
    with ExitStack() as ending:
        for name in (*SERVICES, "gateway"):
            if name in images:
                running[name] = suite.start(name)
                ending.callback(running[name].process.kill)
        for one in running.values():
            suite.healthy(one)
        if running.keys() >= {"gateway", "record"}:
            print(f"images: GET /v1/models through the gateway: {suite.get('/v1/models')}")
        if running.keys() >= set(SERVICES):
            model = "/var/lib/modelkeep/models/tiny-sd"
            built = running["loader"].inside(["modelkeep", "demo", "--build", model])
            if built.wait(READY_SECONDS) != 0:
                raise SystemExit("images: no model could be built, as loader.log says")
            suite.once("tools", ["modelkeep", "install", model])
            suite.once("tools", ["modelkeep", "status"])
            suite.once("worker", ["python", "-P", "-c", _WORKER])
        for one in reversed(running.values()):
            one.end()
    print("images: all ended when they were asked to")


def main() -> int:
    """Mount the images of the targets that are named, and try them in namespaces of their own."""
    work, *targets = sys.argv[1:]
    if work == "--inside":
        tried(json.load(sys.stdin), Path(targets[0]))
        return 0
    with ExitStack() as mounts:
        mounts.callback(shutil.rmtree, Path(work) / "volumes", ignore_errors=True)  # there are keys in it
        images = {target: mounts.enter_context(mounted(target)) for target in targets}
        inside = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", sys.executable, __file__]
        done = subprocess.run([*inside, "--inside", work], input=json.dumps(images), text=True, check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
