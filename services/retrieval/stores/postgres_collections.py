"""Collections in Postgres."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from services.chassis.postgres import outages, transaction
from services.retrieval.access import AccessList
from services.retrieval.analysis import ANALYZER
from services.retrieval.catalog import Collection, CollectionStats, Creation, Settings
from services.retrieval.embedding import EmbedderIdentity
from services.retrieval.fusion import Rrf
from services.retrieval.stores.rows import calibration_of, chunking_of, fusion_json, fusion_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.chassis.postgres import Pool
    from services.retrieval.calibration import Calibration
    from services.retrieval.stores.rows import Row

_INSERT = """
INSERT INTO collections (
    uid, collection, description, embedder, fingerprint, dimensions, languages, create_time, analyzer, tenant, owner, acl,
    ttl_seconds, text_languages, fusion, reranker, system_prompt, chunking
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) ON CONFLICT DO NOTHING RETURNING uid
"""
_CHANGE = """
UPDATE collections SET description = $2, acl = $3, ttl_seconds = $4, fusion = $5, reranker = $6, system_prompt = $7,
    revision = revision + 1
WHERE uid = $1 RETURNING true
"""
_CALIBRATE = "UPDATE collections SET calibration = $2, revision = revision + 1 WHERE uid = $1 RETURNING true"
_REMEMBER = """
INSERT INTO creations (tenant, request_id, content_hash, response) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING request_id
"""
_FORGET = "DELETE FROM creations WHERE create_time < now() - interval '1 day'"
_NAMED = """
SELECT c.*, EXISTS (SELECT FROM documents d WHERE d.collection_uid = c.uid AND d.vector_count > 0) AS has_vectors,
    (SELECT coalesce(sum(weight), 0)::bigint FROM changes WHERE collection_uid = c.uid) AS changes,
    (SELECT count(*) FROM documents d WHERE d.expire_time <= now() AND d.collection_uid = c.uid) AS expired
FROM collections c WHERE tenant = $1 AND collection = ANY($2)
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
) counts WHERE c.uid = $1
"""
# Every index of the collection is to be dropped: the one that serves it, and the one of a reindexing.
_DELETE = """
WITH others AS (SELECT index_uid FROM reindexings WHERE collection_uid = $1 AND end_time IS NULL),
gone AS (DELETE FROM collections WHERE uid = $1 RETURNING coalesce(index_uid, uid) AS index_uid)
INSERT INTO erasures (collection_uid, index_uid)
SELECT $1, index_uid FROM gone UNION SELECT $1, index_uid FROM others WHERE EXISTS (SELECT FROM gone) RETURNING index_uid
"""


class PostgresCollections:
    """See `catalog.CollectionRecords`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def creation(self, tenant: str, request_id: str) -> Creation | None:
        """See `CollectionRecords.creation`."""
        with outages():
            row = await self._pool.fetchrow(
                "SELECT content_hash, response FROM creations WHERE tenant = $1 AND request_id = $2", tenant, request_id
            )
        return Creation(row["content_hash"], _of_response(json.loads(row["response"]))) if row else None

    async def insert(self, collection: Collection, request_id: str, content_hash: str) -> bool:
        """See `CollectionRecords.insert`."""
        async with transaction(self._pool) as connection:
            if request_id:
                await connection.execute(_FORGET)
                response = json.dumps(_columns(collection), default=str)
                if not await connection.fetchval(_REMEMBER, collection.tenant, request_id, content_hash, response):
                    return False
            row = _columns(collection)
            kept = await connection.fetchval(
                _INSERT,
                collection.uid,
                collection.collection,
                row["description"],
                row["embedder"],
                row["fingerprint"],
                row["dimensions"],
                row["languages"],
                collection.create_time,
                ANALYZER,
                collection.tenant,
                collection.owner,
                row["acl"],
                row["ttl_seconds"],
                row["text_languages"],
                row["fusion"],
                row["reranker"],
                row["system_prompt"],
                row["chunking"],
            )
            if not kept and request_id:
                await connection.execute(
                    "DELETE FROM creations WHERE tenant = $1 AND request_id = $2", collection.tenant, request_id
                )
        return bool(kept)

    async def named(self, tenant: str, collections: Sequence[str]) -> dict[str, Collection]:
        """See `CollectionRecords.named`."""
        with outages():
            rows = await self._pool.fetch(_NAMED, tenant, collections)
        return {row["collection"]: _of_row(row) for row in rows}

    async def counted(self, uid: UUID) -> Collection | None:
        """See `CollectionRecords.counted`."""
        with outages():
            row = await self._pool.fetchrow(f"{_COUNTED} WHERE c.uid = $1", uid)
        return _of_row(row) if row else None

    async def change(self, uid: UUID, settings: Settings) -> bool:
        """See `CollectionRecords.change`."""
        told = _told(settings)
        with outages():
            return bool(
                await self._pool.fetchval(
                    _CHANGE,
                    uid,
                    *(told[name] for name in ("description", "acl", "ttl_seconds", "fusion", "reranker", "system_prompt")),
                )
            )

    async def calibrate(self, uid: UUID, calibration: Calibration | None) -> bool:
        """See `CollectionRecords.calibrate`."""
        kept = None if calibration is None else json.dumps(asdict(calibration))
        with outages():
            return bool(await self._pool.fetchval(_CALIBRATE, uid, kept))

    async def stats(self, uid: UUID) -> CollectionStats | None:
        """See `CollectionRecords.stats`."""
        with outages():
            row = await self._pool.fetchrow(_STATS, uid)
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

    async def page(self, tenant: str, after: str, size: int) -> list[Collection]:
        """See `CollectionRecords.page`."""
        with outages():
            rows = await self._pool.fetch(
                f"{_COUNTED} WHERE tenant = $1 AND collection > $2 ORDER BY collection LIMIT $3", tenant, after, size
            )
        return [_of_row(row) for row in rows]

    async def delete(self, uid: UUID) -> bool:
        """See `CollectionRecords.delete`."""
        with outages():
            return await self._pool.fetchval(_DELETE, uid) is not None


