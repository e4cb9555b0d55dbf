"""Puts the project's own documentation into the suite, so that the very first question gets a cited answer.

    python -m deploy.local.sample        with BASE_URL, DATA_DIR and, where keys are demanded, API_KEYS_FILE

It happens once a data folder. A collection of that name that somebody else made is left alone.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.local.settings import ROOT
from services.gateway.keys import KeysError, first_key

COLLECTION = "penstock-docs"
_TITLE = "# "
_CALL_LIMIT_S = 120
_INDEXED_LIMIT_S = 120
_CONFLICT = 409


class SampleError(Exception):
    """The gateway refused; the message says what and why."""


class Rest:
    """The few REST calls that are needed here."""

    def __init__(self, base_url: str, key: str) -> None:
        self._base_url = base_url
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, allow: int = 0) -> dict[str, Any] | None:
        """One call; None if it was refused with the status `allow`.

        Raises:
            SampleError: it was refused with another, or nobody answered.
        """
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._base_url + path, data, self._headers, method=method)  # noqa: S310 (our own)
        try:
            with urllib.request.urlopen(request, timeout=_CALL_LIMIT_S) as response:  # noqa: S310 (our own)
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            if error.code == allow:
                return None
            raise SampleError(f"{method} {path} gave {error.code}: {_message(error.read())}") from error
        except (OSError, http.client.HTTPException) as error:
            raise SampleError(f"{method} {path}: {error}") from error


def _message(body: bytes) -> str:
    """What an error says for people."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    return str(told["message"]) if isinstance(told, dict) and "message" in told else body[:300].decode(errors="replace")


def documents(root: Path) -> list[dict[str, Any]]:
    """The project's documentation as documents to add, in the order of their names."""
    paths = [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]
    found = []
    for path in paths:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not text.strip():
            continue
        name = path.relative_to(root).as_posix()
        title = next((line.removeprefix(_TITLE) for line in text.splitlines() if line.startswith(_TITLE)), name)
        entry = {"document": name, "title": title, "text": text, "media_type": "text/markdown", "metadata": {"path": name}}
        found.append(entry)
    return found


def add(rest: Rest, marker: Path, entries: list[dict[str, Any]]) -> str:
    """Add the documents unless that was done before, and say what came of it."""
    progress = marker.read_text() if marker.exists() else ""
    if progress == "done":
        return "kept"
    created = rest.call("POST", "/v1/collections", {"collection": COLLECTION}, allow=_CONFLICT)
    if created is None and progress != "begun":
        marker.write_text("done")
        return f"left alone: a collection {COLLECTION} exists"
    marker.write_text("begun")
    # One by one: an interrupted run is taken up again, and adding a document again changes nothing.
    for entry in entries:
        rest.call("POST", f"/v1/collections/{COLLECTION}/documents", {"documents": [entry]})
        print(entry["document"], flush=True)
    _wait_until_searchable(rest)
    marker.write_text("done")
    return f"{len(entries)} documents in {COLLECTION}"


def _wait_until_searchable(rest: Rest) -> None:
    """Documents are durable when added, and searchable once an embedder has answered."""
    deadline = time.monotonic() + _INDEXED_LIMIT_S
    body = {"collections": [COLLECTION], "query": "penstock", "top_k": 1}
    while not (rest.call("POST", "/v1/search", body) or {}).get("hits"):
        if time.monotonic() > deadline:
            raise SampleError(f"the documents are stored, but not searchable after {_INDEXED_LIMIT_S} s; see inference's log")
        time.sleep(0.2)


def main() -> int:
    """Return the exit status: 1 if the documents could not be added."""
    try:
        keys_file = os.environ.get("API_KEYS_FILE", "")
        key = os.environ.get("PENSTOCK_API_KEY") or (first_key(Path(keys_file)) if keys_file else "")
        if keys_file and not key:
            print(
                "the keys are hashed: name one with retrieval:read and retrieval:write in PENSTOCK_API_KEY to load the sample"
            )
            return 0
        rest = Rest(os.environ["BASE_URL"], key)
        print(add(rest, Path(os.environ["DATA_DIR"]) / "sample", documents(ROOT)))
    except (SampleError, KeysError, OSError) as error:
        print(f"the sample documents could not be added: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
