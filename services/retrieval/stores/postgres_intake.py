"""What ingestions are read from, in Postgres."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from services.chassis.postgres import outages, transaction
from services.retrieval.documents import DocumentState
from services.retrieval.ingestion.ingestions import ItemFailure, SourceKind
from services.retrieval.ingestion.intake import Claimed, LeaseLostError, StoredSource
from services.retrieval.stores.postgres_documents import LEASE_SECONDS, put_documents
from services.retrieval.stores.postgres_ingestions import settle_cancelled
from services.retrieval.stores.rows import plain_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from services.chassis.postgres import Connection, Pool
    from services.retrieval.documents import Document, Read

_UNTIL: Final = f"now() + make_interval(secs => {LEASE_SECONDS})"
# Each statement below is put together from these constants alone.
# ruff: noqa: S608
_CLAIM: Final = f"""
WITH taken AS (
    UPDATE ingestions SET lease = $1, leased_until = {_UNTIL}, attempts = attempts + 1, state = 'RUNNING',
        heartbeat_time = now(), start_time = coalesce(start_time, now())
    WHERE uid = (
        SELECT uid FROM ingestions
        WHERE end_time IS NULL AND state IN ('QUEUED', 'RUNNING') AND NOT is_read AND not_before <= now()
            AND coalesce(leased_until <= now(), true)
        ORDER BY uid LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING uid, collection_uid, attempts
)
SELECT t.*, c.ttl_seconds FROM taken t JOIN collections c ON c.uid = t.collection_uid
"""
_RENEW: Final = f"UPDATE ingestions SET leased_until = {_UNTIL}, heartbeat_time = now() WHERE lease = $1"
_GIVE_BACK: Final = """
UPDATE ingestions SET lease = NULL, leased_until = NULL, not_before = now() + make_interval(secs => $2) WHERE lease = $1
"""
_UNREAD: Final = """
SELECT s.*, array(
    SELECT entry FROM ingestion_items i WHERE i.ingestion_uid = s.ingestion_uid AND i.source = s.source
) AS kept
FROM ingestion_sources s WHERE s.ingestion_uid = $1 AND NOT s.is_read ORDER BY s.source
"""
_CONTENT: Final = "SELECT data FROM source_pieces WHERE ingestion_uid = $1 AND source = $2 AND piece = $3"
_ITEM: Final = """
INSERT INTO ingestion_items (
    ingestion_uid, source, entry, name, document_uid, version, state, bytes, chunks, embedded, indexed, stage, reason, message
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, coalesce($9, 0), coalesce($9, 0), $10, $11, $12)
"""
# What the sources that were read to their end have, and what is read of this one. What a file is read twice for is told once.
_READ: Final = """greatest(read_bytes, least(source_bytes, $9::bigint + (
    SELECT coalesce(sum(bytes), 0) FROM ingestion_sources WHERE ingestion_uid = $1 AND is_read
)))"""
# The last statement of its transaction, in the order in which indexing locks: documents, items, ingestion.
_KEPT: Final = f"""
UPDATE ingestions SET leased_until = {_UNTIL}, heartbeat_time = now(), attempts = 1,
    items = items + $3, item_bytes = item_bytes + $4, failed = failed + $5, unread = unread + $5, unchanged = unchanged + $6,
    ended = ended + $5 + $6, chunks = chunks + $7, chunked_items = chunked_items + $6, chunked_bytes = chunked_bytes + $8,
    embedded_chunks = embedded_chunks + $7, embedded_items = embedded_items + $6, embedded_bytes = embedded_bytes + $8,
    indexed_chunks = indexed_chunks + $7, indexed_items = indexed_items + $6, indexed_bytes = indexed_bytes + $8,
    read_bytes = {_READ}
WHERE uid = $1 AND lease = $2 RETURNING true
"""
_END_SOURCE: Final = """
WITH ended AS (
    UPDATE ingestion_sources SET is_read = true
    WHERE ingestion_uid = $1 AND source = $3 AND NOT is_read RETURNING bytes
), needless AS (
    DELETE FROM source_pieces WHERE ingestion_uid = $1 AND source = $3 AND NOT EXISTS (
        SELECT FROM ingestion_items i WHERE i.ingestion_uid = $1 AND i.source = $3 AND i.state = 'FAILED' AND i.stage = 'READ'
    )
)
UPDATE ingestions SET read_bytes = greatest(read_bytes, least(source_bytes, coalesce((SELECT sum(bytes) FROM ended), 0) + (
    SELECT coalesce(sum(bytes), 0) FROM ingestion_sources WHERE ingestion_uid = $1 AND is_read
)))
WHERE uid = $1 AND lease = $2 RETURNING true
"""
_END: Final = """
UPDATE ingestions SET is_read = true, lease = NULL, leased_until = NULL WHERE uid = $1 AND lease = $2 RETURNING true
"""
_TIDY: Final = """
DELETE FROM ingestions WHERE end_time < now() - interval '30 days'
    OR end_time IS NULL AND state = 'RECEIVING' AND coalesce(heartbeat_time, create_time) < now() - interval '15 minutes'
"""


class PostgresIntake:
    """See `intake.IntakeRecords`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim(self, lease: UUID) -> Claimed | None:
        """See `IntakeRecords.claim`."""
        with outages():
            row = await self._pool.fetchrow(_CLAIM, lease)
        if row is None:
            return None
        uid, collection_uid = plain_uuid(row["uid"]), plain_uuid(row["collection_uid"])
        return Claimed(uid, collection_uid, _ttl(row["ttl_seconds"]), lease, row["attempts"])

    async def renew(self, lease: UUID) -> None:
        """See `IntakeRecords.renew`."""
        with outages():
            await self._pool.execute(_RENEW, lease)

    async def give_back(self, lease: UUID, delay: float) -> None:
        """See `IntakeRecords.give_back`."""
        with outages():
            await self._pool.execute(_GIVE_BACK, lease, delay)

    async def unread(self, claimed: Claimed) -> list[StoredSource]:
        """See `IntakeRecords.unread`."""
        with outages():
            rows = await self._pool.fetch(_UNREAD, claimed.uid)
        return [
            StoredSource(
                number=row["source"],
                kind=SourceKind(row["kind"]),
                name=row["name"],
                title=row["title"],
                media_type=row["media_type"],
                metadata=json.loads(row["metadata"]),
                ttl=_ttl(row["ttl_seconds"]),
                kept=frozenset(row["kept"]),
            )
            for row in rows
        ]

    async def content(self, claimed: Claimed, source: int) -> AsyncIterator[bytes]:
        """See `IntakeRecords.content`."""
        piece = 0
        while True:
            with outages():
                data = await self._pool.fetchval(_CONTENT, claimed.uid, source, piece)
            if data is None:
                return
            yield data
            piece += 1

    async def keep(
        self, claimed: Claimed, source: int, found: Sequence[tuple[int, Read | ItemFailure]], position: int = 0
    ) -> None:
        """See `IntakeRecords.keep`."""
        try:
            async with transaction(self._pool) as connection:
                await _keep(connection, claimed, source, found, position)
        except asyncpg.ForeignKeyViolationError as error:
            raise LeaseLostError from error

    async def end_source(self, claimed: Claimed, source: int) -> None:
        """See `IntakeRecords.end_source`."""
        await self._fenced(_END_SOURCE, claimed, source)

    async def end(self, claimed: Claimed) -> None:
        """See `IntakeRecords.end`."""
        await self._fenced(_END, claimed)

    async def tidy(self) -> None:
        """See `IntakeRecords.tidy`."""
        with outages():
            await self._pool.execute(_TIDY)
        while await settle_cancelled(self._pool):
            pass

    async def _fenced(self, statement: str, claimed: Claimed, *arguments: int) -> None:
        async with transaction(self._pool) as connection:
            if not await connection.fetchval(statement, claimed.uid, claimed.lease, *arguments):
                raise LeaseLostError


async def _keep(
    connection: Connection, claimed: Claimed, source: int, found: Sequence[tuple[int, Read | ItemFailure]], position: int
) -> None:
    read = [(place, one) for place, one in found if not isinstance(one, ItemFailure)]
    refused = [(place, one) for place, one in found if isinstance(one, ItemFailure)]
    kept: Sequence[Document] = ()
    if read:
        kept = await put_documents(connection, claimed.collection_uid, [one for _, one in read], ingestion_uid=claimed.uid)
    sizes = [len(one.reading.text.encode()) for _, one in read]
    unchanged = [(document, size) for document, size in zip(kept, sizes, strict=True) if _is_there(document)]
    items: list[tuple[Any, ...]] = [
        (claimed.uid, source, place, one.document, document.uid, document.version, *_standing(document, size), None, None, None)
        for (place, one), document, size in zip(read, kept, sizes, strict=True)
    ]
    items += [
        (claimed.uid, source, place, one.name, None, None, "FAILED", 0, None, one.stage, one.reason, one.message)
        for place, one in refused
    ]
    await connection.executemany(_ITEM, items)
    counts = (
        len(found),
        sum(sizes),
        len(refused),
        len(unchanged),
        sum(document.chunk_count for document, _ in unchanged),
        sum(size for _, size in unchanged),
        position,
    )
    if not await connection.fetchval(_KEPT, claimed.uid, claimed.lease, *counts):
        raise LeaseLostError


def _is_there(document: Document) -> bool:
    return document.state is DocumentState.INDEXED


def _standing(document: Document, size: int) -> tuple[str, int, int | None]:
    """An item's state, size and chunks."""
    return ("UNCHANGED", size, document.chunk_count) if _is_there(document) else ("PENDING", size, None)


def _ttl(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
