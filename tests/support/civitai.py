"""A Civitai over real sockets: its REST answers, its downloads, its refusals.

There is no client library of Civitai to check it with. Its answers were written from the public
documentation of the REST API and from the published source of the site (which fields an answer has, what
an archived model leaves out, statuses and sentences of refusals, the order in which they are checked), and
from answers that users quote.

In a test::

    with Civitai() as site:
        model = site.add(Model("Paint", [Version("v1", [File("paint.safetensors", body)])]))
        ... resolve site.page(model.id), with civitai_endpoint=site.endpoint ...

The site and the storage that it redirects to are `HttpServer`s of two names, with their logs and their
faults: `site.api`, `site.storage`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from support.httpserver import Fault, HttpServer, Request, Resource, Status

TOKEN = "civitai-key-0123456789"
#: What an account without access has.
POOR_TOKEN = "civitai-key-of-somebody"
LOG_IN = "The creator of this asset requires you to be logged in to download it"
CLOUDFLARE = b"<!DOCTYPE html><html><head><title>civitai.com | 503: Service unavailable</title></head></html>"
_WEIGHTS = {"Model": 1000, "Pruned Model": 1000}


class _Known(dict[str, Resource]):
    """What the site has; of anything else it says that it does not."""

    def get(self, path: str, default: Any = None) -> Any:
        if path in self or "?" in path:
            return super().get(path, default)
        number = path.rpartition("/")[2]
        error = f"No model with id {number}" if path.startswith("/api/v1/models/") else "Model not found"
        error = "File not found" if path.startswith("/api/download/") else error
        return Resource(b"", fault_of=lambda request: _json(404, {"error": error}))


@dataclass
class File:
    """A file of a version; its hashes and its size are those of its bytes."""

    name: str
    body: bytes
    type: str = "Model"
    format: str = "SafeTensor"
    size: str = "pruned"
    fp: str = "fp16"
    pickle_scan: str = "Success"
    virus_scan: str = "Success"
    virus_message: str | None = None
    #: Instead of the exact size in KiB.
    size_kb: float | None = None
    hashes: dict[str, str] | None = None
    id: int = 0

    def told(self, address: str, *, primary: bool) -> dict[str, Any]:
        """As the API answers it."""
        facts = {"format": self.format, "size": self.size, "fp": self.fp}
        sha256 = hashlib.sha256(self.body).hexdigest().upper()
        told: dict[str, Any] = {
            "id": self.id,
            "sizeKB": len(self.body) / 1024 if self.size_kb is None else self.size_kb,
            "name": self.name,
            "type": self.type,
            "pickleScanResult": self.pickle_scan,
            "pickleScanMessage": "No Pickle imports",
            "virusScanResult": self.virus_scan,
            "virusScanMessage": self.virus_message,
            "scannedAt": "2026-01-05T10:00:00.000Z",
            "metadata": {name: fact for name, fact in facts.items() if fact},
            "hashes": {"AutoV2": sha256[:10], "SHA256": sha256} if self.hashes is None else self.hashes,
            "downloadUrl": f"{address}?fileId={self.id}",
        }
        return told | ({"primary": True} if primary else {})


@dataclass
class Version:
    """A version of a model."""

    name: str
    files: list[File]
    base: str = "SDXL 1.0"
    published: str | None = "2026-01-05T09:16:12.062Z"
    status: str = "Published"
    trained_words: list[str] = field(default_factory=list)
    description: str | None = None
    images: list[dict[str, Any]] = field(default_factory=list)
    #: Until when only those who paid may have it, as ISO 8601.
    early_until: str | None = None
    #: Whether its maker wants an account for a download.
    needs_login: bool = False
    usage: str = "Download"
    id: int = 0
    model_id: int = 0

    @property
    def primary(self) -> File | None:
        """The file that a download without parameters brings."""
        wanted = {"format": ("SafeTensor", 100), "size": ("pruned", 10), "fp": ("fp16", 1)}

        def score(file: File) -> int:
            facts = sum(
                weight if getattr(file, name) == value else -weight
                for name, (value, weight) in wanted.items()
                if getattr(file, name)
            )
            return _WEIGHTS.get(file.type, 0) + facts

        return max(self.files, key=score, default=None)


@dataclass
class Model:
    """A model with its versions, in the order of its page."""

    name: str
    versions: list[Version]
    type: str = "Checkpoint"
    mode: str | None = None
    description: str | None = "<p>Paints <strong>everything</strong>.</p>"
    tags: list[str] = field(default_factory=lambda: ["base model", "art"])
    creator: str = "painter"
    commercial: list[str] | str = field(default_factory=lambda: ["Image", "Sell"])
    nsfw: bool = False
    id: int = 0


class Civitai:
    """The site: add models, resolve them, read in the logs what was asked for.

    Attributes:
        signed_s: Seconds for which the address of a file in the storage is good.
        paid: Ids of versions that `TOKEN` may have in spite of early access.
    """

    def __init__(self) -> None:
        self.api, self.storage = HttpServer(), HttpServer()
        self.api.resources = _Known()
        self.models: dict[int, Model] = {}
        self.signed_s, self.paid = 60.0, set[int]()
        self._ids = itertools.count(101)

    def __enter__(self) -> Civitai:
        self.api.__enter__()
        self.storage.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.storage.__exit__(*raised)
        self.api.__exit__(*raised)

    @property
    def endpoint(self) -> str:
        """The setting `civitai_endpoint`."""
        return self.api.url("")

    def page(self, model: int, version: int = 0) -> str:
        """The address of a model's page."""
        return self.api.url(f"/models/{model}/a-title{f'?modelVersionId={version}' if version else ''}")

    def link(self, version: int, **parameters: str) -> str:
        """A download link."""
        query = "&".join(f"{name}={quote(value)}" for name, value in parameters.items())
        return self.api.url(f"/api/download/models/{version}{f'?{query}' if query else ''}")

    def add(self, model: Model) -> Model:
        """Put a model on the site; ids that are 0 are given."""
        model.id = model.id or next(self._ids)
        self.models[model.id] = model
        self._serve(f"/api/v1/models/{model.id}", partial(self._model, model))
        for version in model.versions:
            version.id, version.model_id = version.id or next(self._ids), model.id
            answer = partial(self._version, model, version)
            self._serve(f"/api/v1/model-versions/{version.id}", answer)
            self._serve(f"/api/download/models/{version.id}", partial(self._download, model, version))
            for file in version.files:
                file.id = file.id or next(self._ids)
                self.storage.put(f"/blobs/{file.id}", Resource(file.body, fault_of=self._expired))
                for hash_ in self._told(version, file)["hashes"].values():
                    self._serve(f"/api/v1/model-versions/by-hash/{hash_}", answer)
        return model

    def asked(self, path: str = "") -> list[Request]:
        """The requests that the site got, of those for a path that begins so."""
        return [request for request in self.api.requests if request.path.startswith(path)]

    def _serve(self, path: str, answer: Callable[[Request], Fault | None]) -> None:
        self.api.put(path, Resource(b"", fault_of=answer))

    # ---- the API -------------------------------------------------------------------------------------
    def _model(self, model: Model, request: Request) -> Status:
        told = {
            "id": model.id,
            "name": model.name,
            "description": model.description,
            "type": model.type,
            "nsfw": model.nsfw,
            "nsfwLevel": 31 if model.nsfw else 1,
            "availability": "Public",
            "tags": model.tags,
            "creator": {"username": model.creator, "image": None},
            "allowNoCredit": False,
            "allowCommercialUse": model.commercial,
            "allowDerivatives": True,
            "allowDifferentLicense": False,
            "stats": {"downloadCount": 7},
            "modelVersions": [
                self._in_model(model, version)
                for version in model.versions
                if version.status == "Published" and version.files
            ],
        }
        return _json(200, told | ({"mode": model.mode} if model.mode else {}))

    def _version(self, model: Model, version: Version, request: Request) -> Status:
        if version.status != "Published":
            return _json(404, {"error": "Model not found"})
        of = {"name": model.name, "type": model.type, "nsfw": model.nsfw, "poi": False}
        told = self._in_model(model, version) | {
            "modelId": model.id,
            "status": version.status,
            "air": f"urn:air:sdxl:{model.type.lower()}:civitai:{model.id}@{version.id}",
            "usageControl": version.usage,
            "model": of | ({"mode": model.mode} if model.mode else {}),
        }
        return _json(200, told)

    def _in_model(self, model: Model, version: Version) -> dict[str, Any]:
        archived, address = model.mode == "Archived", self.link(version.id)
        told = {
            "id": version.id,
            "name": version.name,
            "baseModel": version.base,
            "baseModelType": "Standard",
            "publishedAt": version.published,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "availability": "EarlyAccess" if version.early_until else "Public",
            "nsfwLevel": 1,
            "description": version.description,
            "trainedWords": version.trained_words,
            "files": [] if archived else [self._told(version, file) for file in version.files],
            "images": [] if model.mode == "TakenDown" else version.images,
        }
        if version.early_until:
            told["earlyAccessEndsAt"] = version.early_until
        return told | ({} if archived else {"downloadUrl": address})

    def _told(self, version: Version, file: File) -> dict[str, Any]:
        return file.told(self.link(version.id), primary=file is version.primary)

    # ---- downloads -----------------------------------------------------------------------------------
    def _download(self, model: Model, version: Version, request: Request) -> Status:
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or query.get("token", "")
        if given not in ("", TOKEN, POOR_TOKEN):
            return _json(401, {"error": "Unauthorized", "message": "Invalid API key"})
        if model.mode == "Archived":
            return _json(410, {"error": "Model archived, not available for download"})
        if model.mode == "TakenDown" or version.status != "Published":
            return _json(404, {"error": "File not found"})
        if version.usage != "Download":
            message = "The creator of this asset has disabled downloads on this file"
            return _json(401, {"error": "Unauthorized", "message": message})
        if version.needs_login and not given:
            return _json(401, {"error": "Unauthorized", "message": LOG_IN})
        if version.early_until and not (given == TOKEN and version.id in self.paid):
            message = "This asset is in Early Access and was not bought by this account."
            return _json(403, {"error": "Early Access", "deadline": version.early_until, "message": message})
        file = _chosen(version, query)
        if file is None:
            return _json(404, {"error": "File not found"})
        until = time.time() + self.signed_s
        name = quote(f'attachment; filename="{file.name}"')
        # "localhost" is another host than the API's: what is for that one must not follow
        address = self.storage.url(f"/blobs/{file.id}", host="localhost")
        signed = (
            f"{address}?X-Amz-Expires={until:.3f}&X-Amz-Signature=5ea1&response-content-disposition={name}"
        )
        self.storage.resources[f"/blobs/{file.id}"].disposition = f'attachment; filename="{file.name}"'
        return Status(307, headers={"Location": signed, "Cache-Control": "no-store"})

    def _expired(self, request: Request) -> Status | None:
        if "authorization" in request.headers:  # as object stores answer to two ways of signing at once
            return Status(400, body=b"<Error><Code>InvalidArgument</Code></Error>")
        query = parse_qs(urlsplit(request.path).query)
        if float(query.get("X-Amz-Expires", ["0"])[0]) < time.time():
            return Status(
                403, body=b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            )
        return None


def _chosen(version: Version, query: dict[str, str]) -> File | None:
    if "fileId" in query:
        return next((file for file in version.files if str(file.id) == query["fileId"]), None)
    wanted = {name: query[name] for name in ("type", "format", "size", "fp") if name in query}
    if not wanted:
        return version.primary
    fits = [f for f in version.files if all(getattr(f, name) == value for name, value in wanted.items())]
    return fits[0] if fits else None


def _json(code: int, value: object) -> Status:
    return Status(code, body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})
