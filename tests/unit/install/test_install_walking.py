"""Which files and folders a scan takes as models: by their names alone, each once."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from modelkeep.exceptions import ForbiddenPathException
from modelkeep_install.scan.walking import Found, Trouble, Walk, identity_of, is_model_folder


def write(top: Path, *names: str) -> None:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def walked(walk: Walk, top: Path) -> tuple[list[str], dict[str, str]]:
    """(models, troubles by reason), by their paths beneath a folder."""
    models, troubles = [], {}
    for item in walk:
        name = os.path.relpath(item.path, top)
        if isinstance(item, Trouble):
            troubles[name] = item.error.reason
        elif not item.is_twin:
            models.append(name)
    return models, troubles


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (["model_index.json"], True),
        (["config.json", "diffusion_pytorch_model.safetensors"], True),
        (
            [
                "config.json",
                "diffusion_pytorch_model.fp16.safetensors",
                "diffusion_pytorch_model.safetensors",
            ],
            True,
        ),
        (["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], True),
        (["config.json", "pytorch_model.bin"], True),
        (["model.safetensors.index.json", "part-1.safetensors"], True),
        (["diffusion_pytorch_model.safetensors.index.fp16.json"], True),
        (["pytorch_lora_weights.safetensors"], True),
        (["adapter_model.safetensors", "adapter_config.json"], True),
        # what people keep beside each other is a model each
        (["config.json", "a.safetensors", "b.safetensors"], False),
        (["config.json", "model.safetensors", "mine.safetensors"], False),
        (["pytorch_lora_weights.safetensors", "ink.safetensors"], False),
        (["model.safetensors"], False),
        (["config.json"], False),
        (["notes.txt", "ink.preview.png"], False),
        ([], False),
    ],
)
def test_a_folder_is_one_model_by_the_names_in_it(names: list[str], one: bool) -> None:
    assert is_model_folder(names) is one


def test_files_are_models_by_their_suffix_and_folders_hide_what_is_in_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.safetensors",
        "b.SFT",
        "c.ckpt",
        "d.gguf",
        "e.bin",
        "notes.txt",
        "a.civitai.info",
        "a.preview.png",
        "config.yaml",
        "pipeline/model_index.json",
        "pipeline/unet/diffusion_pytorch_model.safetensors",
        "pipeline/v1-5-pruned.safetensors",
        "deep/er/x.safetensors",
        ".hidden.safetensors",
        ".cache/y.safetensors",
        "__pycache__/z.safetensors",
        "models--a--b/blobs/w.safetensors",
        "tagged/CACHEDIR.TAG",
        "tagged/v.safetensors",
    )
    walk = Walk([tmp_path])
    models, troubles = walked(walk, tmp_path)
    assert models == [
        "a.safetensors",
        "b.SFT",
        "c.ckpt",
        "d.gguf",
        "e.bin",
        "deep/er/x.safetensors",
        "pipeline",
    ]
    assert not troubles
    assert walk.folders == 5  # the pipeline and the tagged cache were looked into and no further
    # a folder that is named itself is looked through though it is a cache
    assert walked(Walk([tmp_path / "tagged"]), tmp_path)[0] == ["tagged/v.safetensors"]


def test_links_are_followed_once_and_last_so_that_a_file_has_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, "z/real.safetensors", "outside/other.safetensors")
    top = tmp_path / "top"
    top.mkdir()
    os.rename(tmp_path / "z", top / "z")
    os.symlink("z/real.safetensors", top / "a.safetensors")
    os.link(top / "z/real.safetensors", top / "z/hard.safetensors")
    os.symlink(".", top / "loop")
    os.symlink(top, top / "z" / "up")
    os.symlink(tmp_path / "outside", top / "linked")
    os.symlink("gone", top / "gone.safetensors")
    os.symlink("gone", top / "gone-folder")
    os.symlink("/etc/hostname", top / "notes.txt")
    assert walked(Walk([top]), top) == (
        ["z/hard.safetensors", "linked/other.safetensors"],
        {"gone.safetensors": "SOURCE_NOT_FOUND"},
    )
    twins = [
        os.path.relpath(item.path, top) for item in Walk([top]) if isinstance(item, Found) and item.is_twin
    ]
    assert twins == ["z/real.safetensors", "a.safetensors"]


def test_what_is_refused_is_told_and_the_rest_is_found(tmp_path: Path) -> None:
    write(tmp_path, "a/x.safetensors", "b/y.safetensors")
    os.symlink("/usr", tmp_path / "usr")

    def check(path: Path) -> None:
        if not Path(os.path.realpath(path)).is_relative_to(tmp_path) or path.name == "b":
            raise ForbiddenPathException("no", metadata={"path": str(path)})

    guarded = [identity_of(tmp_path / "b")]
    assert walked(Walk([tmp_path], check=check, guarded=guarded), tmp_path) == (
        ["a/x.safetensors"],
        {"b": "FORBIDDEN_PATH", "usr": "FORBIDDEN_PATH"},
    )


def test_what_vanishes_or_is_no_file_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a/x.safetensors", "b/y.safetensors")
    os.mkfifo(tmp_path / "a" / "pipe.gguf")
    vanishing = iter(Walk([tmp_path, tmp_path / "nowhere"]))
    first = next(vanishing)
    assert isinstance(first, Trouble)
    assert first.error.reason == "INVALID_MODEL"
    os.unlink(tmp_path / "b" / "y.safetensors")
    os.rmdir(tmp_path / "b")
    left = {os.path.relpath(item.path, tmp_path): type(item) for item in vanishing}
    assert left == {"a/x.safetensors": Found, "b": Trouble, "nowhere": Trouble}


def test_a_name_that_is_no_utf8_is_told_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"latin-\xe9.safetensors")).touch()
    [only] = Walk([tmp_path])
    assert isinstance(only, Trouble)
    assert re.search(r"latin-\\xe9\.safetensors", only.error.message)
    assert only.error.message.encode()


def test_the_facts_of_a_model_change_when_a_file_of_it_does(tmp_path: Path) -> None:
    write(tmp_path, "m/model_index.json", "m/unet/model.safetensors", "x.safetensors")

    def facts() -> dict[str, str]:
        return {
            os.path.basename(item.path): item.facts for item in Walk([tmp_path]) if isinstance(item, Found)
        }

    before = facts()
    assert before == facts()
    os.utime(tmp_path / "m/unet/model.safetensors", (1, 1))
    (tmp_path / "x.safetensors").write_text("longer than it was before")
    after = facts()
    assert all(after[name] != before[name] for name in ("m", "x.safetensors"))


def test_a_folder_that_a_record_names_is_a_model_whatever_is_in_it(tmp_path: Path) -> None:
    write(tmp_path, "odd/a.safetensors", "odd/b.safetensors")
    status = (tmp_path / "odd").stat()
    known = {(status.st_dev, status.st_ino)}
    assert walked(Walk([tmp_path], is_model=known.__contains__), tmp_path)[0] == ["odd"]


def test_a_tree_deeper_than_paths_can_be_is_gone_through_as_far_as_it_goes(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    name = "d" * 200
    for _ in range(30):
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    write(tmp_path, "x.safetensors")
    models, troubles = walked(Walk([tmp_path]), tmp_path)
    assert models == ["x.safetensors"]
    assert list(troubles.values()) == ["SOURCE_NOT_FOUND"]


def test_a_walk_stops_when_it_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a/x.safetensors", "b/y.safetensors", "c/z.safetensors")
    found: list[Found | Trouble] = []
    walk = Walk([tmp_path], stop=lambda: bool(found))
    for item in walk:
        found.append(item)
    assert len(found) == 1
