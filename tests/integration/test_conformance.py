"""The conformance cases of clients/conformance hold, as the Python client sees them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from modelkeep.defaults import SERVICES
from modelkeep.reasons import SITUATIONS
from modelkeep.rpc import methods
from support.conformance import SET, Runner, cases, compare, ground

_FIELDS = {"name", "at", "as", "method", "request", "answer", "answers", "ends", "error", "keep"}


@pytest.mark.timeout(180)
def test_every_case_holds(folder: Path) -> None:
    with ground(folder) as there:
        runner = Runner(there.environment)
        failed = []
        for case in cases():
            try:
                runner.run(case)
            except (AssertionError, KeyError) as error:
                failed.append(f"{case}: {error}")
        runner.close()
    assert not failed, "\n".join(failed)


def test_cases_say_nothing_that_runners_do_not_know() -> None:
    known = {f"{method.containing_service.full_name}/{method.name}" for method in methods().values()}
    for case in cases():
        said = case.said
        assert set(said) <= _FIELDS, case
        assert said["method"] in known, case
        assert len({"answer", "answers", "error"} & set(said)) == 1, case
        assert ("at" in said) == ("ServerService" in said["method"]), case
        assert said.get("as", "owner") in ("owner", "anonymous", "stranger"), case
        assert said.get("error", {}).get("reason", "INTERNAL") in SITUATIONS, case


def test_every_service_has_cases_and_a_name_is_kept_before_it_is_used() -> None:
    kept = {"IMPORTS"}
    asked = set()
    for case in cases():
        asked.add(case.said["method"].split(".")[1])
        assert set(re.findall(r"\$\{([A-Z_]+)\}", str(case.said))) <= kept, case
        kept |= set(case.said.get("keep", {}))
    assert asked == {*SERVICES, "server"}


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": "1"}, {"a": "2"}),
        ({"a": "1"}, {}),
        ({"a": None}, {"a": "1"}),
        ({"a": SET}, {}),
        ({"a": []}, {"a": ["1"]}),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}, {"b": 1}]}),
        ([{}, {}], [{}]),
    ],
)
def test_an_answer_that_differs_is_told(expected: Any, found: Any) -> None:
    with pytest.raises(AssertionError, match="answers"):
        compare(expected, found, "answers")
