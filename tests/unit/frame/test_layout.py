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


def test_the_depth_of_a_wing_counts_a_circle_as_one_floor() -> None:
    floors = house.floors_of({"a": {"b"}, "b": {"a", "c"}, "c": set()})
    assert floors["a"] == floors["b"] != floors["c"]


def test_the_files_that_name_a_field_are_found_in_code_and_proto() -> None:
    found = house.files_of_field("upcast_attention")
    assert "proto/modelkeep/model/v1/model.proto" in found
    assert not [name for name in found if "_pb2" in name]
