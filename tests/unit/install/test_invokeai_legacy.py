"""A models.yaml of InvokeAI, whatever stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.configs.wire import kind_violations
from modelkeep_common.calls.validation import collector
from modelkeep_install.invokeai.legacy import read_yaml
from modelkeep_install.invokeai.looking import Place
from modelkeep_install.invokeai.mapping import mapped
from modelkeep_install.invokeai.root import Root

_TEXT = st.text(alphabet=st.characters(codec="utf-8"))
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT | st.dates() | st.binary(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text("abc/"), values, max_size=3),
    max_leaves=5,
)
_FIELDS = (
    *("path", "weights", "repo_id", "description", "model_format", "format", "config", "vae", "variant"),
    *("width", "height", "prediction_type", "upcast_attention", "default", "odd"),
)
_NAMES = ("sd-1/main/x", "plain", "__metadata__", "sd-1/embedding/e", "sdxl/lora/a/b")


def root_of(folder: Path) -> Root:
    return Root(folder, folder / "models", folder / "configs", None, folder / "models.yaml")


@given(
    document=st.dictionaries(
        st.sampled_from(_NAMES) | st.text("ab/ é"),
        st.dictionaries(st.sampled_from(_FIELDS), _VALUE, max_size=6) | _VALUE,
        max_size=4,
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_can_be_read_of_any_file_can_be_stored(tmp_path: Path, document: dict[str, Any]) -> None:
    root = root_of(tmp_path)
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(document, allow_unicode=True))
    sources = read_yaml(root).sources
    assert len(sources) == len(document.keys() - {"__metadata__"})
    for source in sources:
        if source.error is None:
            path = str(root.models_dir / source.config["path"])
            model = mapped(source, Place(path, path), root).model
            assert collector()(model) == []
            assert kind_violations(model) == []


@pytest.mark.parametrize(
    ("entry", "there", "base", "format_"),
    [
        ("a: {weights: x.ckpt, config: v1-inference.yaml}", None, "sd-1", "checkpoint"),
        ("a: {weights: x.ckpt, config: c/v2-inference-v.yaml, format: ckpt}", None, "sd-2", "checkpoint"),
        ("a: {path: folder, format: diffusers}", "folder/model_index.json", "unknown", "diffusers"),
        ("a: {path: folder}", "folder/model_index.json", "unknown", "diffusers"),
        ("sd-1/embedding/e: {path: e.pt}", "models/e.pt", "sd-1", "embedding_file"),
        ("sd-1/embedding/e: {path: e}", "models/e/learned_embeds.bin", "sd-1", "embedding_folder"),
        ("sd-1/lora/l: {path: l.safetensors}", "models/l.safetensors", "sd-1", "lycoris"),
        ("sd-1/lora/l: {path: gone}", None, "sd-1", "diffusers"),
        ("any/clip_vision/c: {path: models/c}", "models/c/config.json", "any", "diffusers"),
    ],
)
def test_what_an_entry_leaves_open_is_told_by_its_configuration_and_its_files(
    tmp_path: Path, entry: str, there: str | None, base: str, format_: str
) -> None:
    (tmp_path / "models.yaml").write_text(entry)
    if there is not None:
        (tmp_path / there).parent.mkdir(parents=True)
        (tmp_path / there).touch()
    [source] = read_yaml(root_of(tmp_path)).sources
    assert (source.config["base"], source.config["format"]) == (base, format_)
