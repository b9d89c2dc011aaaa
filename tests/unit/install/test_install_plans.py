"""What is made of a hub's plan: names, and what of it is here."""

from __future__ import annotations

import pytest

from modelkeep_install.domain.plans import Hub, Plan, PlannedFile, safe_name
from modelkeep_install.domain.ports import RecordFile
from modelkeep_install.files import check_name
from modelkeep_install.steps.planned import brings


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("stabilityai/sdxl-vae", "sdxl-vae"),
        ("Ink & Paper: v2", "Ink & Paper_ v2"),
        ("..", "model"),
        ("", "model"),
        (".hidden", "hidden"),
        ("con", "_con"),
        ("a\x00b\u202ec", "a_b_c"),
        ("ends. ", "ends"),
        ("owner/name/", "name"),
        (".modelkeep-root", "modelkeep-root"),
    ],
)
def test_a_hubs_name_becomes_one_that_every_file_system_takes(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert check_name(safe) == safe


def test_a_name_that_is_too_long_keeps_its_suffix() -> None:
    name = safe_name("ä" * 300 + ".safetensors")
    assert len(name.encode()) <= 200
    assert name.endswith("ä.safetensors")


ONE = PlannedFile("u", "a/style.safetensors", 5, "1" * 64)


@pytest.mark.parametrize(
    ("file", "same"),
    [
        (RecordFile("style.safetensors", 5, 0.0, sha256="1" * 64), True),
        (RecordFile("renamed.safetensors", 5, 0.0, sha256="1" * 64), True),
        (RecordFile("style.safetensors", 5, 0.0), True),
        (RecordFile("renamed.safetensors", 5, 0.0), False),
        (RecordFile("style.safetensors", 6, 0.0), False),
        (RecordFile("style.safetensors", 5, 0.0, sha256="2" * 64), False),
    ],
)
def test_a_single_file_goes_by_its_hash_and_else_by_name_and_size(file: RecordFile, same: bool) -> None:
    plan = Plan(Hub.HUGGING_FACE, "owner/name", "name", (ONE,))
    assert brings(plan, [file], proven=False) is same
    assert brings(plan, [file], proven=True) is (file.sha256 == ONE.sha256)


def test_a_hidden_file_that_no_record_lists_makes_no_difference() -> None:
    hidden = PlannedFile("u", ".gitattributes", 7)
    plan = Plan(Hub.HUGGING_FACE, "owner/name", "name", (ONE, hidden), is_folder=True)
    listed = [RecordFile(ONE.path, 5, 0.0, sha256=ONE.sha256)]
    assert brings(plan, listed, proven=False)
    assert not brings(plan, [*listed, RecordFile("b", 1, 0.0)], proven=False)


def test_bytes_to_fetch_are_those_of_which_there_is_no_copy() -> None:
    copied = PlannedFile("u", "b", 7, local_copy="/models/b")
    plan = Plan(Hub.HUGGING_FACE, "owner/name", "name", (ONE, copied), is_folder=True)
    assert plan.missing_bytes == 5
    unknown = PlannedFile("u", "c")
    assert Plan(Hub.HUGGING_FACE, "o/n", "n", (ONE, unknown), is_folder=True).missing_bytes is None
