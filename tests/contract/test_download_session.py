"""A service whose downloads go through a session of `requests`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import requests

from modelkeep.download.v1 import download_pb2
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.sessions import RequestsSession
from modelkeep_download.engine.transport import Limits
from support.downloads import download_service
from support.httpserver import Cut, HttpServer, Resource, pattern

BODY = pattern(3_000_000)


async def test_a_job_is_fetched_through_the_session_with_its_own_token(
    data_dir: Path, web: HttpServer
) -> None:
    with requests.Session() as theirs:
        theirs.headers["X-Session"] = "theirs"
        session = RequestsSession(theirs, AddressGuard(allow_private=True), Limits(stall_timeout_s=5))
        async with download_service(data_dir, session=session) as client:
            url = web.put("/m.bin", Resource(BODY, authorization="Bearer t", faults=[Cut(1_000_000)]))
            job = await client.run(url, access_token="t")
    assert job.state == download_pb2.DOWNLOAD_STATE_COMPLETED, job
    assert job.sha256 == hashlib.sha256(BODY).hexdigest()
    assert {request.headers["x-session"] for request in web.requests} == {"theirs"}
    assert {request.headers["authorization"] for request in web.requests} == {"Bearer t"}
