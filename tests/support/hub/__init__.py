"""A server of loopback that speaks Hugging Face's API: what its own client downloads from it arrives.

In a test::

    with Hub() as hub:
        repository = hub.repository("org/model", {"README.md": CARD, "vae/model.safetensors": body})
        first = repository.commit({"vae/model.safetensors": other}, branch="fp16")
        hub.repository("org/gated", files_of(folder), gated="manual").grant("alice")
        HfApi(hub.url, token=hub.token("alice")).snapshot_download("org/gated", cache_dir=tmp_path)
        hub.fail(r"/resolve/main/vae/", Status(503), Hang(after=-1))  # the next two of these
        hub.fail_storage("model.safetensors", Cut(after=1000))  # where large files lie: another host
        hub.limit("resolvers", left=3, resets_s=55)  # then 429
        assert not any("authorization" in request.headers for request in hub.storage.requests)

`hub.site` and `hub.storage` are `support.httpserver.HttpServer`s, with their log of requests.
"""

from support.hub.contents import File as File
from support.hub.contents import Sparse as Sparse
from support.hub.contents import files_of as files_of
from support.hub.repositories import Repository as Repository
from support.hub.server import Hub as Hub
