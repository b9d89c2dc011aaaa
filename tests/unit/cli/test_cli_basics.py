"""The command line without any service: help, usage, remedies, output, completion."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from modelkeep.cli import _download_limits, _errors, _output
from modelkeep.cli._fields import assignments
from modelkeep.cli._words import few
from modelkeep.cli.main import app
from modelkeep.exceptions import (
    BY_REASON,
    DeadlineExceededException,
    DiskFullException,
    FieldInvalidException,
    FieldViolation,
    InstallInProgressException,
    InvalidModelException,
    ModelkeepError,
    SourceNotFoundException,
    SubmodelRequiredException,
    UnknownLeaseException,
    UnknownModelException,
    UpstreamUnavailableException,
)
from modelkeep.install.v1 import install_pb2
from modelkeep.supervisor import SERVICES

VERBS = (
    *("up", "demo", "install", "register", "installs", "downloads", "list", "show"),
    *("search", "edit", "rm", "probe", "load", "cache", "export", "import", "backup"),
)


def test_help_names_every_command_and_the_exit_codes() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", result.stdout, re.MULTILINE), verb
    assert "130 interrupted" in " ".join(result.stdout.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_of_its_own(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_help_is_quick_since_it_imports_neither_grpc_nor_pydantic_nor_rich() -> None:
    code = (
        "import sys\n"
        "from modelkeep.cli.main import app\n"
        "try:\n    app(['--help'])\n"
        "except SystemExit:\n"
        "    heavy = {'grpc', 'pydantic', 'torch', 'google.protobuf', 'rich'} & set(sys.modules)\n"
        "    sys.exit(','.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert CliRunner().invoke(app, ["--version"]).stdout == f"modelkeep {version('modelkeep')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["nonsense"], ["list", "--nonsense"], ["show"], ["installs", "cancel"]),
        *([group, verb, str(1 << 63)] for group in ("installs", "downloads") for verb in ("watch", "cancel")),
        ["install", "x", "--priority", str(1 << 31)],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [["up", "--data-dir", ""], ["--data-dir", " ", "up"]])
def test_an_empty_data_folder_is_not_taken_for_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "leave the option out" in result.output


def test_the_shell_completes_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelkeep.cli"],
        env={"_MODELKEEP_COMPLETE": "complete_bash", "COMP_WORDS": "modelkeep in", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["install", "installs"]


_LONG = """
import sys
from modelkeep.cli import main as cli

@cli.app.command("long")
def long() -> None:
    for _ in range(1000):
        print("x" * 99)

