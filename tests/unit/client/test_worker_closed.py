"""A loader of the worker's side that was closed says so."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
from modelkeep.worker import ModelLoader

KEY = "0" * 32


@pytest.mark.timeout(120)  # it imports torch
def test_a_closed_loader_is_told_as_that_and_not_as_grpcs_channel() -> None:
    loader = ModelLoader("127.0.0.1:1")
    loader.close()
    loader.close()
    for ask in (lambda: loader.get_model(KEY, "vae"), lambda: loader.get_pipeline(KEY)):
        with pytest.raises(RuntimeError, match="This loader is closed"):
            ask()
