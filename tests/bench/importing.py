"""The import of an InvokeAI: seconds of the first, of a dry run before it, and of one that changes nothing.

    python tests/bench/importing.py [--models 10000]

Every record has an answer of its hub of three kilobytes, trigger phrases, settings and a file, and one in
five a picture of ten kilobytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / part) for part in ("tests", "services", "clients/python")]

from figures import report  # noqa: E402  # after the path is set

from modelkeep.client import Client  # noqa: E402
from modelkeep.supervisor import Suite  # noqa: E402
from support.invokeai import WEBP, InvokeAI  # noqa: E402

#: Seconds for ten thousand models.
BAR_S, OF = 60.0, 10_000


def fill(root: InvokeAI, number: int) -> None:
    """Puts so many models there."""
    configs = [
        root.config(
            index,
            description="d" * 200,
            trigger_phrases=["ink", "paper"],
            source_api_response=json.dumps({"card": "y" * 3000}),
            default_settings={"weight": 0.75},
        )
        for index in range(number)
    ]
    root.insert(*configs)
    for index, config in enumerate(configs):
        root.put(config["path"])
        if index % 5 == 0:
            root.picture(config["key"], WEBP + bytes(10_000))


def timed(client: Client, root: InvokeAI, outcome: str, number: int, *, validate_only: bool = False) -> float:
    """Seconds of an import; all models must have this outcome."""
    begin = time.perf_counter()
    *_, last = client.model_install.import_invokeai(root.path, validate_only=validate_only)
    seconds = time.perf_counter() - begin
    assert last.counts[outcome] == number, last.counts
    return seconds


def main(number: int = OF) -> bool:
    """Run and print; whether the bar holds."""
    with tempfile.TemporaryDirectory(prefix="mk-bench-") as name:
        root = InvokeAI(Path(name) / "invokeai")
        fill(root, number)
        with (
            Suite(Path(name) / "data", services=("record", "download", "install")) as suite,
            Client(data_dir=suite.data_dir) as client,
        ):
            dry = timed(client, root, "new", number, validate_only=True)
            first = timed(client, root, "new", number)
            again = timed(client, root, "unchanged", number)
    what = f"of an InvokeAI with {number:,} models"
    report(f"dry run {what}", f"{dry:.1f} s", "-", None)
    report(f"the same again {what}", f"{again:.1f} s", "-", None)
    return report(f"import {what}", f"{first:.1f} s", f"<= {BAR_S:.0f} s", first * OF / number <= BAR_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=OF)
    raise SystemExit(not main(parser.parse_args().models))
