"""The dashboard's built files, and how a browser gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import modelkeep

_PACKAGE = Path(modelkeep.__file__).parent
#: Where they lie: in an installed package, and in the repository.
_PLACES = (_PACKAGE / "dashboard", _PACKAGE.parents[1] / "dashboard" / "dist")
_START = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
#: A page runs and asks nothing but what comes from here, and no other page shows it: it may hold a token.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def find_pages() -> Path | None:
    """The folder of the built files, or None where there are none."""
    return next((place for place in _PLACES if (place / _START).is_file()), None)


def page_files(folder: Path) -> list[Path]:
    """The files of a built dashboard that a browser may ask for."""
    return sorted(path for path in folder.rglob("*") if path.suffix in _TYPES and path.is_file())


def page_routes(folder: Path, seen_at: Path) -> list[dict[str, Any]]:
    """One route for each file; that of ``index.html`` is ``/``. Envoy finds the folder at `seen_at`."""
    return [
        {
            "match": {
                "path": "/" if path == folder / _START else f"/{path.relative_to(folder).as_posix()}",
                "headers": [{"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}],
            },
            "direct_response": {"status": 200, "body": {"filename": str(seen_at / path.relative_to(folder))}},
            "response_headers_to_add": [
                {
                    "header": {"key": key, "value": value},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
                for key, value in {"content-type": _TYPES[path.suffix], **_HEADERS}.items()
            ],
        }
        for path in page_files(folder)
    ]
