"""Writes what an answer rests on in the shapes that OpenAI's clients read as annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from services.inference.openai.collections import Cited, Source


def url_citation(cited: Cited) -> dict[str, Any]:
    """As chat completions have it, the only kind there."""
    return {"type": "url_citation", "url_citation": _url_citation(cited)}


def annotation(cited: Cited) -> dict[str, Any]:
    """As responses have it: of a web address, or of a file where the document has none."""
    if cited.source.url:
        return {"type": "url_citation", **_url_citation(cited)}
    source = cited.source
    name = source.title or source.document
    return {"type": "file_citation", "file_id": f"{source.collection}/{source.document}", "filename": name, "index": cited.end}


def source_of(source: Source) -> dict[str, Any]:
    """A passage that was found, cited or not."""
    return {
        "number": source.number,
        "collection": source.collection,
        "document": source.document,
        "chunk": source.chunk,
        "title": source.title,
        "text": source.text,
        "url": _address(source),
        "start": source.start,
        "end": source.end,
        "relevance": source.relevance,
    }


def _url_citation(cited: Cited) -> dict[str, Any]:
    title = cited.source.title or cited.source.document
    return {"start_index": cited.start, "end_index": cited.end, "url": _address(cited.source), "title": title}


def _address(source: Source) -> str:
    """The document's own address; else where the gateway serves it, as a path."""
    if source.url:
        return source.url
    return f"/v1/collections/{quote(source.collection, safe='')}/documents/{quote(source.document, safe='')}"
