"""A model that came along from an InvokeAI is lent as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modelkeep.client import Client
from modelkeep.supervisor import Suite
from support.invokeai import InvokeAI

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"services": ("record", "download", "install", "loader")}


@pytest.mark.long
def test_an_imported_model_is_lent_from_where_it_lies(suite: Suite, tmp_path: Path) -> None:
    from support import tinymodels

    root = InvokeAI(tmp_path / "invokeai")
    root.add(1, name="tiny", type="main", format="diffusers", path="tiny", there=False)
    tinymodels.save_pipeline(root.models / "tiny")
    with Client(data_dir=suite.data_dir) as client:
        *_, last = client.model_install.import_invokeai(root.path)
        assert last.counts["new"] == 1
        with client.model_loader.get_model(f"{1:032x}", "vae") as vae:
            assert vae.decode(torch.zeros(1, 4, 2, 2))[0].shape == (1, 3, 16, 16)
