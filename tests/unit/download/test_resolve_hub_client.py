"""The way to the hub: through the session alone, and without a trace in the hub's own library."""

from __future__ import annotations

import gzip
import logging

import httpx2
import pytest
from huggingface_hub import set_client_factory
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]
from huggingface_hub.utils._http import default_client_factory

from modelkeep.exceptions import ForbiddenAddressException
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.sessions import RequestsSession
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import HttpTransport
from modelkeep_download.resolve.hub_client import HubClient, rewritten
from modelkeep_download.resolve.hugging_face import endpoint_of
from support.hub import Hub

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 300, "README.md": b"# x\n"}


def guarded() -> HttpTransport:
    return HttpTransport(AddressGuard(allow_private=True))


def told(status: int, headers: dict[str, str], body: bytes = b"") -> tuple[HubClient, list[str]]:
    """A client of a hub that says this to everything, and what it was asked."""
    asked: list[str] = []

    def answers(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(body))

    session = RequestsSession(httpx2.Client(transport=httpx2.MockTransport(answers)))
    return HubClient(session, "https://hub.example", "", StopSignal()), asked


def test_another_programs_use_of_the_hubs_library_stays_as_it_is() -> None:
    with Hub() as theirs, Hub() as ours:
        theirs.repository("org/theirs", FILES)
        ours.repository("org/ours", FILES)
        seen: list[str] = []
        made = httpx2.Client(event_hooks={"request": [lambda request: seen.append(str(request.url))]})
        set_client_factory(lambda: made)
        try:
            assert get_session() is made
            session = guarded()
            hub = HubClient(session, ours.url, "", StopSignal())
            model = hub.model("org/ours", "")
            assert hub.files(model)
            hub.close()
            session.close()
            assert seen == [], "no request of ours went by their client"
            assert get_session() is made
            assert not made.is_closed
            assert get_session().get(f"{theirs.url}/api/models/org/theirs").status_code == 200
            assert seen == [f"{theirs.url}/api/models/org/theirs"]
            assert not [request for request in theirs.site.requests if "ours" in request.path]
        finally:
            made.close()
            set_client_factory(default_client_factory)


def test_a_downgrade_and_packed_answers_are_refused() -> None:
    hub, asked = told(302, {"Location": "http://hub.example/x"})
    with pytest.raises(ForbiddenAddressException, match="https to http"):
        hub.model("o/n", "")
    assert asked == ["https://hub.example/api/models/o/n?securityStatus=true"]
    packed = gzip.compress(b'{"id": "o/n", "sha": "0123456789"}')
    hub, _ = told(200, {"Content-Encoding": "gzip"}, packed)
    with pytest.raises(TransientError, match="packs its answer"):
        hub.model("o/n", "")


def test_the_hubs_own_addresses_are_the_mirrors() -> None:
    mirror = "https://mirror.example/hub"
    assert rewritten("https://huggingface.co/api/x?y", mirror) == f"{mirror}/api/x?y"
    assert (
        rewritten("https://huggingface.co.evil.example/x", mirror) == "https://huggingface.co.evil.example/x"
    )


@pytest.mark.parametrize(
    ("setting", "variable", "found"),
    [
        ("", "", "https://huggingface.co"),
        ("", "https://mirror.example/", "https://mirror.example"),
        ("https://a.example:8443/hub//", "https://b.example", "https://a.example:8443/hub"),
        ("", "http://127.0.0.1:9", "http://127.0.0.1:9"),
    ],
)
def test_an_endpoint_is_the_setting_or_the_variable(setting: str, variable: str, found: str) -> None:
    assert endpoint_of(setting, {"HF_ENDPOINT": variable}) == found


@pytest.mark.parametrize(
    "text",
    ["ftp://a", "mirror.example", "https://u:p@a.example", "https://a.example/?token=abcdefgh", "https://"],
)
def test_an_endpoint_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        endpoint_of(text, {})


def test_what_the_hub_warns_of_is_not_in_this_process_log(caplog: pytest.LogCaptureFixture) -> None:
    hub, _ = told(200, {"X-HF-Warning": "topic; buy our things"}, b"{}")
    with caplog.at_level(logging.DEBUG), pytest.raises(TransientError, match="as a hub does"):
        hub.model("o/n", "")
    assert "buy our things" not in caplog.text
