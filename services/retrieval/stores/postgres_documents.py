"""Documents in Postgres."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import asyncpg

from services.chassis.postgres import outages, transaction
from services.retrieval.documents import Document, DocumentState
from services.retrieval.filters import DocumentSet
from services.retrieval.ranking import LiveDocument
from services.retrieval.stores.postgres_filters import FilterSql
from services.retrieval.stores.rows import plain_uuid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from services.chassis.postgres import Connection, Pool
    from services.retrieval.documents import Read
    from services.retrieval.filters import Condition
    from services.retrieval.stores.rows import Row

LEASE_SECONDS: Final = 30

_COLUMNS = """
d.uid, d.document, d.title, d.media_type, d.metadata, d.content_hash, d.chunk_count, d.version, d.create_time,
d.expire_time, d.held, d.indexed_edition IS NOT DISTINCT FROM d.wanted_edition AS is_indexed
"""
# What makes new vectors needful, and what makes a new version. The old row is `d`, the new one `excluded`.
_NEW_CONTENT = (
    "((d.content_hash, d.title, d.media_type) IS DISTINCT FROM (excluded.content_hash, excluded.title, excluded.media_type))"
)
_NEW = f"({_NEW_CONTENT} OR d.metadata IS DISTINCT FROM excluded.metadata)"
_MINE = f"({_NEW_CONTENT} OR d.indexed_edition IS DISTINCT FROM d.wanted_edition AND coalesce(d.leased_until <= now(), true))"
_FRESH = "(d.expire_time IS NULL OR d.expire_time > now())"
_PUT = f"""
INSERT INTO documents AS d (
    uid, collection_uid, document, title, media_type, metadata, content_hash, text, headings, pages, expire_time, ingestion_uid,
    lease, leased_until
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now() + make_interval(secs => $11), $12,
    $13, CASE WHEN $13::uuid IS NOT NULL THEN now() + make_interval(secs => {LEASE_SECONDS}) END
)
ON CONFLICT (collection_uid, document) DO UPDATE SET
    title = excluded.title, media_type = excluded.media_type, metadata = excluded.metadata,
    content_hash = excluded.content_hash, text = excluded.text, headings = excluded.headings, pages = excluded.pages,
    version = d.version + {_NEW}::int,
    create_time = CASE WHEN {_NEW} THEN now() ELSE d.create_time END,
    wanted_edition = d.wanted_edition + {_NEW_CONTENT}::int,
    expire_time = excluded.expire_time, held = false,
    ingestion_uid = CASE WHEN {_NEW_CONTENT} OR excluded.ingestion_uid IS NOT NULL THEN excluded.ingestion_uid
        ELSE d.ingestion_uid END,
    attempts = CASE WHEN {_NEW_CONTENT} THEN 0 ELSE d.attempts END,
    not_before = CASE WHEN {_MINE} THEN now() ELSE d.not_before END,
    lease = CASE WHEN {_MINE} THEN excluded.lease ELSE d.lease END,
    leased_until = CASE WHEN {_MINE} THEN excluded.leased_until ELSE d.leased_until END
