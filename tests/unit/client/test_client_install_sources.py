"""What a caller is told who names a repository where a path is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.client._install_requests import no_repository
from modelkeep.exceptions import SourceNotFoundException


@pytest.mark.parametrize("written", ["owner/name", "hf:owner/name", "hf://owner/name", "owner/name:vae"])
def test_a_repository_that_is_no_path_is_told_apart(written: str) -> None:
    with pytest.raises(SourceNotFoundException) as refused, no_repository(written):
        raise SourceNotFoundException("There is nothing at /x/owner/name.", metadata={"source": "/x"})
    assert "A Hugging Face repository cannot be fetched yet." in refused.value.message
    assert refused.value.remedy.endswith("https://huggingface.co/owner/name/resolve/main/FILE")


@pytest.mark.parametrize("written", ["./owner/name", "/owner/name", "a/b/c", "name", Path("owner/name")])
def test_a_path_stays_a_path(written: str | Path) -> None:
    error = SourceNotFoundException("There is nothing at /x.")
    with pytest.raises(SourceNotFoundException) as refused, no_repository(written):
        raise error
    assert refused.value is error
