"""The second host, where LFS and xet files lie: signed addresses that expire, and no tokens."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from urllib.parse import parse_qs, quote, urlencode

from support.httpresources import Request, Resource
from support.hub.contents import MAX_BRIDGE_BYTES, Blob
from support.hub.repositories import Repository


class Storage:
    """Signs addresses of blobs and serves what they lead to.

    Attributes:
        valid_s: How long an address leads anywhere.
    """

    def __init__(self, valid_s: float) -> None:
        self.valid_s = valid_s
        self._key = secrets.token_bytes(16)
        self._blobs: dict[str, Blob] = {}

    def expire(self) -> None:
        """All addresses given so far have expired."""
        self._key = secrets.token_bytes(16)

    def address(self, base: str, repository: Repository, blob: Blob, filename: str) -> str:
        """Where a file may be fetched from for a while."""
        path = (
            f"/xet-bridge-us/{repository.number}/{blob.xet_hash}"
            if blob.is_xet
            else f"/repos/{repository.number[:2]}/{repository.number[2:4]}/{repository.number}/{blob.sha256}"
        )
        self._blobs[path] = blob
        until = f"{time.time() + self.valid_s:.3f}"
        disposition = f'attachment; filename="{filename}"'
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD",
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "X-Amz-Expires": f"{self.valid_s:.0f}",
            "X-Amz-Signature": self._signature(path, until, disposition),
            "X-Amz-SignedHeaders": "host",
            "response-content-disposition": disposition,
            "x-id": "GetObject",
            "Expires": until,
        }
        return f"{base}{path}?{urlencode(query, quote_via=quote)}"

    def answer(self, request: Request) -> Resource:
        """The file, or why it is not to be had."""
        path, _, query = request.path.partition("?")
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        if "authorization" in request.headers:
            return _refusal(400, "InvalidArgument", "Only one auth mechanism allowed")
        until, disposition = asked.get("Expires", ""), asked.get("response-content-disposition", "")
        given = asked.get("X-Amz-Signature", "")
        blob = self._blobs.get(path)
        if blob is None or not given:
            return _refusal(403, "AccessDenied", "Access Denied")
        signed = hmac.compare_digest(given, self._signature(path, until, disposition))
        if not signed or time.time() > float(until):
            return _refusal(403, "AccessDenied", "Request has expired")
        if blob.is_xet and blob.size > MAX_BRIDGE_BYTES:
            return _refusal(400, "BadRequest", "Bad Request")
        return Resource(
            blob.body,
            etag=f'"{blob.sha256}"',
            disposition=disposition,
            last_modified="Mon, 01 Jan 2024 00:00:00 GMT",
            headers={"Accept-Ranges": "bytes"},
        )

    def _signature(self, path: str, until: str, disposition: str) -> str:
        text = f"{path}\n{until}\n{disposition}".encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def _refusal(status: int, code: str, message: str) -> Resource:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Resource(text.encode(), content_type="application/xml", status=status)
