"""The command line in this process, on a suite."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from modelkeep.cli.main import app
from modelkeep.supervisor import Suite


def run(suite: Suite, *arguments: str, code: int = 0) -> Result:
    """What a command printed; it must end with this code."""
    result = CliRunner().invoke(app, arguments, env={"MODELKEEP_DATA_DIR": str(suite.data_dir)})
    assert result.exit_code == code, f"{arguments}: {result.exit_code}\n{result.output}"
    return result


def run_json(suite: Suite, *arguments: str) -> Any:
    """What a command answered as JSON."""
    return json.loads(run(suite, *arguments, "--json").stdout)
