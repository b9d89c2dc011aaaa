"""A hash is taken in every form in which people paste a SHA-256, and any other is named."""

from __future__ import annotations

import pytest

from modelkeep.exceptions import FieldInvalidException
from modelkeep_common.hash_forms import sha256_of

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        DIGEST,
        DIGEST.upper(),
        f"  {DIGEST}\n",
        f"sha256:{DIGEST}",
        f"SHA256: {DIGEST.upper()}",
        f"sha-256={DIGEST}",
        f"oid sha256:{DIGEST}",
        f"{DIGEST}  model (1).safetensors",
        f"{DIGEST} *model.safetensors",
        " ".join(DIGEST[at : at + 8] for at in range(0, 64, 8)),
        ":".join(DIGEST[at : at + 2] for at in range(0, 64, 2)),
    ],
)
def test_a_sha256_is_taken_as_it_is_pasted(text: str) -> None:
    assert sha256_of(text) == DIGEST


def test_nothing_stays_nothing() -> None:
    assert sha256_of("") == sha256_of("  ") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ABCDEF0123", "this has 10, like AutoV2, the first ten characters of a SHA-256"),
        ("abcdef012345", "like AutoV3, which is of the tensors alone"),
        ("ab" * 20, "this has 40, like SHA-1, which Git uses"),
        ("ab" * 16, "like MD5"),
        ("ab" * 31, "this has 62"),
        (f"blake3:{DIGEST}", "this one is marked as blake3"),
        (f"crc32: {DIGEST[:8]}", "this one is marked as crc32"),
        ("the one on the page", "64 hexadecimal characters and nothing else"),
    ],
)
def test_another_hash_is_named(text: str, words: str) -> None:
    with pytest.raises(FieldInvalidException) as caught:
        sha256_of(text)
    [violation] = caught.value.violations
    assert words in violation.description
    assert violation.field == "expected_sha256"
