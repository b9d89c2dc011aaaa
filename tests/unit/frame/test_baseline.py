"""The check of the API against what was promised: it passes what adds, and stops what breaks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import baseline

RECORD = "docs/adr/0010-the-api-takes-its-breaking-changes-now.md"
SERVER = "proto/modelkeep/server/v1/server_service.proto"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """What the check looks at, to be changed."""
    for name in ("buf.yaml", RECORD):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(baseline.ROOT / name, tmp_path / name)
    for name in ("proto", "third_party"):
        shutil.copytree(baseline.ROOT / name, tmp_path / name)
    baseline.renew(tmp_path / RECORD, tmp_path)
    return tmp_path


def change(repo: Path, before: str, after: str) -> None:
    text = (repo / SERVER).read_text()
    assert before in text
    (repo / SERVER).write_text(text.replace(before, after, 1))


def test_adding_breaks_nothing(repo: Path) -> None:
    assert baseline.problems(repo) == []
    change(repo, "message GetServerInfoRequest {}", "message GetServerInfoRequest {\n  bool more = 1;\n}")
    assert baseline.problems(repo) == []


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("string version = 2", "string version = 22", "was deleted"),
        ("string version = 2", "string release = 2", "name"),
        ("int32 pid = 5", "int64 pid = 5", "type"),
        ("int32 pid = 5", "optional int32 pid = 5", "presence"),
        ("idempotency_level = NO_SIDE_EFFECTS", "idempotency_level = IDEMPOTENT", "idempotency"),
        ("modelkeep.dev/go/modelkeep/server/v1;serverv1", "modelkeep.dev/go/server", "go_package"),
    ],
)
def test_what_would_break_generated_code_is_named(
    repo: Path, before: str, after: str, complaint: str
) -> None:
    change(repo, before, after)
    found = baseline.problems(repo)
    assert any(SERVER in line and complaint in line for line in found), found
    assert "decision record" in found[-1]


def test_a_baseline_that_no_decision_names_is_refused(repo: Path) -> None:
    change(repo, "string version = 2", "string version = 22")
    record = repo / RECORD
    decided = record.read_text()
    baseline.renew(record, repo)
    assert baseline.problems(repo) == []
    record.write_text(decided)
    assert "no decision" in baseline.problems(repo)[0]