RETURNING {_COLUMNS}
"""  # noqa: S608 - put together from the constants above
# What waits for a lease to end is erased once more then: its holder may be writing.
_GONE = f"""
INSERT INTO erasures (collection_uid, document_uid, not_before)
SELECT collection_uid, uid, now() FROM gone
UNION ALL
SELECT collection_uid, uid, leased_until + make_interval(secs => {LEASE_SECONDS}) FROM gone WHERE leased_until > now()
"""  # noqa: S608 - put together from the constants above
EXPIRE: Final = f"""
WITH old AS (
    SELECT uid FROM documents WHERE expire_time <= now() LIMIT $1 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM documents WHERE uid IN (SELECT uid FROM old) RETURNING collection_uid, uid, leased_until
), noted AS ({_GONE})
SELECT count(*) FROM gone
"""  # noqa: S608 - as above
_EXPIRE_OLDER = f"""
WITH gone AS (
    DELETE FROM documents WHERE collection_uid = $1 AND create_time < now() - make_interval(secs => $2)
    RETURNING collection_uid, uid, leased_until
), noted AS ({_GONE})
SELECT count(*) FROM gone
"""  # noqa: S608 - as above
_STATES = f"SELECT {_COLUMNS} FROM documents d WHERE uid = ANY($1)"  # noqa: S608 - as above
_GET = f"SELECT {_COLUMNS}, d.text FROM documents d WHERE collection_uid = $1 AND document = $2 AND {_FRESH}"  # noqa: S608 - as above
_DELETE = f"""
WITH gone AS (
    DELETE FROM documents WHERE collection_uid = $1 AND document = $2 RETURNING collection_uid, uid, leased_until, expire_time
), noted AS ({_GONE})
SELECT uid FROM gone WHERE expire_time IS NULL OR expire_time > now()
"""  # noqa: S608 - as above
_LIVE = f"""
SELECT d.uid, d.document, d.title, d.metadata, d.indexed_edition, d.chunk_count FROM documents d
WHERE d.uid = ANY($1) AND d.indexed_edition IS NOT NULL AND {_FRESH}
"""  # noqa: S608 - as above
# The smaller side of those that fit and those that do not.
_SELECT = """
WITH judged AS MATERIALIZED (
    SELECT d.uid, {condition} AS fits FROM documents d WHERE d.collection_uid = $1 AND d.indexed_edition IS NOT NULL
), sides AS (SELECT count(*) FILTER (WHERE fits) <= count(*) FILTER (WHERE NOT fits) AS allowed FROM judged)
SELECT allowed, array(SELECT uid FROM judged WHERE fits = allowed) AS uids FROM sides
"""


class PostgresDocuments:
    """See `documents.DocumentRecords` and `ranking.LiveDocuments`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def put(self, collection_uid: UUID, documents: Sequence[Read], lease: UUID) -> list[Document] | None:
        """See `DocumentRecords.put`. Rows are written in the order of their ids, so that two calls cannot deadlock."""
        try:
            async with transaction(self._pool) as connection:
                return await put_documents(connection, collection_uid, documents, lease=lease)
        except asyncpg.ForeignKeyViolationError:
            return None

    async def states(self, uids: Sequence[UUID]) -> dict[UUID, Document]:
        """See `DocumentRecords.states`."""
        with outages():
            rows = await self._pool.fetch(_STATES, uids)
        return {document.uid: document for document in (_document(row) for row in rows)}

    async def get(self, collection_uid: UUID, document: str) -> Document | None:
        """See `DocumentRecords.get`."""
        with outages():
            row = await self._pool.fetchrow(_GET, collection_uid, document)
        return _document(row) if row else None

    async def delete(self, collection_uid: UUID, document: str) -> bool:
        """See `DocumentRecords.delete`."""
        with outages():
            return await self._pool.fetchval(_DELETE, collection_uid, document) is not None

    async def expire(self, collection_uid: UUID, seconds: float) -> int:
        """See `DocumentRecords.expire`."""
        with outages():
            return int(await self._pool.fetchval(_EXPIRE_OLDER, collection_uid, seconds))

    async def live(self, uids: Sequence[UUID], condition: Condition | None = None) -> dict[UUID, LiveDocument]:
        """See `ranking.LiveDocuments.live`."""
        sql = FilterSql([uids])
        statement = _LIVE if condition is None else f"{_LIVE} AND {sql.of(condition)}"
        with outages():
            rows = await self._pool.fetch(statement, *sql.parameters)
        return {
            plain_uuid(row["uid"]): LiveDocument(
                row["document"], row["title"], json.loads(row["metadata"]), row["indexed_edition"], row["chunk_count"]
            )
            for row in rows
        }

    async def select(self, collection_uid: UUID, condition: Condition) -> DocumentSet:
        """See `ranking.LiveDocuments.select`."""
        sql = FilterSql([collection_uid])
        statement = _SELECT.format(condition=sql.of(condition))
        with outages():
            row = await self._pool.fetchrow(statement, *sql.parameters)
        assert row is not None  # noqa: S101 - an aggregate always gives a row
        return DocumentSet(tuple(plain_uuid(uid) for uid in row["uids"]), row["allowed"])


async def put_documents(
    connection: Connection,
    collection_uid: UUID,
    documents: Sequence[Read],
    *,
    lease: UUID | None = None,
    ingestion_uid: UUID | None = None,
) -> list[Document]:
    """Keeps documents of different ids within a transaction: see `DocumentRecords.put`.

    Raises:
        asyncpg.ForeignKeyViolationError: the collection is gone.
    """
    ordered = sorted(documents, key=lambda one: one.document)
    kept = await connection.fetchmany(_PUT, [_row(collection_uid, one, lease, ingestion_uid) for one in ordered])
    by_id = {row["document"]: _document(row) for row in kept}
    return [by_id[one.document] for one in documents]


def _row(collection_uid: UUID, read: Read, lease: UUID | None, ingestion_uid: UUID | None) -> tuple[Any, ...]:
    reading = read.reading
    return (
        uuid4(),
        collection_uid,
        read.document,
        read.title,
        read.media_type,
        json.dumps(read.metadata, ensure_ascii=False),
        read.content_hash,
        reading.text,
        json.dumps([(heading.start, heading.level, heading.title) for heading in reading.headings], ensure_ascii=False),
        reading.pages,
        None if read.ttl is None else read.ttl.total_seconds(),
        ingestion_uid,
        lease,
    )


def _document(row: Row) -> Document:
    return Document(
        uid=plain_uuid(row["uid"]),
        document=row["document"],
        title=row["title"],
        media_type=row["media_type"],
        metadata=json.loads(row["metadata"]),
        content_hash=row["content_hash"],
        state=_state(row),
        chunk_count=row["chunk_count"] if row["is_indexed"] else 0,
        version=row["version"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        text=row.get("text", ""),
    )


def _state(row: Row) -> DocumentState:
    if row["is_indexed"]:
        return DocumentState.INDEXED
    return DocumentState.HELD if row["held"] else DocumentState.PENDING
