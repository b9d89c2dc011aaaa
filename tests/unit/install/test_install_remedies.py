"""What the installer says to do about a model that it refuses."""

from __future__ import annotations

import ast
from pathlib import Path

import modelkeep_install


def test_whoever_refuses_a_model_says_what_helps_in_that_case() -> None:
    """The table's advice for INVALID_MODEL, to fetch it again or to say its type, fits few of the cases."""
    silent, seen = [], 0
    for file in sorted(Path(modelkeep_install.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InvalidModelException":
                seen += 1
                if not any(keyword.arg == "remedy" for keyword in node.keywords):
                    silent.append(f"{file.name}:{node.lineno}")
    assert seen > 10
    assert not silent