def _of_row(row: Row) -> Collection:
    ttl, calibration = row["ttl_seconds"], row.get("calibration", None)
    return Collection(
        uid=UUID(str(row["uid"])),
        index_uid=UUID(str(row.get("index_uid", None) or row["uid"])),
        tenant=row["tenant"],
        owner=row["owner"],
        collection=row["collection"],
        settings=Settings(
            description=row["description"],
            languages=tuple(row["text_languages"]),
            ttl=None if ttl is None else timedelta(seconds=ttl),
            acl=_acl(row["acl"]),
            fusion=fusion_of(row["fusion"]),
            reranker=row["reranker"] or "",
            system_prompt=row.get("system_prompt", ""),
            chunking=chunking_of(row.get("chunking", None)),
        ),
        embedder=EmbedderIdentity(row["embedder"], row["fingerprint"], row["dimensions"], tuple(row["languages"])),
        create_time=row["create_time"],
        revision=row.get("revision", 1),
        calibration=calibration_of(calibration),
        document_count=row.get("document_count", 0),
        chunk_count=row.get("chunk_count", 0),
        has_vectors=row.get("has_vectors", False),
        changes=(row.get("changes", 0), row.get("expired", 0)),
    )


def _columns(collection: Collection) -> dict[str, Any]:
    """A new collection as a row."""
    embedder = collection.embedder
    return {
        "uid": collection.uid,
        "tenant": collection.tenant,
        "owner": collection.owner,
        "collection": collection.collection,
        "embedder": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimensions": embedder.dimensions,
        "languages": embedder.languages,
        "create_time": collection.create_time,
        **_told(collection.settings),
    }


def _told(settings: Settings) -> dict[str, Any]:
    return {
        "description": settings.description,
        "text_languages": settings.languages,
        "ttl_seconds": None if settings.ttl is None else int(settings.ttl.total_seconds()),
        "acl": None if settings.acl is None else json.dumps(asdict(settings.acl)),
        "fusion": None if settings.fusion == Rrf() else fusion_json(settings.fusion),
        "reranker": settings.reranker or None,
        "system_prompt": settings.system_prompt,
        "chunking": json.dumps(settings.chunking.to_json()),
    }


def _acl(text: str | None) -> AccessList | None:
    if text is None:
        return None
    kept = json.loads(text)
    return AccessList(tuple(kept["readers"]), tuple(kept["writers"]))


def _of_response(response: dict[str, Any]) -> Collection:
    earlier = {
        "tenant": "",
        "owner": "",
        "text_languages": (),
        "ttl_seconds": None,
        "acl": None,
        "fusion": None,
        "reranker": None,
    }
    return _of_row({**earlier, **response, "create_time": datetime.fromisoformat(response["create_time"])})
