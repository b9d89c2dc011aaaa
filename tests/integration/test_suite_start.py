"""The real four services under the supervisor: they start, answer on health, serve alone, and drain."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelkeep.supervisor import SERVICES, Suite, SuiteError, read_suite_file


@pytest.mark.timeout(90)
def test_all_four_services_come_up_answer_and_drain(data_dir: Path) -> None:
    suite = Suite(data_dir)
    suite.start()
    try:
        assert set(suite.addresses) == set(SERVICES)
        for name, address in suite.addresses.items():
            with grpc.insecure_channel(address) as channel:
                asked = health_pb2.HealthCheckRequest(service=f"modelkeep.{name}.v1.{name.title()}Service")
                answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        codes = suite.stop()
    assert codes == dict.fromkeys(SERVICES, 0)
    assert read_suite_file(data_dir) is None
    for name in SERVICES:
        lines = (data_dir / "logs" / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["message"] for line in lines][-1] == "drained"
        assert (data_dir / "logs" / f"{name}.log").read_text() == "", "nothing is printed past the log"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_ready_without_its_peers(service: str) -> None:
    with Suite(services=(service,)) as suite:
        assert suite.kill(service, signal.SIGTERM) == 0


@pytest.mark.timeout(60)
def test_a_killed_services_last_words_come_from_its_log_when_it_printed_nothing(data_dir: Path) -> None:
    journal = data_dir / "logs" / "record.jsonl"
    with Suite(data_dir, services=("record",)) as suite:
        # Lines are written by a thread of the service, after what they tell.
        while '"serving"' not in journal.read_text():
            time.sleep(0.02)
        suite.kill("record")
        path, words = suite.processes["record"].last_words()
    assert path == journal
    assert json.loads(words[-1])["message"] == "serving"


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give folders away")
@pytest.mark.parametrize("place", [".", "run"])
def test_a_data_folder_of_another_user_is_refused_before_anything_is_written(
    data_dir: Path, place: str
) -> None:
    (data_dir / "run").mkdir(mode=0o700)
    os.chown(data_dir / place, 65534, 65534)
    with pytest.raises(SuiteError, match=r"of another user \(uid 65534\).*chown -R") as caught:
        Suite(data_dir, services=("record",)).start()
    assert caught.value.exit_code == 73
    assert not any((data_dir / "run").iterdir())


@pytest.mark.timeout(60)
def test_a_database_of_a_newer_schema_ends_the_start_with_65(data_dir: Path) -> None:
    with Suite(data_dir, services=("record",)):
        pass
    with sqlite3.connect(data_dir / "record" / "record.db") as database:
        database.execute("PRAGMA user_version = 9999")
        database.execute("INSERT OR IGNORE INTO schema_migrations (version) VALUES (9999)")
    database.close()
    with pytest.raises(SuiteError, match="newer") as refused:
        Suite(data_dir, services=("record",)).start()
    assert refused.value.exit_code == 65


@pytest.mark.timeout(60)
def test_a_setting_that_does_not_exist_ends_the_start_with_78() -> None:
    suite = Suite(services=("record",), env={"MODELKEEP_RECORD_COLOUR": "blue"})
    with pytest.raises(SuiteError, match="MODELKEEP_RECORD_COLOUR") as refused:
        suite.start()
    assert refused.value.exit_code == 78


@pytest.mark.timeout(60)
def test_a_module_in_the_folder_where_it_was_started_is_not_taken_for_the_librarys(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("random", "grpc", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(tmp_path)
    with Suite(data_dir, services=("record",)) as suite:
        assert suite.processes["record"].returncode is None
