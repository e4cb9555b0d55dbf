"""Collections in Postgres."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from services.chassis.postgres import outages, transaction
from services.retrieval.analysis import ANALYZER
from services.retrieval.catalog import Collection, CollectionStats, Creation
from services.retrieval.embedding import EmbedderIdentity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.chassis.postgres import Pool
    from services.retrieval.stores.rows import Row

_INSERT = """
INSERT INTO collections (uid, collection, description, embedder, fingerprint, dimensions, languages, create_time, analyzer)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING uid
"""
_REMEMBER = """
INSERT INTO creations (request_id, content_hash, response) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING request_id
"""
_FORGET = "DELETE FROM creations WHERE create_time < now() - interval '1 day'"
_NAMED = """
SELECT c.*, EXISTS (SELECT FROM documents d WHERE d.collection_uid = c.uid AND d.vector_count > 0) AS has_vectors
FROM collections c WHERE collection = ANY($1)
"""
_COUNTED = """
SELECT c.*, counts.* FROM collections c, LATERAL (
    SELECT count(*) AS document_count, coalesce(sum(chunk_count), 0) AS chunk_count, coalesce(bool_or(vector_count > 0), false)
        AS has_vectors
    FROM documents d WHERE d.collection_uid = c.uid
) counts
"""
# Sizes come from the heads of stored values: no text is read for them.
_STATS = """
SELECT c.*, counts.* FROM collections c, LATERAL (
    SELECT count(*) AS document_count,
        count(*) FILTER (WHERE indexed_edition IS DISTINCT FROM wanted_edition) AS pending_document_count,
        coalesce(sum(chunk_count), 0) AS chunk_count, coalesce(sum(vector_count), 0) AS vector_count,
        coalesce(bool_or(vector_count > 0), false) AS has_vectors,
        coalesce(sum(octet_length(text)), 0) AS text_bytes,
        coalesce(sum(pg_column_size(text) + pg_column_size(headings) + pg_column_size(metadata)), 0) AS stored_bytes,
        max(d.create_time) AS last_ingest_time
    FROM documents d WHERE d.collection_uid = c.uid
) counts WHERE c.collection = $1
"""
_DELETE = """
WITH gone AS (DELETE FROM collections WHERE collection = $1 RETURNING uid)
INSERT INTO erasures (collection_uid) SELECT uid FROM gone RETURNING collection_uid
"""


class PostgresCollections:
    """See `catalog.CollectionRecords`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def creation(self, request_id: str) -> Creation | None:
        """See `CollectionRecords.creation`."""
        with outages():
            row = await self._pool.fetchrow("SELECT content_hash, response FROM creations WHERE request_id = $1", request_id)
        return Creation(row["content_hash"], _of_response(json.loads(row["response"]))) if row else None

    async def insert(self, collection: Collection, request_id: str, content_hash: str) -> bool:
        """See `CollectionRecords.insert`."""
        async with transaction(self._pool) as connection:
            if request_id:
                await connection.execute(_FORGET)
                if not await connection.fetchval(_REMEMBER, request_id, content_hash, _response(collection)):
                    return False
            embedder = collection.embedder
            kept = await connection.fetchval(
                _INSERT,
                collection.uid,
                collection.collection,
                collection.description,
                embedder.name,
                embedder.fingerprint,
                embedder.dimensions,
                embedder.languages,
                collection.create_time,
                ANALYZER,
            )
            if not kept and request_id:
                await connection.execute("DELETE FROM creations WHERE request_id = $1", request_id)
        return bool(kept)

    async def named(self, collections: Sequence[str]) -> dict[str, Collection]:
        """See `CollectionRecords.named`."""
        with outages():
            rows = await self._pool.fetch(_NAMED, collections)
        return {row["collection"]: _of_row(row) for row in rows}

    async def counted(self, collection: str) -> Collection | None:
        """See `CollectionRecords.counted`."""
        with outages():
            row = await self._pool.fetchrow(f"{_COUNTED} WHERE collection = $1", collection)
        return _of_row(row) if row else None

    async def describe(self, collection: str, description: str) -> bool:
        """See `CollectionRecords.describe`."""
        with outages():
            return bool(
                await self._pool.fetchval(
                    "UPDATE collections SET description = $2 WHERE collection = $1 RETURNING true", collection, description
                )
            )

    async def stats(self, collection: str) -> CollectionStats | None:
        """See `CollectionRecords.stats`."""
        with outages():
            row = await self._pool.fetchrow(_STATS, collection)
        if row is None:
            return None
        return CollectionStats(
            collection=_of_row(row),
            pending_document_count=row["pending_document_count"],
            vector_count=row["vector_count"],
            text_bytes=row["text_bytes"],
            stored_bytes=row["stored_bytes"],
            last_ingest_time=row["last_ingest_time"],
        )

    async def page(self, after: str, size: int) -> list[Collection]:
        """See `CollectionRecords.page`."""
        with outages():
            rows = await self._pool.fetch(f"{_COUNTED} WHERE collection > $1 ORDER BY collection LIMIT $2", after, size)
        return [_of_row(row) for row in rows]

    async def delete(self, collection: str) -> bool:
        """See `CollectionRecords.delete`."""
        with outages():
            return await self._pool.fetchval(_DELETE, collection) is not None


def _of_row(row: Row) -> Collection:
    return Collection(
        uid=UUID(str(row["uid"])),
        collection=row["collection"],
        description=row["description"],
        embedder=EmbedderIdentity(row["embedder"], row["fingerprint"], row["dimensions"], tuple(row["languages"])),
        create_time=row["create_time"],
        document_count=row.get("document_count", 0),
        chunk_count=row.get("chunk_count", 0),
        has_vectors=row["has_vectors"],
    )


def _response(collection: Collection) -> str:
    embedder = collection.embedder
    return json.dumps(
        {
            "uid": str(collection.uid),
            "collection": collection.collection,
            "description": collection.description,
            "embedder": embedder.name,
            "fingerprint": embedder.fingerprint,
            "dimensions": embedder.dimensions,
            "languages": embedder.languages,
            "create_time": collection.create_time.isoformat(),
            "has_vectors": False,
        }
    )


def _of_response(response: dict[str, Any]) -> Collection:
    return _of_row({**response, "create_time": datetime.fromisoformat(response["create_time"])})
