"""The pages that the gateway itself serves: the console, the API's documentation, and its OpenAPI description."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
_INDEX: Final = "index.html"

SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True)
class Page:
    """A file that is served as it is."""

    path: str
    """Where it is served, as in `/docs`."""
    content_type: str
    body: bytes

    @cached_property
    def etag(self) -> str:
        """Identifies the content; weak, since it may be served compressed."""
        return f'W/"{hashlib.sha256(self.body).hexdigest()[:16]}"'


def read_pages(openapi: bytes) -> list[Page]:
    """All pages, by path. Files of other types than the web's are left out."""
    pages = [
        *_folder(FOLDER / "console", ""),
        *_folder(FOLDER / "docs", "/docs"),
        Page("/openapi.json", _TYPES[".json"], openapi),
    ]
    return sorted(pages, key=lambda page: page.path)


def _folder(folder: Path, at: str) -> list[Page]:
    if not folder.is_dir():
        return []
    return [
        Page(
            path=(at or "/") if file == folder / _INDEX else f"{at}/{file.relative_to(folder).as_posix()}",
            content_type=_TYPES[file.suffix],
            body=file.read_bytes(),
        )
        for file in folder.rglob("*")
        if file.is_file() and file.suffix in _TYPES and not file.name.startswith(".")
    ]
