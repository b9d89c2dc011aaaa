"""``modelkeep import-invokeai`` on a suite."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import Client
from modelkeep.supervisor import Suite
from support.cli import run, run_json
from support.invokeai import WEBP, InvokeAI
from support.suite import service_suite
from support.terminal import session

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {"services": ("record", "download", "install")}


@pytest.fixture
def root(tmp_path: Path) -> InvokeAI:
    return InvokeAI(tmp_path / "invoke ai")


def test_a_dry_run_tells_what_would_come_along_and_the_import_brings_it(suite: Suite, root: InvokeAI) -> None:
    root.add(1, name="ink")
    root.add(2, name="gone", there=False)
    root.add(3, name="odd", type="hologram")
    would = run(suite, "import-invokeai", str(root.path), "--dry-run").stdout
    assert f"new         ink  sd-1/lora  {root.models}/{1:032x}/ink.safetensors\n" in would
    assert "gone.safetensors  (its files are gone)" in would
    assert "(of a kind that this version does not know)" in would
    assert f"InvokeAI at {root.path}: {root.database} (2026_08_08_demote_system_user)." in would
    assert "3 models: 3 would be registered, 0 known. The files of 1 are gone." in would
    assert run_json(suite, "list")["models"] == []
    done = run(suite, "import-invokeai", str(root.path)).stdout
    assert "3 models: 3 were registered, 0 known. The files of 1 are gone." in done
    assert f"ink  sd-1/lora  {root.models}" not in done  # what went well needs no line
    assert {model["name"] for model in run_json(suite, "list")["models"]} == {"ink", "gone", "odd"}
    again = run(suite, "import-invokeai", str(root.path)).stdout
    assert "3 models: 0 were registered, 3 known." in again


def test_what_was_changed_here_is_told_and_overwritten_when_asked(suite: Suite, root: InvokeAI) -> None:
    root.add(11, name="mine")
    run(suite, "import-invokeai", str(root.path))
    run(suite, "edit", f"{11:032x}", "description=changed here")
    kept = run(suite, "import-invokeai", str(root.path)).stdout
    assert "kept        mine" in kept
    assert "(changed here: description)" in kept
    assert "`--overwrite`" in kept
    updated = run(suite, "import-invokeai", str(root.path), "--overwrite").stdout
    assert "1 model: 0 were registered, 1 were updated, 0 known." in updated


def test_the_answer_for_a_program_has_every_record(suite: Suite, root: InvokeAI) -> None:
    root.add(21, name="one")
    with root.open() as db:
        db.execute(
            "INSERT INTO models (id, config) VALUES ('bad', ?)",
            (json.dumps({**root.config(22, name="two"), "path": "\0"}),),
        )
    told = json.loads(run(suite, "import-invokeai", str(root.path), "--json", code=1).stdout)
    assert told["root"]["path"] == str(root.path)
    assert [one["outcome"] for one in told["models"]] == ["INVOKE_AI_OUTCOME_NEW", "INVOKE_AI_OUTCOME_FAILED"]
    assert (told["counts"]["total"], told["counts"]["failed"]) == (2, 1)
    assert told["models"][1]["error"]["reason"] == "INVALID_MODEL"


def test_what_is_no_root_is_refused(suite: Suite, tmp_path: Path) -> None:
    done = run(suite, "import-invokeai", str(tmp_path), code=2)
    assert "is no root folder of an InvokeAI" in done.stderr
    run(suite, "import-invokeai", str(tmp_path / "nothing"), code=3)


def test_the_client_tells_how_far_it_is(suite: Suite, root: InvokeAI) -> None:
    root.insert(*(root.config(number) for number in range(1000, 1250)))
    with Client(data_dir=suite.data_dir) as client:
        steps = list(client.model_install.import_invokeai(root.path))
        assert [step.ended for step in steps] == [False] * (len(steps) - 1) + [True]
        assert steps[0].root.model_count == 250
        assert [len(step.models) for step in steps] == [0, 100, 100, 50, 0]
        assert (steps[-1].counts["new"], steps[-1].counts["missing"]) == (250, 250)
        assert client.model_record_store.get_model(f"{1000:032x}").missing_time is not None


@pytest.mark.long
def test_a_terminal_is_told_what_would_come_along_and_asked(suite: Suite, root: InvokeAI) -> None:
    root.add(31, name="asked for")
    environment = {"MODELKEEP_DATA_DIR": str(suite.data_dir)}
    arguments = ["import-invokeai", str(root.path)]
    no = session(arguments, env=environment, answers={"[y/N]": "n\n"})
    assert (no.code, "1 model: 1 would be registered" in no.plain) == (1, True)
    assert "Nothing was changed." in no.plain
    assert "asked for" not in run(suite, "list").stdout
    yes = session(arguments, env=environment, answers={"[y/N]": "y\n"})
    assert (yes.code, "1 model: 1 were registered" in yes.plain) == (0, True)
    unasked = session([*arguments, "-y"], env=environment)
    assert (unasked.code, "[y/N]" in unasked.plain) == (0, False)


def test_folders_that_may_not_be_read_are_named_with_what_allows_them(tmp_path: Path) -> None:
    root = InvokeAI(tmp_path / "allowed" / "invokeai")
    (tmp_path / "else where").mkdir()
    (tmp_path / "else where" / "a.safetensors").write_bytes(b"1")
    root.add(1, path=str(tmp_path / "else where" / "a.safetensors"), there=False)
    env = {
        "MODELKEEP_INSTALL_ALLOW_ANY_IMPORT_ROOT": "false",
        "MODELKEEP_INSTALL_IMPORT_ROOTS": str(tmp_path / "allowed"),
    }
    with service_suite(services=("record", "download", "install"), env=env) as limited:
        told = run(limited, "import-invokeai", str(root.path), code=1).stdout
        assert "[FORBIDDEN_PATH]" in told
        assert f"MODELKEEP_INSTALL_IMPORT_ROOTS='{tmp_path}/else where'" in told
        refused = run(limited, "import-invokeai", str(tmp_path / "else where"), code=1).stderr
        assert "FORBIDDEN_PATH" in refused


def test_what_came_along_is_exported_whole(suite: Suite, root: InvokeAI) -> None:
    config = root.add(51, name="whole", repo_variant="fp16", later={"a": [1, None]})
    root.picture(config["key"])
    run(suite, "import-invokeai", str(root.path))
    lines = [json.loads(line) for line in run(suite, "export", "-").stdout.splitlines()]
    [line] = [one for one in lines if one.get("model", {}).get("key") == config["key"]]
    kept = {name: json.loads(text) for name, text in line["model"]["extra_fields"].items()}
    assert kept == {
        "hash": config["hash"],
        "file_size": 7,
        "repo_variant": "fp16",
        "later": {"a": [1, None]},
    }
    assert base64.b64decode(line["cover_image"]) == WEBP


def test_a_model_that_somebody_else_serves_is_no_orphan_and_not_missing(suite: Suite, root: InvokeAI) -> None:
    kind = {"type": "external_image_generator", "format": "external_api", "base": "external"}
    root.add(61, name="served", path="external://openai/gpt-image", there=False, **kind)
    run(suite, "import-invokeai", str(root.path))
    assert "gpt-image" not in run(suite, "sync", "--remove-orphans", "--force").stdout
    assert run(suite, "where", "served").stdout.split()[-1] == "external://openai/gpt-image"
    assert "served: as recorded" in run(suite, "verify", "served").stdout
    with Client(data_dir=suite.data_dir) as client:
        assert f"{61:032x}" not in client.model_install.check_models()
    assert "served" in run(suite, "rm", "served", "-y").stdout


# The last: what comes after it would be looked through, all of it, by each `sync`.
@pytest.mark.long
def test_ctrl_c_says_how_to_go_on(suite: Suite, root: InvokeAI) -> None:
    root.insert(*(root.config(number) for number in range(40_000, 43_000)))
    environment = {"MODELKEEP_DATA_DIR": str(suite.data_dir)}
    left = session(
        ["import-invokeai", str(root.path), "-y"], env=environment, answers={"Importing: ": "\x03"}
    )
    assert left.code == 130
    assert f"Go on: modelkeep import-invokeai '{root.path}'" in left.plain
    done = run_json(suite, "import-invokeai", str(root.path))["counts"]
    assert done["unchanged"] + done["new"] == 3000
