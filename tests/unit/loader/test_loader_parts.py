"""Smaller parts: VAE configurations from true shapes, sealed memory, budgets, socket folders."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from modelkeep.exceptions import InvalidModelException
from modelkeep.private import MAX_SOCKET_BYTES
from modelkeep.worker.classes import ALLOWED
from modelkeep.worker.manifest import Manifest
from modelkeep_convert import vaeconfig
from modelkeep_loader import config, processes
from modelkeep_loader.fd_socket import socket_folder
from support.modelshapes import table


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape in table(name).items()}


def test_the_true_vae_gets_its_published_configuration_from_either_layout() -> None:
    ldm = vaeconfig.infer(shapes_of("vae.ldm"), base="sd-1", scaling_factor=None)
    diffusers = vaeconfig.infer(shapes_of("vae.diffusers"), base="sd-1", scaling_factor=None)
    assert ldm == diffusers
    assert ldm["block_out_channels"] == [128, 256, 512, 512]
    assert (ldm["layers_per_block"], ldm["latent_channels"], ldm["in_channels"]) == (2, 4, 3)
    assert ldm["scaling_factor"] == 0.18215
    flux = vaeconfig.infer(shapes_of("vae.flux.diffusers"), base="flux", scaling_factor=None)
    assert (flux["latent_channels"], flux["use_quant_conv"], flux["shift_factor"]) == (16, False, 0.1159)
    sdxl = vaeconfig.infer(shapes_of("vae.ldm"), base="sdxl", scaling_factor=None)
    assert sdxl["scaling_factor"] == 0.13025
    told = vaeconfig.infer(shapes_of("vae.ldm"), base="sdxl", scaling_factor=0.5)
    assert told["scaling_factor"] == 0.5


def test_what_is_no_vae_or_of_an_unknown_family_is_refused() -> None:
    with pytest.raises(InvalidModelException):
        vaeconfig.infer(shapes_of("unet.sd-1.diffusers"), base="sd-1", scaling_factor=None)
    # A name costs nothing, and must not keep the helper process building for hours.
    far = {"encoder.down.0.block.99999999.conv1.weight": (128, 128, 3, 3)}
    with pytest.raises(InvalidModelException):
        vaeconfig.infer(shapes_of("vae.ldm") | far, base="sd-1", scaling_factor=None)
    with pytest.raises(InvalidModelException) as raised:
        vaeconfig.infer(shapes_of("vae.ldm"), base="any", scaling_factor=None)
    assert "base" in raised.value.message


def test_a_process_counts_as_dead_only_when_there_is_none() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessLookupError):
        processes.open_process(gone.pid)
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        assert processes.open_process(os.getpid()) == -1, "out of descriptors is no death"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_default_budget_is_half_of_what_the_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "cgroup" / "memory.max"
    groups = tmp_path / "groups"
    monkeypatch.setattr(config, "_CGROUPS", limit.parent)
    monkeypatch.setattr(config, "_OWN_CGROUPS", groups)
    host = config.available_memory()
    groups.write_text("0::/system.slice/loader.service\n")
    service = limit.parent / "system.slice" / "loader.service"
    service.mkdir(parents=True)
    limit.write_text("max\n")
    assert config.available_memory() == host
    (service / "memory.max").write_text("4000000\n")
    assert config.available_memory() == 4_000_000
    (service.parent / "memory.max").write_text("3000000\n")
    assert config.available_memory() == 3_000_000, "a group above it has less"
    groups.write_text("5:cpu,memory:/docker/abc\n1:name=systemd:/\n")
    older = limit.parent / "memory" / "memory.limit_in_bytes"
    older.parent.mkdir()
    older.write_text("2000000\n")
    assert config.available_memory() == 2_000_000
    groups.write_text("0::/\n")
    limit.write_text("1000000\n")
    assert config.available_memory() == 1_000_000
    assert config.LoaderSettings(data_dir=tmp_path).ram_budget == 500_000
    assert config.LoaderSettings(data_dir=tmp_path, ram_budget_bytes=7).ram_budget == 7


@pytest.mark.parametrize("text", ["gpu", "sim:0x64MiB", "sim:2x64MB", "sim:2x64MiB,faults=relative"])
def test_accelerators_that_are_none_are_found_before_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="names no accelerators: say auto, none or cuda"):
        config.LoaderSettings(data_dir=tmp_path, accelerator=text)


def test_the_descriptor_socket_gets_a_short_private_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = socket_folder(tmp_path / "one")
    assert first == socket_folder(tmp_path / "one")
    assert first.parent == tmp_path / "modelkeep"
    assert first != socket_folder(tmp_path / "two")
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert len(os.fsencode(socket_folder(tmp_path / "one") / "fd.sock")) <= MAX_SOCKET_BYTES


def test_a_manifest_reads_back_and_other_versions_are_refused() -> None:
    manifest = Manifest("diffusers", "AutoencoderKL", {"a": [1]}, "float16", {"b": "a"}, ("c",), ("c",))
    assert Manifest.from_json(manifest.to_json()) == manifest
    for text in (manifest.to_json().replace('"version":2', '"version":1'), "{}", "[]", "no"):
        with pytest.raises(InvalidModelException):
            Manifest.from_json(text)


def test_classes_come_from_a_list_that_needs_no_torch() -> None:
    assert ("diffusers", "AutoencoderKL") in ALLOWED
    assert {module.split(".")[0] for module in ALLOWED.values()} == {"diffusers", "transformers"}
