"""Every check of `make check` can fail: each is shown bad input."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import check_parity
import check_text

ROOT = Path(__file__).resolve().parents[3]


def parity_problems(root: Path, row: str) -> list[str]:
    """What check_parity says of a table with this one row."""
    rows, problems = check_parity.parse(
        f"## Part\n\n| Reference | RPC | Python | Test | Status |\n|--|--|--|--|--|\n{row}\n"
    )
    return [*problems, *check_parity.problems_of(rows, root)]


@pytest.fixture
def small_repo(tmp_path: Path) -> Path:
    """A folder with one test and one declared RPC."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text("async def test_it_works(): ...\n")
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto" / "record_service.proto").write_text(
        "service RecordService {\n  rpc GetModel(A) returns (B);\n}\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("| a | RecordService/GetModel | get_model | tests/test_one.py::test_it_works | done |", None),
        ("| a | RecordService/GetModel | get_model | | open |", None),
        ("| a | RecordService/NotYet | not_yet | | later |", None),
        ("| a | | proto | | text |", None),
        ("| a | | | | done |", "names no test"),
        ("| a | | | see the tests | done |", "names no test"),
        ("| a | | | tests/test_one.py::test_gone | done |", "no test tests/test_one.py::test_gone"),
        ("| a | | | tests/test_two.py::test_it_works | open |", "no test tests/test_two.py"),
        ("| a | RecordService/Guess | | | open |", "RecordService/Guess is not declared"),
        ("| a | | docs/none.md | | text |", "no docs/none.md"),
        ("| a | | | | finished |", "'finished' is none of"),
        ("| a | b | c |", "3 columns"),
    ],
)
def test_a_parity_row_may_claim_only_what_is_so(small_repo: Path, row: str, complaint: str | None) -> None:
    problems = parity_problems(small_repo, row)
    if complaint is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert complaint in problems[0]


def test_a_bar_in_a_parity_cell_is_escaped() -> None:
    rows, problems = check_parity.parse(r"| `a \| b` | | | | later |")
    assert not problems
    assert rows[0].reference == "`a | b`"


def test_the_items_of_the_reference_are_its_headings_rows_bullets_examples_and_sentences() -> None:
    table = "| **Field** | **Type** |\n|---|---|\n| `key` | str |\n"
    text = "It works. It\nfails, e.g. Sundays.\n- one\n  more\n* two\n1. three\n"
    reference = f"# Part\n\n{text}\n{table}\n```\ncode()\n```\n"
    items = check_parity.reference_items(reference)
    assert all(section == "Part" for section, _ in items)
    texts = [
        "Part",
        "It works.",
        "It fails, e.g. Sundays.",
        "one more",
        "two",
        "three",
        "| `key` | str |",
        "code()",
    ]
    assert [text for _, text in items] == texts


def test_rows_and_the_list_of_items_and_the_reference_are_held_against_each_other() -> None:
    name = check_parity.digest
    listed = (
        f"# what this is\n## Part\n{name('Part')}  (heading)\n{name('Once.')}  promise\n{name('Gone.')}  -\n"
    )
    items, problems = check_parity.parse_items(listed)
    assert problems == []
    assert check_parity.parse_items("nonsense")[1] == [
        "scripts/parity_items.txt:1: neither a section nor an item"
    ]
    rows, _ = check_parity.parse(
        "## Part\n| promise | | | | later |\n| promise | | | | later |\n| new | | | | later |"
    )
    assert list(check_parity.compare(rows, items)) == [
        "docs/parity.md: no row for Part / (heading)",
        "scripts/parity_items.txt: no item for the row Part / new",
        "docs/parity.md: 2 rows for Part / promise",
    ]
    assert list(check_parity.compare_reference(items, "# Part\nOnce. Twice.\n")) == [
        f"scripts/parity_items.txt: not listed, Part: {name('Twice.')}  Twice.",
        f"scripts/parity_items.txt: not in the reference, Part: {name('Gone.')}",
    ]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("good.py", '"""Good."""\n', None),
        ("guide.md", "see services/record/ and ~/work/ and https://example.org/home/page/\n", None),
        ("uv.lock", "", "must not be committed"),
        ("pip.conf", "index = https://" + "pypi" + ".org/simple\n", "registry"),
        ("package-lock.json", '{"resolved": "https://example.org/x.tgz"}', "resolved addresses"),
        ("notes.md", "cd /" + "root/project\n", "absolute path"),
        ("notes.md", "cd /" + "home/ann/project\n", "absolute path"),
        ("half.py", "# TO" + "DO: the rest\n", "left to be done"),
        ("half.py", "raise Not" + "ImplementedError\n", "left to be done"),
        ("merge.md", "<" * 7 + " HEAD\n", "merge conflict"),
    ],
)
def test_a_file_may_not_hold_what_the_repository_bans(
    tmp_path: Path, name: str, text: str, complaint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / name).write_text(text)
    code = check_text.main(tmp_path)
    said = capsys.readouterr().err
    assert code == (0 if complaint is None else 1), said
    assert (complaint or "") in said


