"""Ingestions in Postgres, as their callers see them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from services.chassis.errors import Reason
from services.chassis.postgres import outages, transaction
from services.retrieval.ingestion.ingestions import Ingestion, IngestionState, ItemFailure, StageProgress
from services.retrieval.ingestion.jobs import Stage
from services.retrieval.stores.rows import plain_uuid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from services.chassis.postgres import Pool
    from services.retrieval.catalog import Collection
    from services.retrieval.ingestion.ingestions import Source
    from services.retrieval.stores.rows import Row

_FIRST_FAILURES: Final = 20
_INSERT: Final = """
INSERT INTO ingestions (collection_uid, tenant, state, request_id, content_hash, source_bytes)
VALUES ($1, $2, $3, nullif($4, ''), $5, $6) ON CONFLICT DO NOTHING RETURNING uid
"""
_SOURCE: Final = """
INSERT INTO ingestion_sources (ingestion_uid, source, kind, name, title, media_type, metadata, ttl_seconds, bytes)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_PIECE: Final = "INSERT INTO source_pieces (ingestion_uid, source, piece, data) VALUES ($1, $2, $3, $4)"
_ALIVE: Final = "UPDATE ingestions SET heartbeat_time = now() WHERE uid = $1"
_RECEIVED: Final = """
WITH whole AS (UPDATE ingestion_sources SET bytes = $2 WHERE ingestion_uid = $1)
UPDATE ingestions SET state = 'QUEUED', source_bytes = $2, heartbeat_time = NULL WHERE uid = $1 RETURNING true
"""
_GET: Final = "SELECT g.*, c.collection, now() AS now FROM ingestions g JOIN collections c ON c.uid = g.collection_uid"
_FAILURES: Final = """
SELECT source, entry, name, stage, reason, message FROM ingestion_items
WHERE ingestion_uid = $1 AND state = 'FAILED' AND (source, entry) > ($2, $3) ORDER BY source, entry LIMIT $4
"""
# From here on no reader can keep anything for it: that ends with an update of this row where it is running.
_CANCEL: Final = """
UPDATE ingestions SET state = 'CANCELLED', end_time = now(), lease = NULL, leased_until = NULL
WHERE uid = $1 AND end_time IS NULL
"""
# Some of them, in the order in which indexing locks them: documents, then items. What indexing has locked is left to the next
# time. Those who settle take turns, as they would lock the same rows in different orders.
_SETTLE_TURN: Final = "SELECT pg_advisory_xact_lock(hashtext('penstock.retrieval.settle_cancelled'))"
_SETTLE_MOST: Final = 1000
_SETTLE: Final = """
WITH these AS MATERIALIZED (
    SELECT i.ingestion_uid, i.source, i.entry, i.document_uid, i.version FROM ingestion_items i
    JOIN ingestions g ON g.uid = i.ingestion_uid WHERE i.state = 'PENDING' AND g.state = 'CANCELLED' LIMIT $1
), mine AS MATERIALIZED (
    SELECT uid FROM documents WHERE uid IN (SELECT document_uid FROM these) FOR UPDATE SKIP LOCKED
), held AS (
    UPDATE documents d SET held = true, lease = NULL, leased_until = NULL FROM these t
    WHERE d.uid IN (SELECT uid FROM mine) AND d.uid = t.document_uid AND d.version = t.version
        AND d.ingestion_uid = t.ingestion_uid AND d.indexed_edition IS DISTINCT FROM d.wanted_edition
    RETURNING d.uid
)
UPDATE ingestion_items i SET state = 'CANCELLED' FROM these t
WHERE (i.ingestion_uid, i.source, i.entry) = (t.ingestion_uid, t.source, t.entry) AND i.state = 'PENDING'
    AND (t.document_uid IN (SELECT uid FROM mine) OR NOT EXISTS (SELECT FROM documents d WHERE d.uid = t.document_uid))
    AND (SELECT count(*) FROM held) >= 0
"""
_AGAIN: Final = """
WITH these AS (
    SELECT source, entry, document_uid, version, state FROM ingestion_items
    WHERE ingestion_uid = $1 AND (state = 'CANCELLED' OR state = 'FAILED' AND stage = coalesce($2, stage))
), freed AS (
    UPDATE documents d SET held = false, not_before = now(), attempts = 0, ingestion_uid = $1 FROM these t
    WHERE d.uid = t.document_uid AND d.version = t.version
), pending AS (
    UPDATE ingestion_items i SET state = 'PENDING', stage = NULL, reason = NULL, message = NULL FROM these t
    WHERE i.ingestion_uid = $1 AND (i.source, i.entry) = (t.source, t.entry) AND t.document_uid IS NOT NULL
), unread AS (
    DELETE FROM ingestion_items i USING these t
    WHERE i.ingestion_uid = $1 AND (i.source, i.entry) = (t.source, t.entry) AND t.document_uid IS NULL
), sources AS (
    UPDATE ingestion_sources SET is_read = false WHERE ingestion_uid = $1 AND source IN (
        SELECT source FROM these WHERE document_uid IS NULL
    )
)
SELECT count(*) FILTER (WHERE state = 'FAILED') AS failed, count(*) FILTER (WHERE document_uid IS NULL) AS unread,
    count(*) AS items
FROM these
"""
_REOPEN: Final = """
UPDATE ingestions SET end_time = NULL, state = CASE WHEN start_time IS NULL THEN 'QUEUED' ELSE 'RUNNING' END,
    is_read = NOT EXISTS (SELECT FROM ingestion_sources WHERE ingestion_uid = $1 AND NOT is_read),
    failed = failed - $2, ended = ended - $2, unread = unread - $3, items = items - $3, not_before = now(), attempts = 0
WHERE uid = $1
"""


