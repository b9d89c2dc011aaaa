"""The misbehaving HTTP server as a process, as integration tests and demos start it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from support.httpserver import pattern


def test_the_server_runs_as_a_process_and_counts_what_it_serves(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"from a file")
    command = [sys.executable, "-m", "support.httpserver", "--pattern", "/p.bin=1000"]
    with subprocess.Popen(
        [*command, "--file", f"/f={tmp_path / 'f'}"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        base = process.stdout.readline().strip()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def get(path: str, **headers: str) -> bytes:
            with opener.open(urllib.request.Request(base + path, headers=headers), timeout=5) as answer:
                return bytes(answer.read())

        assert get("/f") == b"from a file"
        assert get("/p.bin") == pattern(1000)
        assert get("/p.bin", Range="bytes=900-") == pattern(1000)[900:]
        stats = json.loads(get("/_stats"))
        assert stats["/p.bin"]["bytes"] == 1100
        assert [r["range"] for r in stats["/p.bin"]["requests"]] == [None, "bytes=900-"]
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0
