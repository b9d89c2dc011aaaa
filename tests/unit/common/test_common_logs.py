"""modelkeep_common.logs: JSON lines without secrets."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep_common import logs
from modelkeep_common.urls import redact


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "logs" / "x.jsonl"
    logs.configure("record", file=path)
    yield path
    logs.shutdown()


def lines(path: Path) -> list[dict[str, Any]]:
    logs.shutdown()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SECRET99",
        "using hf_SECRET99abcdef for it",
        "https://host/file?token=SECRET99&x=1",
        "https://host/f?a=1&X-Amz-Signature=SECRET99",
        "https://user:SECRET99@host/file",
        "{'access_token': 'SECRET99', 'a': 1}",
        'password="SECRET99"',
        "api_key: SECRET99",
    ],
)
def test_credentials_are_taken_out_of_texts(text: str) -> None:
    redacted = redact(text)
    assert "SECRET99" not in redacted
    assert redacted != text


@pytest.mark.parametrize(
    "text", ["installed 3 models", "https://host/path?x=1", "resume token accepted", "max_tokens"]
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "ERROR"])
def test_libraries_tell_no_address_that_they_ask(tmp_path: Path, level: str) -> None:
    path = tmp_path / "x.jsonl"
    logs.configure("download", level=level, file=path)
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).info("HTTP Request: GET https://storage.example/x?sig=abc")
        logging.getLogger(library).error("broken")
    assert [line["message"] for line in lines(path)] == ["broken", "broken"]


def test_a_record_is_one_json_line_with_its_fields(log_file: Path) -> None:
    log = logging.getLogger("modelkeep.test")
    log.info("installed %s", "a\nb", extra={"fields": {"key": "k", "url": "https://u:SECRET99@h/", "n": 3}})
    log.debug("not at this level")
    (line,) = lines(log_file)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "severity": "INFO",
        "service": "record",
        "message": "installed a\nb",
        "logger": "modelkeep.test",
        "key": "k",
        "url": "https://h/",
        "n": 3,
    }


def test_of_an_exception_its_type_and_place_are_logged_and_not_its_text(log_file: Path) -> None:
    try:
        try:
            raise KeyError("SECRET99")
        except KeyError as error:
            raise ValueError("SECRET99 too") from error
    except ValueError:
        logging.getLogger("modelkeep.test").exception("failed")
    (line,) = lines(log_file)
    assert "SECRET99" not in json.dumps(line)
    assert line["exception"]["type"] == "builtins.ValueError"
    assert line["exception"]["cause"] == "builtins.KeyError"
    assert "test_of_an_exception" in line["exception"]["at"][-1]


def test_lines_of_many_threads_stay_whole_and_none_is_lost(log_file: Path) -> None:
    def write(number: int) -> None:
        for step in range(200):
            logging.getLogger("t").info("x" * 500, extra={"fields": {"thread": number, "step": step}})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [(line["thread"], line["step"]) for line in lines(log_file)]
    assert len(seen) == 1000
    assert [step for number, step in seen if number == 3] == list(range(200))


def test_a_bad_log_call_neither_reaches_the_caller_nor_shows_its_arguments(log_file: Path) -> None:
    (handler,) = (h for h in logging.getLogger().handlers if isinstance(h, logs.JsonHandler))
    handler.emit(logging.LogRecord("t", logging.INFO, "f", 1, "%d", ("SECRET99",), None))
    logging.getLogger("t").info("fine", extra={"fields": {"odd": object()}})
    bad, fine = lines(log_file)
    assert (bad["severity"], bad["logger"], fine["message"]) == ("ERROR", "t", "fine")
    assert "SECRET99" not in json.dumps(bad)


def test_the_file_is_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for _ in range(2):
        logs.configure("record", file=path)
        logging.getLogger("t").info("again")
        logs.shutdown()
    assert len(path.read_text().splitlines()) == 2
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_has_become_too_large_is_put_aside_and_lines_go_on_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    writer = logs.LineWriter(path, max_bytes=10_000)
    for number in range(250):
        writer._write([f"{number:04} {'x' * 95}"])
    writer.close()
    aside = tmp_path / "x.jsonl.1"
    assert sorted(tmp_path.iterdir()) == [path, aside]
    assert aside.stat().st_size + path.stat().st_size <= 21_000
    kept = [int(line[:4]) for file in (aside, path) for line in file.read_text().splitlines()]
    assert kept == list(range(kept[0], 250))
    assert len(kept) > 100


@given(st.text())
def test_redaction_never_fails(text: str) -> None:
    assert isinstance(redact(text), str)


@given(st.floats(0, 4e9))
def test_timestamps_sort_as_their_times_do(when: float) -> None:
    assert logs.timestamp(when) <= logs.timestamp(when + 0.002)
