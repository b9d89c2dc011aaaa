"""A suite whose records are in a YAML file that its user edits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep.client import Client
from modelkeep.exceptions import StoreFileBrokenException
from modelkeep.suitefile import read_suite_file
from support.installs import small_lora
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

_MODELKEEP = Path(sys.executable).parent / "modelkeep"


BY_HAND = """
mine:
  name: by hand
  path: /mine
  type: vae
  format: checkpoint
  base: sdxl
"""


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """The data folder of a suite whose records are in ``models.yaml`` beside it."""
    data = tmp_path / "data"
    command = "up --no-loader --port 0 --data-dir data --model-config-db models.yaml"
    up = subprocess.Popen(
        [_MODELKEEP, *command.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while read_suite_file(data) is None:
        assert up.poll() is None, up.communicate()[0]
        assert time.monotonic() < deadline, "the suite does not start"
        time.sleep(0.05)
    yield data
    up.send_signal(signal.SIGINT)
    said = up.communicate(timeout=60)[0]
    assert up.returncode == 0, said


def test_what_is_installed_stands_in_the_file_and_what_is_written_there_is_a_model(
    data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "models.yaml"
    lora = small_lora(tmp_path / "lora.safetensors")
    with Client(data_dir=data) as client:
        records = client.model_record_store
        job = client.model_install.import_model(lora)
        client.model_install.wait_for_installs(timeout=60)
        assert job.config_out is not None
        (model,) = records.all_models()
        assert f"  path: {lora}\n" in file.read_text()
        wait_until(lambda: "      sha256: " in file.read_text())
        text = file.read_text().replace(f"  name: {model.name}\n", "  name: mine  # renamed\n")
        file.write_text(f"{text}{BY_HAND}")
        wait_until(lambda: {one.name for one in records.all_models()} == {"mine", "by hand"})
        records.update_model(model.key, {"description": "by the service"})
        text = file.read_text()
        assert "  name: mine  # renamed\n" in text
        assert "  description: by the service\n" in text
        file.write_text(f"{text}again: {{path: /mine}}\n")
        with pytest.raises(StoreFileBrokenException, match=rf"line {text.count(chr(10)) + 1}, column 1"):
            records.del_model(model.key)
        assert len(records.all_models()) == 2
        file.write_text(text)
        records.del_model(model.key)
    listing = subprocess.run(
        [_MODELKEEP, "--data-dir", data, "list", "-o", "name"], capture_output=True, text=True, check=True
    )
    assert listing.stdout.splitlines() == ["by hand"]
