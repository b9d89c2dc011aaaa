"""One table of reasons: its keys are those of the .proto's comments and of every place that raises."""

from __future__ import annotations

import string

import pytest

from modelkeep.errors.v1 import error_reason_pb2
from modelkeep.exceptions import BY_REASON, DiskFullException, UnknownModelException
from modelkeep.reasons import CLIENT_KEYS, COMMON_KEYS, SITUATIONS
from support import raisesites
from support.reasons import comments, declared

#: What a source's refusal is told with, whichever of its reasons it has: download/domain/refusals.py.
REFUSED = {"host", "status", "said", "deadline", "needs", "credential", "kept_under"}
REFUSALS = {
    *("SOURCE_NOT_FOUND", "TOKEN_REQUIRED", "TOKEN_REJECTED", "LICENSE_NOT_ACCEPTED", "PURCHASE_REQUIRED"),
    *("EARLY_ACCESS", "SOURCE_DISABLED", "ADDRESS_EXPIRED", "UPSTREAM_UNAVAILABLE", "NOT_A_MODEL_FILE"),
    "RATE_LIMITED",
}
#: Keys that are passed from one error to another, or read from a status, and where they are made.
PASSED_ON = {
    ("INTERNAL", "request_id"): "common/calls/status.py: internal_status",
    ("UPSTREAM_UNAVAILABLE", "ignored_variables"): "download/engine/dialing.py",
    ("UPSTREAM_UNAVAILABLE", "proxy"): "download/engine/proxies.py",
    **{(reason, key): "refusals.py" for reason in REFUSALS for key in REFUSED},
}


REASONS = sorted(name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys())  # noqa: SIM118
REASONS.remove("UNSPECIFIED")


def test_the_table_has_every_reason_and_no_other() -> None:
    assert sorted(SITUATIONS) == REASONS
    assert sorted(BY_REASON) == REASONS


@pytest.mark.parametrize("reason", REASONS)
def test_the_comment_names_the_code_and_the_keys_of_the_table(reason: str) -> None:
    comment = comments()[reason]
    assert f"Code {BY_REASON[reason].code}." in comment
    assert "Retry:" in comment
    assert declared(comment) == set(SITUATIONS[reason].keys)


@pytest.mark.parametrize("reason", REASONS)
def test_a_remedy_is_a_sentence_that_takes_only_the_keys_of_its_reason(reason: str) -> None:
    remedy = SITUATIONS[reason].remedy
    assert remedy[0].isupper()
    assert remedy.endswith((".", "`."))
    taken = {name for _, name, _, _ in string.Formatter().parse(remedy) if name}
    assert taken <= set(SITUATIONS[reason].keys)


def test_every_place_that_raises_keeps_to_the_keys_of_its_reason() -> None:
    """A new key: name it in modelkeep/reasons.py and in the comment of errors/v1/error_reason.proto."""
    wrong = {
        site.place: unknown
        for site in raisesites.sites()
        if (
            unknown := site.keys
            - set(SITUATIONS[site.reason].keys)
            - set(COMMON_KEYS)
            - (set(CLIENT_KEYS) if site.in_client else set())
        )
    }
    assert wrong == {}


def test_every_key_of_the_table_is_produced_somewhere() -> None:
    produced: dict[str, set[str]] = {}
    for site in raisesites.sites():
        produced.setdefault(site.reason, set()).update(site.keys)
    missing = {
        (reason, key)
        for reason, situation in SITUATIONS.items()
        for key in situation.keys
        if key not in produced.get(reason, set())
    }
    assert missing - PASSED_ON.keys() == set()


def test_an_error_carries_what_helps_in_its_case_or_in_every_case() -> None:
    plain = UnknownModelException("No model has the key.", metadata={"key": "k"})
    assert plain.facts["remedy"] == plain.remedy == SITUATIONS["UNKNOWN_MODEL"].remedy
    assert plain.metadata == {"key": "k"}
    assert str(plain) == f"No model has the key. {plain.remedy}"
    told = UnknownModelException("No model has the key.", remedy="Look again.")
    assert (told.remedy, told.facts["remedy"]) == ("Look again.", "Look again.")
    said = DiskFullException("No room. Make some.", remedy="Make some.")
    assert str(said) == "No room. Make some."
    lacking = DiskFullException("No room.")  # its general remedy names the path
    assert (lacking.remedy, lacking.facts, str(lacking)) == ("", {}, "No room.")
