"""JSON log lines: one per call and one per event, written by a thread of their own.

A line is a flat JSON object: ``ts`` (RFC 3339, UTC), ``severity``, ``service``, ``message`` and the
event's fields. Tokens are taken out of every text; request and response bodies never get here, and of
an exception only its type and where it was raised, since its text may quote either.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from .urls import redact

_GATHER_S = 0.05
_MAX_TEXT = 2000


class LineWriter:
    """Takes lines from any thread and writes them in the background, in order."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._closed = False
        #: Takes one line without its end; never blocks.
        self.put = self._lines.put
        self._thread = threading.Thread(target=self._run, daemon=True, name="log-writer")
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Write what is left."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            self._lines.put(None)
            self._thread.join(timeout=5)
            if self._stream not in (sys.stderr, sys.stdout):
                self._stream.close()

    def _run(self) -> None:
        last = False
        while not last:
            lines = [self._lines.get()]
            if lines[0] is not None and not self._closed:
                # Gathering makes the caller's put() a mere append: this thread is not woken for each.
                time.sleep(_GATHER_S)
            with contextlib.suppress(queue.Empty):
                while True:
                    lines.append(self._lines.get_nowait())
            last = None in lines
            text = "".join(f"{line}\n" for line in lines if line is not None)
            # A full disk or a closed pipe must not take the service down with it.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()


_writer: LineWriter | None = None
_service = ""


def configure(service: str, *, level: str = "INFO", file: Path | None = None) -> LineWriter:
    """Send every log record of this process through one writer; replaces what was set up before."""
    global _writer, _service
    stream: TextIO = sys.stderr
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = os.fdopen(
            os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640), "a", encoding="utf-8"
        )
    if _writer is not None:
        _writer.close()
    _writer, _service = LineWriter(stream), service
    handler = JsonHandler(_writer)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, JsonHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    return _writer


def shutdown() -> None:
    """Write what is left and go back to Python's own logging."""
    global _writer
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, JsonHandler):
            root.removeHandler(old)
    if _writer is not None:
        _writer.close()
        _writer = None


class JsonHandler(logging.Handler):
    """Turns log records into JSON lines. Fields go in ``extra={"fields": {…}}``."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Format and queue one record; never raises."""
        try:
            fields: dict[str, Any] = {
                "message": redact(record.getMessage())[:_MAX_TEXT],
                "logger": record.name,
            }
            extra = getattr(record, "fields", None)
            if isinstance(extra, Mapping):
                fields.update(
                    {key: redact(value) if isinstance(value, str) else value for key, value in extra.items()}
                )
            if record.exc_info and record.exc_info[1] is not None:
                fields["exception"] = describe_exception(record.exc_info[1])
            self._writer.put(line(record.levelname, fields, when=record.created))
        except Exception:
            # Not logging's own handleError: that prints the arguments.
            self._writer.put(line("ERROR", {"message": "unloggable record", "logger": record.name}))


def describe_exception(error: BaseException) -> dict[str, Any]:
    """What may be logged of an exception: its type and where it came from, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    described: dict[str, Any] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "at": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    }
    cause = error.__cause__ or error.__context__
    if cause is not None and cause is not error:
        described["cause"] = f"{type(cause).__module__}.{type(cause).__qualname__}"
    return described


_second = (0, "")


def timestamp(when: float) -> str:
    """``when`` (seconds since 1970) as RFC 3339 in UTC with milliseconds."""
    global _second
    whole = int(when)
    if _second[0] != whole:
        _second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return f"{_second[1]}.{int((when - whole) * 1000):03d}Z"


def line(severity: str, fields: Mapping[str, Any], *, when: float | None = None) -> str:
    """One JSON line; values that JSON lacks become text."""
    head = {"ts": timestamp(time.time() if when is None else when), "severity": severity, "service": _service}
    return json.dumps({**head, **fields}, default=str, ensure_ascii=False, separators=(",", ":"))


def writer() -> LineWriter | None:
    """The process's line writer, if :func:`configure` was called."""
    return _writer


def service_name() -> str:
    """The name given to :func:`configure`."""
    return _service
