"""Between the messages about collections and the domain."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from penstock.retrieval.v1 import collection_pb2

from services.chassis.errors import invalid_field
from services.retrieval.access import AccessList
from services.retrieval.catalog import Changes, Settings
from services.retrieval.convert import to_duration, to_timestamp
from services.retrieval.fusion import Rrf
from services.retrieval.reindex_convert import from_chunking, to_chunking
from services.retrieval.search_convert import from_fusion, to_fusion

if TYPE_CHECKING:
    from google.protobuf import duration_pb2
    from penstock.retrieval.v1 import collection_service_pb2

    from services.retrieval.catalog import Collection, CollectionStats


def from_collection(message: collection_pb2.Collection) -> Settings:
    """Reads what a new collection is told. Raises Failure(INVALID_FIELD)."""
    ttl = _ttl(message.document_ttl, "collection.document_ttl") if message.HasField("document_ttl") else None
    return Settings(
        description=_text(message.description, "collection.description"),
        ttl=ttl or None,
        acl=_access(message.acl, "collection.acl") if message.HasField("acl") else None,
        fusion=from_fusion(message.fusion, "collection.fusion") if message.HasField("fusion") else Rrf(),
        reranker=message.reranker,
        system_prompt=_text(message.system_prompt, "collection.system_prompt"),
        chunking=from_chunking(message.chunking, "collection.chunking"),
    )


def from_changes(request: collection_service_pb2.UpdateCollectionRequest) -> Changes:
    """Reads what to change of a collection. Raises Failure(INVALID_FIELD)."""
    return Changes(
        description=_text(request.description, "description") if request.HasField("description") else None,
        ttl=_ttl(request.document_ttl, "document_ttl") if request.HasField("document_ttl") else None,
        acl=_access(request.acl, "acl") if request.HasField("acl") else None,
        fusion=from_fusion(request.fusion) if request.HasField("fusion") else None,
        reranker=request.reranker if request.HasField("reranker") else None,
        system_prompt=_text(request.system_prompt, "system_prompt") if request.HasField("system_prompt") else None,
    )


def to_collection(collection: Collection) -> collection_pb2.Collection:
    """A collection as a message."""
    settings = collection.settings
    return collection_pb2.Collection(
        collection=collection.collection,
        description=settings.description,
        embedder=collection.embedder.name,
        embedder_fingerprint=collection.embedder.fingerprint,
        dimensions=collection.embedder.dimensions,
        document_count=collection.document_count,
        chunk_count=collection.chunk_count,
        create_time=to_timestamp(collection.create_time),
        document_ttl=to_duration(settings.ttl.total_seconds()) if settings.ttl else None,
        acl=to_access(settings.acl),
        owner=collection.owner,
        fusion=to_fusion(settings.fusion),
        chunking=to_chunking(settings.chunking),
        system_prompt=settings.system_prompt,
        reranker=settings.reranker,
        revision=collection.revision,
    )


def to_access(acl: AccessList | None) -> collection_pb2.AccessList | None:
    """Who may use a collection as a message."""
    return None if acl is None else collection_pb2.AccessList(readers=acl.readers, writers=acl.writers)


def to_stats(stats: CollectionStats) -> collection_pb2.CollectionStats:
    """What a collection holds as a message."""
    collection, embedder = stats.collection, stats.collection.embedder
    return collection_pb2.CollectionStats(
        collection=collection.collection,
        document_count=collection.document_count,
        pending_document_count=stats.pending_document_count,
        chunk_count=collection.chunk_count,
        vector_count=stats.vector_count,
        text_bytes=stats.text_bytes,
        stored_bytes=stats.stored_bytes,
        last_ingest_time=to_timestamp(stats.last_ingest_time) if stats.last_ingest_time else None,
        embedder=embedder.name,
        embedder_fingerprint=embedder.fingerprint,
        dimensions=embedder.dimensions,
        embedder_languages=embedder.languages,
    )


def _access(message: collection_pb2.AccessList, field: str) -> AccessList:
    return AccessList(
        tuple(_text(one, f"{field}.readers") for one in message.readers),
        tuple(_text(one, f"{field}.writers") for one in message.writers),
    )


def _ttl(message: duration_pb2.Duration, field: str) -> timedelta:
    """Whole seconds, as documents expire no finer."""
    ttl = timedelta(seconds=message.seconds)
    if message.nanos and not message.seconds:
        raise invalid_field(field, "must be 0 or at least 1 second")
    return ttl


def _text(text: str, field: str) -> str:
    if "\x00" in text:
        raise invalid_field(field, "must not hold the character U+0000")
    return text