class PostgresIngestions:
    """See `ingestions.IngestionRecords`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of_request(self, tenant: str, request_id: str) -> tuple[UUID, str] | None:
        """See `IngestionRecords.of_request`."""
        statement = "SELECT uid, content_hash FROM ingestions WHERE tenant = $1 AND request_id = $2"
        with outages():
            row = await self._pool.fetchrow(statement, tenant, request_id)
        return (plain_uuid(row["uid"]), row["content_hash"]) if row else None

    async def insert(
        self,
        target: Collection,
        sources: Sequence[Source],
        *,
        request_id: str = "",
        content_hash: str = "",
        receiving: bool = False,
    ) -> UUID | None:
        """See `IngestionRecords.insert`."""
        state = IngestionState.RECEIVING if receiving else IngestionState.QUEUED
        size = sum(len(source.content) for source in sources)
        try:
            async with transaction(self._pool) as connection:
                uid = await connection.fetchval(_INSERT, target.uid, target.tenant, state, request_id, content_hash, size)
                if uid is None:
                    return None
                rows = [_source_row(uid, number, source) for number, source in enumerate(sources)]
                await connection.executemany(_SOURCE, rows)
                pieces = [(uid, number, 0, source.content) for number, source in enumerate(sources) if source.content]
                await connection.executemany(_PIECE, pieces)
        except asyncpg.ForeignKeyViolationError:
            return None
        return plain_uuid(uid)

    async def add_piece(self, uid: UUID, number: int, data: bytes) -> bool:
        """See `IngestionRecords.add_piece`."""
        try:
            async with transaction(self._pool) as connection:
                await connection.execute(_PIECE, uid, 0, number, data)
                await connection.execute(_ALIVE, uid)
        except asyncpg.ForeignKeyViolationError:
            return False
        return True

    async def received(self, uid: UUID, size: int) -> bool:
        """See `IngestionRecords.received`."""
        with outages():
            return bool(await self._pool.fetchval(_RECEIVED, uid, size))

    async def drop(self, uid: UUID) -> None:
        """See `IngestionRecords.drop`."""
        with outages():
            await self._pool.execute("DELETE FROM ingestions WHERE uid = $1", uid)

    async def get(self, tenant: str, uid: UUID) -> Ingestion | None:
        """See `IngestionRecords.get`."""
        with outages():
            row = await self._pool.fetchrow(f"{_GET} WHERE g.uid = $1 AND g.tenant = $2", uid, tenant)
        if row is None:
            return None
        failures = await self.failures(uid, (-1, -1), _FIRST_FAILURES) if row["failed"] else []
        return _ingestion(row, tuple(failures))

    async def page(self, collection_uid: UUID, before: UUID | None, size: int) -> list[Ingestion]:
        """See `IngestionRecords.page`."""
        statement = f"{_GET} WHERE g.collection_uid = $1 AND ($2::uuid IS NULL OR g.uid < $2) ORDER BY g.uid DESC LIMIT $3"
        with outages():
            rows = await self._pool.fetch(statement, collection_uid, before, size)
        return [_ingestion(row) for row in rows]

    async def failures(self, uid: UUID, after: tuple[int, int], size: int) -> list[ItemFailure]:
        """See `IngestionRecords.failures`."""
        with outages():
            rows = await self._pool.fetch(_FAILURES, uid, *after, size)
        return [
            ItemFailure(row["name"], Stage(row["stage"]), Reason(row["reason"]), row["message"], (row["source"], row["entry"]))
            for row in rows
        ]

    async def cancel(self, uid: UUID) -> None:
        """See `IngestionRecords.cancel`. After the first statement nobody begins with its documents; upkeep holds the rest."""
        with outages():
            await self._pool.execute(_CANCEL, uid)
        await settle_cancelled(self._pool)

    async def retry(self, uid: UUID, stage: Stage | None) -> bool:
        """See `IngestionRecords.retry`."""
        async with transaction(self._pool) as connection:
            ended = "SELECT state FROM ingestions WHERE uid = $1 AND end_time IS NOT NULL FOR UPDATE"
            state = await connection.fetchval(ended, uid)
            if state is None:
                return False
            row = await connection.fetchrow(_AGAIN, uid, stage)
            assert row is not None  # noqa: S101 - an aggregate always gives a row
            if not row["items"] and state != IngestionState.CANCELLED:
                return False
            await connection.execute(_REOPEN, uid, row["failed"], row["unread"])
        return True


async def settle_cancelled(pool: Pool) -> bool:
    """Has some documents of cancelled ingestions held; False if there was none, or none that nobody works on."""
    async with transaction(pool) as connection:
        await connection.execute(_SETTLE_TURN)
        status: str = await connection.execute(_SETTLE, _SETTLE_MOST)
    return status != "UPDATE 0"


def _source_row(uid: UUID, number: int, source: Source) -> tuple[Any, ...]:
    return (
        uid,
        number,
        source.kind,
        source.name,
        source.title,
        source.media_type,
        json.dumps(source.metadata or {}, ensure_ascii=False),
        None if source.ttl is None else source.ttl.total_seconds(),
        len(source.content),
    )


def _ingestion(row: Row, failures: tuple[ItemFailure, ...] = ()) -> Ingestion:
    return Ingestion(
        uid=plain_uuid(row["uid"]),
        collection=row["collection"],
        state=IngestionState(row["state"]),
        stages=_stages(row),
        unchanged_count=row["unchanged"],
        superseded_count=row["superseded"],
        failed_count=row["failed"],
        reused_chunk_count=row["reused_chunks"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        heartbeat_time=row["heartbeat_time"],
        failures=failures,
    )


def _stages(row: Row) -> tuple[StageProgress, ...]:
    start = row["start_time"]
    seconds = ((row["end_time"] or row["now"]) - start).total_seconds() if start else 0.0
    found = row["items"] - row["unread"]
    over = row["is_read"] and row["ended"] >= row["items"]
    all_cut = over or (row["is_read"] and row["chunked_items"] >= found)

    def stage(which: Stage, name: str, chunks: int) -> StageProgress:
        done = row[f"{name}_items"]
        return StageProgress(
            stage=which,
            documents_done=done,
            documents_total=found,
            chunks_done=chunks,
            chunks_total=row["chunks"],
            bytes_done=row[f"{name}_bytes"],
            bytes_total=row["item_bytes"],
            complete=over or (all_cut and done >= found),
            rate=chunks / seconds if seconds else 0.0,
        )

    read = StageProgress(
        stage=Stage.READ,
        documents_done=found,
        documents_total=found,
        chunks_done=0,
        chunks_total=0,
        bytes_done=row["read_bytes"],
        bytes_total=row["source_bytes"],
        complete=row["is_read"],
        rate=found / seconds if seconds else 0.0,
    )
    return (
        read,
        stage(Stage.CHUNK, "chunked", row["chunks"]),
        stage(Stage.EMBED, "embedded", row["embedded_chunks"]),
        stage(Stage.INDEX, "indexed", row["indexed_chunks"]),
    )