sys.argv = ["modelkeep", "long"]
cli.main()
"""


def test_an_output_that_is_longer_than_a_buffer_meets_a_full_disk_in_words() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", _LONG], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "Error: The output cannot be written: No space left on device.\n",
    )


# -- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownModelException("x"), 3),
        (UnknownLeaseException("x"), 3),
        (SourceNotFoundException("x"), 3),
        (UpstreamUnavailableException("x"), 4),
        (DeadlineExceededException("x"), 4),
        (FieldInvalidException("x"), 2),
        (DiskFullException("x"), 1),
        (ModelkeepError("x"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: ModelkeepError, code: int) -> None:
    assert _errors.code_of(error) == code


def test_a_sentence_names_the_first_of_many() -> None:
    assert few(["a"]) == "a"
    assert few(list("abcde")) == "a, b, c, d, e"
    assert few(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_advice_is_only_given_for_reasons_that_there_are() -> None:
    assert set(_errors._REMEDIES) <= set(BY_REASON)


def test_advice_takes_its_facts_from_the_error() -> None:
    busy = InstallInProgressException("x", metadata={"id": "7"})
    assert "modelkeep installs cancel 7" in _errors.remedy(busy)
    assert "vae,unet" in _errors.remedy(SubmodelRequiredException("x", metadata={"loadable": "vae,unet"}))
    assert "{" not in _errors.remedy(SubmodelRequiredException("x"))
    assert _errors.remedy(ModelkeepError("x", metadata={"remedy": "Log in."})) == "Log in."
    said = InvalidModelException("It is cut off. Fetch it anew.", remedy="Fetch it anew.")
    assert _errors.remedy(said) == "", "the message gives it, and nothing else helps"
    unknown = InvalidModelException("Unknown.", metadata={"missing": "type,base"})
    assert "`modelkeep install PATH --set type=TYPE --set base=BASE`" in _errors.remedy(unknown)


def test_bad_fields_are_told_once_without_advice_that_says_nothing() -> None:
    bad = FieldInvalidException("", violations=[FieldViolation("name", "must be set")])
    assert _errors.remedy(bad) == ""
    told = FieldInvalidException("", violations=[FieldViolation("a", "is bad")], remedy="Do this.")
    assert _errors.remedy(told) == "Do this."


# -- output ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["TOKEN_REQUIRED", "TOKEN_REJECTED"])
def test_advice_on_tokens_names_what_a_person_types_and_not_what_a_program_calls(reason: str) -> None:
    error = BY_REASON[reason]("No.", metadata={"remedy": "create the download with an access token"})
    assert "MODELKEEP_ACCESS_TOKEN" in _errors.remedy(error)


def test_who_is_to_accept_terms_reads_at_which_page_and_what_to_type_then() -> None:
    facts = {"terms": "https://h/o/n", "kept_under": "h", "remedy": "Accept them at https://h/o/n, then …"}
    advice = _errors.remedy(BY_REASON["TOKEN_REQUIRED"]("No.", metadata=facts))
    assert "Accept the terms at https://h/o/n" in advice
    assert "MODELKEEP_ACCESS_TOKEN" in advice
    assert "`modelkeep auth login h`" in advice


def test_all_the_choices_of_an_ambiguous_source_are_told() -> None:
    facts = {"choices": "o/n:a (1 MB); o/n:b (2 MB)", "remedy": "Name one, such as o/n:a."}
    advice = _errors.remedy(BY_REASON["AMBIGUOUS_SOURCE"]("No.", metadata=facts))
    assert advice == "Name one, such as o/n:a. There are: o/n:a (1 MB); o/n:b (2 MB)."


def test_who_names_nothing_that_there_is_reads_how_a_repository_is_written() -> None:
    advice = _errors.remedy(BY_REASON["SOURCE_NOT_FOUND"]("There is nothing at /tmp/gpt2."))
    assert "owner/name" in advice
    assert "hf:name" in advice


@pytest.mark.parametrize(("needs", "token"), [("source_url", False), ("source_url, access_token", True)])
def test_who_lacks_a_hidden_address_is_not_sent_for_a_token_alone(needs: str, token: bool) -> None:
    advice = _errors.remedy(BY_REASON["TOKEN_REQUIRED"]("No.", metadata={"needs": needs}))
    assert "--url" in advice
    assert ("MODELKEEP_ACCESS_TOKEN" in advice) is token


@pytest.mark.parametrize("given", ["0.5", "0.0001k", "0.1B/s"])
def test_a_rate_below_a_byte_a_second_is_not_taken_as_none(given: str) -> None:
    with pytest.raises(typer.BadParameter, match="less than a byte a second"):
        _download_limits.rate_of(given)
    assert _download_limits.rate_of("0") == 0


def test_json_has_the_names_of_the_proto_files_and_leaves_nothing_out() -> None:
    value = _output.as_json(install_pb2.Install(id=3, state=install_pb2.INSTALL_STATE_RUNNING))
    assert value["id"] == "3"
    assert value["state"] == "INSTALL_STATE_RUNNING"
    assert value["model_key"] == ""
    json.dumps(value)


def test_what_an_error_says_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _errors.complain(ModelkeepError("a\x1b[31m\u202ed"))
    assert r"a\x1b[31m\u202ed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (4_265_146_304, "4.3 GB")]
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert _output.size(count) == text


def test_assignments_read_lists_and_truth_values_and_keep_text() -> None:
    given = ["name=42", 'tags=["a", "b"]', "upcast_attention=true", "description=", "source=a=b"]
    assert assignments(given) == {
        "name": "42",
        "tags": ["a", "b"],
        "upcast_attention": True,
        "description": None,
        "source": "a=b",
    }


def test_only_the_value_of_a_field_that_is_a_truth_value_or_a_list_is_read_as_one() -> None:
    given = ["name=true", 'description=["a"]', "trigger_phrases=false"]
    assert assignments(given) == {
        "name": "true",
        "description": '["a"]',
        "trigger_phrases": ["false"],
    }


def test_one_text_for_a_field_that_is_a_list_is_a_list_of_one() -> None:
    assert assignments(["tags=ink", "trigger_phrases=1", "tags2=ink"]) == {
        "tags": ["ink"],
        "trigger_phrases": ["1"],
        "tags2": "ink",
    }
    assert assignments(["tags="]) == {"tags": None}


def test_an_argument_that_is_no_utf_8_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelkeep.cli", "show", b"\xff"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


def test_up_passes_a_failed_start_on(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = CliRunner().invoke(app, ["up", "--data-dir", str(blocked), "--port", "0"])
    assert result.exit_code == 73
    assert "--data-dir" in result.stdout


def test_an_address_that_cannot_be_had_is_not_called_taken(tmp_path: Path) -> None:
    arguments = ["up", "--data-dir", str(tmp_path), "--host", "192.0.2.1", "--port", "50951"]
    plain = CliRunner().invoke(app, arguments)
    assert plain.exit_code == 78
    # `up` has no flag --insecure, so the variable is named.
    assert re.search(r"MODELKEEP_[A-Z]+_INSECURE=true", plain.stdout)
    insecure = {f"MODELKEEP_{service.upper()}_INSECURE": "true" for service in SERVICES}
    forced = CliRunner().invoke(app, arguments, env=insecure)
    assert forced.exit_code == 78
    assert "cannot listen on 192.0.2.1:" in forced.stdout
