"""Files of this host that may be what is to be fetched: which count, and what becomes of wrong ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep_common.paths import AllowedRoots
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.hub_cache import HubCache
from modelkeep_download.engine.hub_home import hub_cache
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.transfer import Answered, Began, Credentials, Durable, News, Partial, Written
from modelkeep_download.engine.transport import HttpTransport
from modelkeep_download.sources.present import Present
from modelkeep_download.sources.url import HttpTransfer
from support.httpserver import HttpServer, Resource, pattern

BODY = pattern(20_000_000)
SHA = hashlib.sha256(BODY).hexdigest()


class Bench:
    """A transfer to one partial file, which may copy from a folder."""

    def __init__(self, folder: Path, web: HttpServer) -> None:
        self.copy = folder / "there" / "copy.bin"
        self.copy.parent.mkdir()
        self.copy.write_bytes(BODY)
        self.partial, self.web = folder / "data", web
        (folder / "suite").mkdir()
        roots = AllowedRoots([self.copy.parent], data_dir=folder / "suite", models=[], setting="import_roots")
        self._session = HttpTransport(AddressGuard(allow_private=True))
        self._transfer = HttpTransfer(self._session, present=Present(roots=roots))
        self.news: list[News] = []
        self.stop = StopSignal()

    def run(self, have: ByteRanges | None = None, on: Callable[[News], None] = lambda news: None) -> str:
        """Fetch it; what it has come to."""

        def tell(news: News) -> None:
            self.news.append(news)
            on(news)

        total = len(BODY) if have else None
        there = Partial(
            self.partial,
            have or ByteRanges(),
            total,
            "",
            hash_decides=True,
            expected_sha256=SHA,
            local_copy=str(self.copy),
        )
        url = self.web.put("/m.bin", Resource(BODY, etag='"v1"'))
        try:
            return self._transfer.run(Credentials(url), there, tell, self.stop)
        finally:
            self._session.close()

    def told(self, kind: type[News]) -> list[News]:
        """The news of a kind."""
        return [news for news in self.news if isinstance(news, kind)]


@pytest.fixture
def bench(tmp_path: Path, web: HttpServer) -> Bench:
    return Bench(tmp_path, web)


def test_a_named_copy_is_told_as_a_transfer_is_and_nobody_is_asked(bench: Bench) -> None:
    assert bench.run() == SHA
    assert bench.partial.read_bytes() == BODY
    assert not bench.web.requests
    assert [type(news) for news in bench.news[:2]] == [Answered, Began]
    assert bench.told(Written)[-1] == Written(len(BODY))


def test_a_copy_goes_on_where_it_was(bench: Bench) -> None:
    def stop(news: News) -> None:
        if isinstance(news, Written):
            bench.stop.stop()

    with pytest.raises(Stopped):
        bench.run(on=stop)
    durable = bench.told(Durable)[-1]
    assert isinstance(durable, Durable)
    assert 0 < durable.have.size < len(BODY)
    bench.stop, bench.news = StopSignal(), []
    assert bench.run(durable.have) == SHA
    assert bench.told(Began) == []
    first = bench.told(Written)[0]
    assert isinstance(first, Written)
    assert first.bytes_done > durable.have.size


@pytest.mark.parametrize("size", [0, 5_000_000])
def test_a_copy_that_is_cut_meanwhile_is_fetched_in_its_place(bench: Bench, size: int) -> None:
    def cut(news: News) -> None:
        if isinstance(news, Began) and not bench.web.requests:
            os.truncate(bench.copy, size)

    assert bench.run(on=cut) == SHA
    assert bench.partial.read_bytes() == BODY
    assert bench.web.bytes_served("/m.bin") >= len(BODY)


def test_a_copy_that_is_written_to_meanwhile_is_fetched_in_its_place(bench: Bench) -> None:
    def change(news: News) -> None:
        if isinstance(news, Began) and not bench.web.requests:
            with bench.copy.open("r+b") as file:
                file.seek(15_000_000)
                file.write(b"other bytes")

    assert bench.run(on=change) == SHA
    answered = bench.told(Answered)
    assert isinstance(answered[1], Answered)
    assert (
        answered[1].kept == ByteRanges()
    )  # told before the source is asked, so that no kill goes on with it


@pytest.mark.parametrize("what", ["gone", "outside", "folder", "link"])
def test_what_may_not_or_cannot_be_read_is_fetched(bench: Bench, tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside.bin"
    bench.copy.rename(outside)
    match what:
        case "outside":
            bench.copy = outside
        case "folder":
            bench.copy.mkdir()
        case "link":
            bench.copy.symlink_to(outside)
    assert bench.run() == SHA
    assert bench.web.bytes_served("/m.bin") >= len(BODY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("whose", ["", "models--a--b/blobs", f"models--a--b/blobs/{SHA}"])
def test_what_is_another_users_is_none_of_ours(tmp_path: Path, whose: str) -> None:
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / SHA).write_bytes(BODY)
    cache = HubCache(tmp_path)
    assert cache.paths_of({SHA: None}) == {SHA: blobs / SHA}
    os.chown(tmp_path / whose, 12345, 12345)
    assert cache.paths_of({SHA: None}) == {}


def test_the_cache_is_where_the_hubs_client_has_it() -> None:
    home = {"HOME": "/home/me"}
    for environ, path in (
        ({}, None),
        (home, "/home/me/.cache/huggingface/hub"),
        ({**home, "XDG_CACHE_HOME": "/var/cache"}, "/var/cache/huggingface/hub"),
        ({**home, "HF_HOME": "~/hf"}, "/home/me/hf/hub"),
        ({**home, "HF_HOME": "/hf", "HF_HUB_CACHE": "/other"}, "/other"),
    ):
        assert hub_cache(environ) == (Path(path) if path else None)
    assert HubCache(Path("/nowhere/at/all")).paths_of({SHA: None}) == {}