def test_a_file_that_another_speaks_of_must_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {
        "services/modelkeep_a/README.md": "`store.py` `domain/jobs.py` `test_a.py` `gone.py` `m_b/x.py`",
        "services/modelkeep_a/store.py": '"""See docs/why.md and docs/adr/NNNN-….md."""\n',
        "services/modelkeep_a/domain/jobs.py": "",
        "services/modelkeep_b/gone.py": "",
        "services/m_b/x.py": "",
        "tests/unit/test_a.py": "# makes docs/other.md\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check_text.main(tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == [
        "services/modelkeep_a/README.md: names gone.py, which is not there",
        "services/modelkeep_a/store.py: names docs/why.md, which is not there",
    ]


@pytest.mark.parametrize("call", ["stamp.ToDatetime()", "base64.b64decode(token)"])
def test_a_conversion_that_can_fail_has_one_home(
    tmp_path: Path, call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "services" / "modelkeep_common").mkdir(parents=True)
    for name in ("convert.py", "wire.py", "tokens.py"):
        (tmp_path / "services" / "modelkeep_common" / name).write_text(f"value = {call}\n")
    assert check_text.main(tmp_path) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert any("convert.py:1" in line for line in said)


@pytest.mark.parametrize(
    "line",
    [
        *("from urllib.parse import urlsplit, quote", "import urllib.parse", "from urllib import parse"),
        *('SECRET = {"token", "api_key"}', 're.compile("(?:token|password)=")'),
    ],
)
def test_what_is_secret_in_an_address_has_one_home(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "services" / "modelkeep_common").mkdir(parents=True)
    for name in ("logs.py", "urls.py"):
        (tmp_path / "services" / "modelkeep_common" / name).write_text(f"{line}\n")
    assert check_text.main(tmp_path) == 1
    said = capsys.readouterr().err
    assert "logs.py:1" in said
    assert "urls.py:1" not in said


