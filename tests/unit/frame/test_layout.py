"""The check of the layout finds what it is there to find."""

from __future__ import annotations

from pathlib import Path

import check_layout
import house


def test_a_hand_written_file_over_the_limit_is_named_and_a_generated_one_is_not(tmp_path: Path) -> None:
    for name, lines in (("long.py", 501), ("short.py", 500), ("made_pb2.py", 900), ("data.json", 900)):
        path = tmp_path / "services" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x\n" * lines)
    (problem,) = check_layout.too_long(tmp_path)
    assert problem.startswith("services/long.py: 501 lines")


def test_modules_that_import_each_other_are_a_circle_also_through_others() -> None:
    assert list(check_layout.circles({"a": {"b"}, "b": {"c"}, "c": set()})) == []
    (problem,) = check_layout.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert problem.endswith("in a circle: a, b, c")


def test_a_private_module_is_for_its_own_package() -> None:
    fine = {
        "p.q.x": {"p.q._inner"},
        "p.q._inner": set(),
        "p.q": {"p.q._inner"},
        "p.q._inner.deep": {"p.q._inner"},
    }
    assert list(check_layout.trespasses(fine)) == []
    (problem,) = check_layout.trespasses({"p.r": {"p.q._inner"}})
    assert problem == "p.r imports p.q._inner, which is private to p.q"
    (problem,) = check_layout.trespasses({"p.qq": {"p.q._inner"}})
    assert problem.startswith("p.qq imports")


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_private_name_is_for_its_own_package(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "services/p/q/inner.py": "_x = 1",
            "services/p/q/beside.py": "from .inner import _x",
            "services/p/q/deep/below.py": "from ..inner import _x",
            "services/p/q/__init__.py": "from . import _module",
            "services/p/q/_module.py": "from __future__ import annotations",
            "services/p/r.py": "def f():\n    from p.q.inner import _x",
            "services/p/s/t.py": "from ..q.inner import y, _x",
            "clients/python/m/a.py": "from p.q import _made_there",
        },
    )
    assert sorted(check_layout.borrowed_names(root)) == [
        "clients/python/m/a.py imports _made_there, which is private to p.q",
        "services/p/r.py imports _x, which is private to p.q",
        "services/p/s/t.py imports _x, which is private to p.q",
    ]


def test_what_nothing_uses_is_told_of(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "services/p/a.py": "def used(): ...\ndef idle(): ...\n@command\ndef made(): ...\n_IDLE = 1\n",
            "tests/test_a.py": "from p.a import used\n",
        },
    )
    assert list(check_layout.unused(root)) == [
        "services/p/a.py: nothing uses idle",
        "services/p/a.py: nothing uses _IDLE",
    ]


def test_a_package_that_the_checks_do_not_name_is_told_of(tmp_path: Path) -> None:
    told = '[tool.importlinter]\nroot_packages = ["modelkeep_new"]\n'
    root = _write(tmp_path, {"pyproject.toml": told, "services/modelkeep_new/a.py": ""})
    assert list(check_layout.overlooked(root)) == ["scripts/house.py does not name the package modelkeep_new"]
    _write(root, {"services/modelkeep_install/a.py": ""})
    assert "pyproject.toml does not name the package modelkeep_install" in list(check_layout.overlooked(root))


def test_the_depth_of_a_wing_counts_a_circle_as_one_floor() -> None:
    floors = house.floors_of({"a": {"b"}, "b": {"a", "c"}, "c": set()})
    assert floors["a"] == floors["b"] != floors["c"]


def test_the_files_that_name_a_field_are_found_in_code_and_proto() -> None:
    found = house.files_of_field("upcast_attention")
    assert "proto/modelkeep/model/v1/model.proto" in found
    assert not [name for name in found if "_pb2" in name]
