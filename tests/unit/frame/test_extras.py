"""What a service drags in: the record service knows neither torch nor HTTP, and none imports torch."""

from __future__ import annotations

import pytest

from support.importing import modules_of


@pytest.mark.parametrize(
    ("package", "banned"),
    [
        ("modelkeep_record", {"torch", "diffusers", "transformers", "httpx", "numpy"}),
        ("modelkeep_download", {"torch", "diffusers", "transformers"}),
        ("modelkeep_install", {"torch", "diffusers", "transformers", "httpx"}),
        ("modelkeep_loader", {"torch", "diffusers", "transformers", "httpx"}),
    ],
)
def test_a_server_process_imports_only_what_it_needs(package: str, banned: set[str]) -> None:
    assert not modules_of(package) & banned