@pytest.mark.parametrize("line", ["import http.client", "from email.utils import parsedate_to_datetime"])
def test_what_an_http_header_says_is_read_in_one_place(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "services" / "modelkeep_download" / "engine"
    engine.mkdir(parents=True)
    for name in ("transport.py", "http1.py"):
        (engine / name).write_text(f"{line}\n")
    assert check_text.main(tmp_path) == 1
    said = capsys.readouterr().err
    assert "transport.py:1" in said
    assert "http1.py:1" not in said


def test_ignored_folders_are_not_read(tmp_path: Path) -> None:
    for folder in (".venv", ".git", "modelkeep-data", ".mypy_cache"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "uv.lock").touch()
    assert check_text.main(tmp_path) == 0


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        ({"modelkeep_record/domain/x.py": "import modelkeep_common.serving\n"}, "Domain code knows no gRPC"),
        ({"modelkeep_record/domain/x.py": "import grpc\n"}, "Domain code knows no gRPC"),
        (
            {
                "modelkeep_install/domain/__init__.py": "import modelkeep_install.store\n",
                "modelkeep_install/store.py": "import sqlite3\n",
            },
            "no database",
        ),
        ({"modelkeep_install/domain/x.py": "from socket import socket\n"}, "no sockets"),
        (
            {"modelkeep_record/store.py": "import modelkeep_install.config\n"},
            "Services do not import each other",
        ),
        ({"modelkeep_install/service.py": "def f():\n    import torch\n"}, "imports torch"),
        ({"modelkeep_loader/service.py": "import modelkeep_convert.components\n"}, "imports torch"),
        (
            {
                "modelkeep_loader/service.py": "import modelkeep.devices.cuda\n",
                "modelkeep/devices/__init__.py": "",
                "modelkeep/devices/cuda.py": "def f():\n    import cuda.bindings\n",
            },
            "import CUDA",
        ),
        ({"modelkeep_devices/wire.py": "import modelkeep_loader.config\n"}, "helper processes imports no"),
        ({"modelkeep/cli/main.py": "import modelkeep_common.serving\n"}, "import no service"),
        ({"modelkeep_convert/request.py": "import modelkeep_loader.config\n"}, "helper processes imports no"),
        ({"modelkeep_keeper/service.py": "import modelkeep_convert.config\n"}, "a loader imports no service"),
        ({"modelkeep_keeper/service.py": "import asyncio\n"}, "a loader is small"),
        ({"modelkeep/cli/main.py": "import modelkeep_keeper.service\n"}, "import no service"),
        ({"modelkeep_install/service.py": "import httpx\n"}, "speaks HTTP"),
        ({"modelkeep_install/service.py": "import sqlite3\n"}, "Only stores know SQLite"),
        (
            {"modelkeep_install/deep/__init__.py": "", "modelkeep_install/deep/store.py": "import sqlite3\n"},
            "Only stores know SQLite",
        ),
        ({"modelkeep_install/store.py": "import sqlite3\n"}, None),
        (
            {
                "modelkeep_record/service.py": "import modelkeep_install.store\n",
                "modelkeep_install/store.py": "import sqlite3\n",
            },
            "do not import each other",
        ),
        ({}, None),
    ],
)
def test_an_import_rule_is_broken_by_the_import_it_forbids(
    tmp_path: Path, bad: dict[str, str], kept: str | None
) -> None:
    packages = ["record", "download", "install", "loader", "common", "convert", "devices", "keeper"]
    sources = {
        f"modelkeep_{name}/{file}.py": "" for name in packages for file in ("__init__", "config", "service")
    }
    sources |= {
        "modelkeep/__init__.py": "",
        "modelkeep/cli/__init__.py": "",
        **{
            f"modelkeep_{name}/domain/__init__.py": "" for name in ("record", "download", "install", "loader")
        },
        "modelkeep_common/serving.py": "import grpc\n",
        "modelkeep_download/sources/__init__.py": "import httpx\n",
        "modelkeep_convert/components.py": "import torch\n",
        **bad,
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    lint = "from importlinter.cli import lint_imports_command as lint; lint()"
    run = subprocess.run(
        [sys.executable, "-c", lint, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == (0 if kept is None else 1), run.stdout + run.stderr
    broken = [line for line in run.stdout.splitlines() if line.endswith("BROKEN")]
    assert len(broken) == (0 if kept is None else 1), run.stdout
    assert kept is None or kept in broken[0]


def test_the_floors_of_grpcio_and_protobuf_are_what_the_stubs_need() -> None:
    """A stub refuses to be imported with anything older; pyproject must say so before it does."""
    floors = floors_of((ROOT / "pyproject.toml").read_text())
    stubs = ROOT / "clients" / "python"
    demanded = demanded_by(p.read_text() for p in [*stubs.rglob("*_pb2.py"), *stubs.rglob("*_pb2_grpc.py")])
    assert demanded["grpcio"] > (1,)
    assert demanded["protobuf"] > (5,)
    for name, version in demanded.items():
        assert floors[name] >= version, f"{name}: pyproject's floor {floors[name]}, the stubs need {version}"


def floors_of(pyproject: str) -> dict[str, tuple[int, ...]]:
    """Name to lowest version, of the base dependencies."""
    floors = {}
    for line in tomllib.loads(pyproject)["project"]["dependencies"]:
        requirement = Requirement(line)
        for specifier in requirement.specifier:
            if specifier.operator == ">=":
                floors[requirement.name] = tuple(map(int, specifier.version.split(".")))
    return floors


def demanded_by(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The versions that generated code checks for at import."""
    demanded: dict[str, tuple[int, ...]] = {"grpcio": (0,), "protobuf": (0,)}
    for text in texts:
        if match := re.search(r"ValidateProtobufRuntimeVersion\(\s*\S+,\s*(\d+),\s*(\d+),\s*(\d+)", text):
            demanded["protobuf"] = max(demanded["protobuf"], tuple(map(int, match.groups())))
        if match := re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", text):
            demanded["grpcio"] = max(demanded["grpcio"], tuple(map(int, match[1].split("."))))
    return demanded


def test_a_floor_below_what_a_stub_demands_would_be_seen() -> None:
    check = "_runtime_version.ValidateProtobufRuntimeVersion("
    stub = f"{check}\n    _runtime_version.Domain.PUBLIC,\n    99,\n    1,\n    0,\n"
    assert demanded_by([stub, "GRPC_GENERATED_VERSION = '9.9.9'"]) == {
        "protobuf": (99, 1, 0),
        "grpcio": (9, 9, 9),
    }


def test_the_pins_satisfy_pyproject_and_name_no_index() -> None:
    pinned = {}
    for file in ("build.txt", "all.txt", "dev.txt"):
        for line in (ROOT / "requirements" / file).read_text().splitlines():
            requirement = Requirement(line)
            assert [s.operator for s in requirement.specifier] == ["=="], line
            pinned[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, wanted):
        if requirement.name != "modelkeep":
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), (
                f"{requirement} is pinned to {version}: scripts/pins.sh"
            )
