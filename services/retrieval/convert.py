"""Between the messages of the protos and the domain."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from google.protobuf import duration_pb2, json_format, struct_pb2, timestamp_pb2
from penstock.retrieval.v1 import document_pb2, search_pb2, search_service_pb2

from services.chassis.errors import invalid_field
from services.retrieval.documents import DocumentState, Incoming
from services.retrieval.passages import SearchMode
from services.retrieval.search_convert import to_explanation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from services.retrieval.documents import Document
    from services.retrieval.passages import Found, Hit

_MODES: Final = {
    search_pb2.SEARCH_MODE_UNSPECIFIED: SearchMode.HYBRID,
    search_pb2.SEARCH_MODE_HYBRID: SearchMode.HYBRID,
    search_pb2.SEARCH_MODE_DENSE: SearchMode.DENSE,
    search_pb2.SEARCH_MODE_SPARSE: SearchMode.SPARSE,
}
_MODE_VALUES: Final = {
    SearchMode.HYBRID: search_pb2.SEARCH_MODE_HYBRID,
    SearchMode.DENSE: search_pb2.SEARCH_MODE_DENSE,
    SearchMode.SPARSE: search_pb2.SEARCH_MODE_SPARSE,
}
_STATES: Final = {
    DocumentState.PENDING: document_pb2.DOCUMENT_STATE_PENDING,
    DocumentState.INDEXED: document_pb2.DOCUMENT_STATE_INDEXED,
    DocumentState.HELD: document_pb2.DOCUMENT_STATE_HELD,
}


def from_mode(mode: search_pb2.SearchMode.ValueType) -> SearchMode:
    """The mode that an enum value stands for."""
    return _MODES[mode]


def to_mode(mode: SearchMode) -> search_pb2.SearchMode.ValueType:
    """The enum value of a mode."""
    return _MODE_VALUES[mode]


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Seconds as a message."""
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(max(0, round(seconds * 1e9)))
    return duration


def to_timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """A moment, which must know its time zone, as a message."""
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def to_struct(facts: Mapping[str, object]) -> struct_pb2.Struct:
    """Plain values as a message."""
    struct = struct_pb2.Struct()
    json_format.ParseDict(dict(facts), struct)
    return struct


def of_document(message: document_pb2.DocumentInput, number: int) -> Incoming:
    """A document to add; `number` is its place in the request, for failures to name."""
    content = message.text if message.WhichOneof("content") == "text" else message.data
    return Incoming(
        document=message.document,
        title=message.title,
        content=content,
        media_type=message.media_type,
        metadata=of_facts(message.metadata, f"documents[{number}].metadata"),
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else None,
    )


def of_facts(struct: struct_pb2.Struct, field: str) -> dict[str, object]:
    """Metadata as plain values: strings, numbers, booleans and lists of them."""
    try:
        facts: dict[str, object] = json_format.MessageToDict(struct)
    except (json_format.SerializeToJsonError, ValueError) as error:
        raise invalid_field(field, "numbers must be finite") from error
    for name, value in facts.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str | int | float) for one in values):
            raise invalid_field(f"{field}.{name}", "must be a string, a number, a boolean or a list of these")
        if "\x00" in name or any(isinstance(one, str) and "\x00" in one for one in values):
            raise invalid_field(field, "must not hold the character U+0000")
    return facts


def to_document(document: Document, collection: str) -> document_pb2.Document:
    """A document as a message."""
    return document_pb2.Document(
        document=document.document,
        collection=collection,
        title=document.title,
        media_type=document.media_type,
        metadata=to_struct(document.metadata),
        state=_STATES[document.state],
        chunk_count=document.chunk_count,
        version=document.version,
        text=document.text,
        content_hash=document.content_hash,
        create_time=to_timestamp(document.create_time),
        expire_time=to_timestamp(document.expire_time) if document.expire_time else None,
    )


def to_hit(hit: Hit) -> search_pb2.Hit:
    """A hit as a message."""
    return search_pb2.Hit(
        collection=hit.collection,
        document=hit.document,
        chunk=hit.chunk,
        text=hit.text,
        score=hit.score,
        relevance=hit.relevance,
        title=hit.title,
        metadata=to_struct(hit.metadata),
        start=hit.start,
        end=hit.end,
        explanation=to_explanation(hit.explanation),
        page=hit.page,
        headings=hit.headings,
    )


def to_search_response(found: Found, *, cached: bool) -> search_service_pb2.SearchResponse:
    """What was found as a message."""
    return search_service_pb2.SearchResponse(
        hits=[to_hit(hit) for hit in found.hits],
        mode=to_mode(found.mode),
        mode_note=found.mode_note,
        timings=search_service_pb2.SearchTimings(
            embedding=to_duration(found.timings.embedding),
            store=to_duration(found.timings.store),
            total=to_duration(found.timings.total),
            reranking=to_duration(found.timings.reranking),
        ),
        reranker=found.reranker,
        rerank_note=found.rerank_note,
        cached=cached,
    )


def to_page_token(after: str) -> str:
    """The place where a page ended as a token that says nothing to its bearer; empty stays empty."""
    return base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")


def of_page_token(token: str) -> str:
    """The place that a token stands for. Raises Failure(INVALID_FIELD) for one that was never given."""
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise invalid_field("page_token", "is not one that an earlier page gave; begin without one") from error
