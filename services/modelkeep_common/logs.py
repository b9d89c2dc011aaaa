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
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .urls import redact

_GATHER_S = 0.05
_MAX_TEXT = 2000
_MAX_HELD = 16 << 20


class LineWriter:
    """Takes lines from any thread and writes them in the background, in order.

    A line that cannot be written, on a full disk or into a pipe that nobody reads, is lost, and how many
    were is told by the next that can: nobody ever waits for the log, and it holds 16 MiB at most.

    Args:
        file: Where to append; None writes to ``fd``.
        fd: An open descriptor, which stays open.
        max_bytes: A file that has become larger is renamed to ``….1``, in place of the one before, and begun
            anew; 0 never.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, file: Path | None = None, *, fd: int = 2, max_bytes: int = 0) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._fd = fd if file is None else _open(file)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._held = 0
        self._lost = 0
        self._is_broken_off = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="log-writer")
        self._thread.start()
        atexit.register(self.close)

    def put(self, text: str) -> None:
        """Take one line without its end; never blocks."""
        # Not exact between threads; it is set right whenever all is written.
        if self._held > _MAX_HELD:
            self._lost += 1
            return
        self._held += len(text)
        self._lines.put(text)

    def close(self) -> None:
        """Write what is left."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            self._lines.put(None)
            self._thread.join(timeout=5)
            if self._file is not None and not self._thread.is_alive():
                with contextlib.suppress(OSError):
                    os.close(self._fd)

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
            self._write([text for text in lines if text is not None])
            if self._lines.empty():
                self._held = 0

    def _write(self, lines: list[str]) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            lines = [line("WARNING", {"message": "log lines were lost", "lost": lost}), *lines]
        data = "".join(f"{text}\n" for text in lines).encode(errors="replace")
        if self._is_broken_off:
            data = b"\n" + data
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            rest = bytes(view)
            self._lost += lost + rest.count(b"\n")
            self._is_broken_off = not data[: len(data) - len(rest)].endswith(b"\n") and len(rest) < len(data)
            return
        self._is_broken_off = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Put a file aside that is too large; if that cannot be, it goes on growing."""
        if self._file is None or not self._max_bytes:
            return
        with contextlib.suppress(OSError):
            if os.fstat(self._fd).st_size < self._max_bytes:
                return
            self._file.replace(self._file.with_name(f"{self._file.name}.1"))
            old, self._fd = self._fd, _open(self._file)
            os.close(old)


def _open(file: Path) -> int:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


#: Libraries that log every address that they ask.
_TELL_ADDRESSES = ("httpx", "httpx2")
_writer: LineWriter | None = None
_service = ""


def configure(
    service: str, *, level: str = "INFO", file: Path | None = None, max_bytes: int = 0
) -> LineWriter:
    """Send every log record of this process through one writer; replaces what was set up before.

    Raises:
        OSError: The file cannot be opened.
    """
    global _writer, _service
    made = LineWriter(file, max_bytes=max_bytes)
    if _writer is not None:
        _writer.close()
    _writer, _service = made, service
    handler = JsonHandler(_writer)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, JsonHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for library in _TELL_ADDRESSES:
        logging.getLogger(library).setLevel(max(root.level, logging.WARNING))
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
