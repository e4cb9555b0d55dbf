"""What is done of documents, in Postgres: each counter of an ingestion changes in the statement that changes what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.chassis.postgres import outages, transaction
from services.retrieval.stores.rows import chunks_json, plain_uuid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.chassis.postgres import Pool
    from services.retrieval.chunking.chunks import Chunk
    from services.retrieval.ingestion.jobs import Finished, Job, Stage, Step

# Each statement below is put together from these constants alone.
# ruff: noqa: S608
_CHUNKED: Final = """
INSERT INTO document_chunks AS k (document_uid, edition, index_uid, chunks)
SELECT n.uid, n.edition, n.index_uid, n.chunks::jsonb
FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::text[]) AS n(uid, edition, index_uid, chunks)
JOIN documents d ON d.uid = n.uid AND d.wanted_edition = n.edition
ORDER BY n.uid
ON CONFLICT (document_uid) DO UPDATE SET
    edition = excluded.edition, index_uid = excluded.index_uid, chunks = excluded.chunks,
    written = CASE WHEN (k.edition, k.index_uid) = (excluded.edition, excluded.index_uid) THEN k.written ELSE 0 END
"""
# Items whose document is still the one they were made for. `n` is what the caller brings, one row a document.
_ITEMS: Final = """
FROM n JOIN documents d ON d.uid = n.uid AND d.wanted_edition = n.edition
WHERE i.document_uid = n.uid AND i.version = d.version AND i.state = 'PENDING'
"""
# What the moved items add to the counters of their ingestions.
_COUNT: Final = """
UPDATE ingestions g SET
    chunks = g.chunks + s.chunks, chunked_items = g.chunked_items + s.chunked_items,
    chunked_bytes = g.chunked_bytes + s.chunked_bytes,
    embedded_chunks = g.embedded_chunks + s.embedded, embedded_items = g.embedded_items + s.embedded_items,
    embedded_bytes = g.embedded_bytes + s.embedded_bytes,
    indexed_chunks = g.indexed_chunks + s.indexed, indexed_items = g.indexed_items + s.indexed_items,
    indexed_bytes = g.indexed_bytes + s.indexed_bytes,
    ended = g.ended + s.indexed_items, heartbeat_time = now()
FROM (
    SELECT ingestion_uid, sum(chunks) AS chunks, sum(embedded) AS embedded, sum(indexed) AS indexed,
        count(*) FILTER (WHERE is_chunked) AS chunked_items,
        coalesce(sum(bytes) FILTER (WHERE is_chunked), 0) AS chunked_bytes,
        count(*) FILTER (WHERE is_embedded) AS embedded_items,
        coalesce(sum(bytes) FILTER (WHERE is_embedded), 0) AS embedded_bytes,
        count(*) FILTER (WHERE is_indexed) AS indexed_items,
        coalesce(sum(bytes) FILTER (WHERE is_indexed), 0) AS indexed_bytes
    FROM moved GROUP BY ingestion_uid ORDER BY ingestion_uid
) s WHERE g.uid = s.ingestion_uid
"""
_MOVED: Final = """
RETURNING i.ingestion_uid, i.bytes,
    new.chunks - coalesce(old.chunks, 0) AS chunks, old.chunks IS NULL AS is_chunked,
    new.embedded - old.embedded AS embedded,
    new.embedded = new.chunks AND (old.chunks IS NULL OR old.embedded < old.chunks) AS is_embedded,
    new.indexed - old.indexed AS indexed, new.state = 'INDEXED' AS is_indexed
"""
# An edition may be cut into another number of chunks than the one before it; what was done is never told to be less.
_ADVANCE: Final = f"""
WITH n AS (
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[]) AS n(uid, edition, chunks, embedded, written)
), marked AS (
    UPDATE document_chunks k SET written = greatest(k.written, n.written) FROM n
    WHERE k.document_uid = n.uid AND k.edition = n.edition AND k.written < n.written
), moved AS (
    UPDATE ingestion_items i SET chunks = greatest(i.chunks, n.chunks), embedded = greatest(i.embedded, n.embedded),
        indexed = greatest(i.indexed, n.written)
    {_ITEMS} {_MOVED}
) {_COUNT}
"""
_REUSED: Final = """
UPDATE ingestions SET reused_chunks = reused_chunks + $2
WHERE uid = (SELECT ingestion_uid FROM documents WHERE uid = $1) AND end_time IS NULL
"""
# Held until the end of the transaction: no reindexing puts another index in its place before the documents are marked.
_SERVING: Final = "SELECT coalesce(index_uid, uid) FROM collections WHERE uid = $1 FOR SHARE"
# Another index serves since the work began: they stay pending, and are written to that one next.
_AGAIN: Final = "UPDATE documents SET lease = NULL, leased_until = NULL, not_before = now() WHERE uid = ANY($1) AND NOT held"
_FINISH: Final = """
UPDATE documents d SET indexed_edition = n.edition, chunk_count = n.chunks, vector_count = n.vectors, lease = NULL,
    leased_until = NULL, attempts = 0
FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[]) AS n(uid, edition, chunks, vectors)
WHERE d.uid = n.uid AND d.wanted_edition = n.edition AND NOT d.held RETURNING d.uid
"""
_INDEXED: Final = f"""
WITH n AS (SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[]) AS n(uid, edition, chunks)), moved AS (
    UPDATE ingestion_items i SET state = 'INDEXED', chunks = greatest(i.chunks, n.chunks),
        embedded = greatest(i.chunks, n.chunks), indexed = greatest(i.chunks, n.chunks)
    {_ITEMS} {_MOVED}
), cut AS (DELETE FROM document_chunks k USING n WHERE k.document_uid = n.uid AND k.edition = n.edition) {_COUNT}
"""
_ERASE_OLDER: Final = """
INSERT INTO erasures (collection_uid, document_uid, to_edition)
SELECT $1, uid, edition - 1 FROM unnest($2::uuid[], $3::int[]) AS n(uid, edition)
"""
# They were replaced meanwhile: these editions' points are of no use, unless another worker has made one the live one.
_ERASE_OUTDATED: Final = """
INSERT INTO erasures (collection_uid, document_uid, from_edition, to_edition)
SELECT $1, n.uid, n.edition, n.edition FROM unnest($2::uuid[], $3::int[]) AS n(uid, edition)
WHERE NOT EXISTS (SELECT FROM documents d WHERE d.uid = n.uid AND n.edition IN (d.indexed_edition, d.wanted_edition))
"""
_FAIL: Final = f"""
WITH n AS (SELECT $1::uuid AS uid, $2::int AS edition), moved AS (
    UPDATE ingestion_items i SET state = 'FAILED', stage = $3, reason = $4, message = $5 {_ITEMS} RETURNING i.ingestion_uid
), held AS (
    UPDATE documents SET held = true, lease = NULL, leased_until = NULL
    WHERE uid = $1 AND wanted_edition = $2 AND EXISTS (SELECT FROM moved)
)
UPDATE ingestions SET failed = failed + 1, ended = ended + 1, heartbeat_time = now()
WHERE uid IN (SELECT ingestion_uid FROM moved)
"""
# Items whose document was deleted, or replaced by a later one, before it was searchable.
_SUPERSEDE: Final = """
WITH moved AS (
    UPDATE ingestion_items i SET state = 'SUPERSEDED'
    WHERE i.state = 'PENDING' AND NOT EXISTS (SELECT FROM documents d WHERE d.uid = i.document_uid AND d.version = i.version)
    RETURNING i.ingestion_uid
)
UPDATE ingestions g SET superseded = g.superseded + s.items, ended = g.ended + s.items
FROM (SELECT ingestion_uid, count(*) AS items FROM moved GROUP BY 1) s WHERE g.uid = s.ingestion_uid
"""
_CLOSE: Final = """
UPDATE ingestions SET end_time = now(), lease = NULL, leased_until = NULL,
    state = CASE WHEN failed > 0 AND indexed_items = 0 AND superseded = 0 THEN 'FAILED' ELSE 'SUCCEEDED' END
WHERE end_time IS NULL AND state = 'RUNNING' AND is_read AND ended >= items
"""


class PostgresCheckpoints:
    """See `jobs.Checkpoints`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def chunked(self, cut: Mapping[Job, Sequence[Chunk]]) -> None:
        """See `Checkpoints.chunked`."""
        rows = [(job.document_uid, job.edition, job.index_uid, chunks_json(chunks)) for job, chunks in cut.items()]
        uids, editions, indexes, chunks = zip(*rows, strict=True)
        with outages():
            await self._pool.execute(_CHUNKED, uids, editions, indexes, chunks)

    async def advance(self, steps: Sequence[Step], reused: int = 0) -> None:
        """See `Checkpoints.advance`."""
        if not steps:
            return
        rows = [(step.job.document_uid, step.job.edition, step.chunks, step.embedded, step.written) for step in steps]
        with outages():
            await self._pool.execute(_ADVANCE, *zip(*rows, strict=True))
            if reused:
                await self._pool.execute(_REUSED, steps[0].job.document_uid, reused)

    async def finish(self, finished: Sequence[Finished]) -> None:
        """See `Checkpoints.finish`. All are of one collection."""
        jobs = {one.job.document_uid: one for one in sorted(finished, key=lambda one: one.job.document_uid)}
        first = finished[0].job
        async with transaction(self._pool) as connection:
            serving = await connection.fetchval(_SERVING, first.collection_uid)
            if serving is not None and plain_uuid(serving) != first.index_uid:
                await connection.execute(_AGAIN, list(jobs))
                return
            rows = [(uid, one.job.edition, one.chunks, one.vectors) for uid, one in jobs.items()]
            uids, editions, chunks, vectors = zip(*rows, strict=True)
            done = {plain_uuid(row["uid"]) for row in await connection.fetch(_FINISH, uids, editions, chunks, vectors)}
            if done:
                marked = [(uid, one.job.edition, one.chunks) for uid, one in jobs.items() if uid in done]
                await connection.execute(_INDEXED, *zip(*marked, strict=True))
            older = [one for uid, one in jobs.items() if uid in done and one.job.edition > 1]
            outdated = [one for uid, one in jobs.items() if uid not in done]
            for statement, those in ((_ERASE_OLDER, older), (_ERASE_OUTDATED, outdated)):
                if those:
                    named = ([one.job.document_uid for one in those], [one.job.edition for one in those])
                    await connection.execute(statement, first.collection_uid, *named)

    async def fail(self, job: Job, stage: Stage, reason: str, message: str) -> None:
        """See `Checkpoints.fail`."""
        with outages():
            await self._pool.execute(_FAIL, job.document_uid, job.edition, stage, reason, message)

    async def supersede(self) -> None:
        """See `Checkpoints.supersede`."""
        with outages():
            await self._pool.execute(_SUPERSEDE)

    async def close_ingestions(self) -> int:
        """See `Checkpoints.close_ingestions`."""
        with outages():
            return int((await self._pool.execute(_CLOSE)).rpartition(" ")[2])
