"""The queue of indexing and erasing, in Postgres: rows under leases, taken with SKIP LOCKED."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from services.chassis.postgres import outages, transaction
from services.retrieval.embedding import EmbedderIdentity
from services.retrieval.ingestion.jobs import Content, Erasure, Expected, Job
from services.retrieval.reading import Heading
from services.retrieval.stores.postgres_documents import LEASE_SECONDS
from services.retrieval.stores.rows import plain_uuid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from uuid import UUID

    from services.chassis.postgres import Pool
    from services.retrieval.stores.rows import Row

_PENDING: Final = "indexed_edition IS DISTINCT FROM wanted_edition"
_UNTIL: Final = f"now() + make_interval(secs => {LEASE_SECONDS})"
# Each statement below is put together from these constants alone.
# ruff: noqa: S608
_CLAIM: Final = f"""
UPDATE documents SET lease = $1, leased_until = {_UNTIL}, attempts = attempts + 1
WHERE uid IN (
    SELECT uid FROM documents
    WHERE {_PENDING} AND not_before <= now() AND coalesce(leased_until <= now(), true)
    ORDER BY not_before LIMIT $2 FOR UPDATE SKIP LOCKED
)
"""
_LEASED: Final = f"""
SELECT d.uid, d.collection_uid, d.wanted_edition, d.attempts, c.collection, c.embedder, c.fingerprint, c.dimensions,
    c.languages, coalesce(c.index_uid, c.uid) AS index_uid
FROM documents d JOIN collections c ON c.uid = d.collection_uid
WHERE d.lease = $1 AND {_PENDING} ORDER BY d.not_before, d.uid
"""
_CONTENT: Final = "SELECT text, title, headings FROM documents WHERE uid = $1 AND wanted_edition = $2"
_RENEW: Final = f"UPDATE documents SET leased_until = {_UNTIL} WHERE lease = $1 AND {_PENDING}"
_FINISH: Final = """
UPDATE documents SET indexed_edition = $2, chunk_count = $3, vector_count = $4, lease = NULL, leased_until = NULL, attempts = 0
WHERE uid = $1 AND wanted_edition = $2 RETURNING uid
"""
_ERASE_OLDER: Final = "INSERT INTO erasures (collection_uid, document_uid, to_edition) VALUES ($1, $2, $3)"
# The document was replaced meanwhile: this edition's points are of no use, unless another worker has made it the live one.
_ERASE_OUTDATED: Final = """
INSERT INTO erasures (collection_uid, document_uid, from_edition, to_edition)
SELECT $1, $2, $3, $3 WHERE NOT EXISTS (SELECT FROM documents WHERE uid = $2 AND indexed_edition = $3)
"""
_REST: Final = "lease = NULL, leased_until = NULL, not_before = now() + make_interval(secs => $2)"
# A document is to be erased from every index of its collection, unless one is named.
_TAKE_ERASURES: Final = """
SELECT e.*, CASE
    WHEN e.index_uid IS NOT NULL THEN ARRAY[e.index_uid]
    WHEN e.document_uid IS NULL THEN ARRAY[e.collection_uid]
    ELSE array(
        SELECT coalesce(c.index_uid, c.uid) FROM collections c WHERE c.uid = e.collection_uid UNION ALL
        SELECT r.index_uid FROM reindexings r WHERE r.collection_uid = e.collection_uid AND r.end_time IS NULL
    ) END AS index_uids
FROM erasures e ORDER BY e.id LIMIT $1 FOR UPDATE OF e SKIP LOCKED
"""
# Held until the end of the transaction: no reindexing puts another index in its place before the document is marked.
_SERVING: Final = "SELECT coalesce(index_uid, uid) FROM collections WHERE uid = $1 FOR SHARE"
_EXPECTED: Final = """
SELECT c.uid, coalesce(c.index_uid, c.uid) AS index_uid, c.collection, sum(d.chunk_count) AS points
FROM collections c JOIN documents d ON d.collection_uid = c.uid
WHERE d.indexed_edition IS NOT NULL GROUP BY c.uid
"""
_INDEX_ANEW: Final = """
UPDATE documents SET wanted_edition = wanted_edition + 1, not_before = now()
WHERE collection_uid = $1 AND indexed_edition = wanted_edition
"""
# Documents under work too: a process of the older version must not finish them.
_ANALYZE_ANEW: Final = """
WITH old AS (SELECT uid FROM collections WHERE analyzer = $1 FOR UPDATE), again AS (
    UPDATE documents SET wanted_edition = wanted_edition + 1, not_before = now()
    WHERE collection_uid IN (SELECT uid FROM old) AND (text ~ $2 OR title ~ $2) RETURNING uid
), raised AS (UPDATE collections SET analyzer = $1 + 1 WHERE uid IN (SELECT uid FROM old))
SELECT count(*) FROM again
"""


class PostgresJobs:
    """See `jobs.Jobs`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim(self, lease: UUID, most: int) -> int:
        """See `Jobs.claim`."""
        with outages():
            return _count(await self._pool.execute(_CLAIM, lease, most))

    async def leased(self, lease: UUID) -> list[Job]:
        """See `Jobs.leased`."""
        with outages():
            rows = await self._pool.fetch(_LEASED, lease)
        return [_job(row) for row in rows]

    async def content(self, job: Job) -> Content | None:
        """See `Jobs.content`."""
        with outages():
            row = await self._pool.fetchrow(_CONTENT, job.document_uid, job.edition)
        if row is None:
            return None
        headings = tuple(Heading(start, level, title) for start, level, title in json.loads(row["headings"]))
        return Content(row["text"], row["title"], headings)

    async def renew(self, lease: UUID) -> None:
        """See `Jobs.renew`."""
        with outages():
            await self._pool.execute(_RENEW, lease)

    async def finish(self, job: Job, chunk_count: int, vector_count: int) -> None:
        """See `Jobs.finish`."""
        async with transaction(self._pool) as connection:
            serving = await connection.fetchval(_SERVING, job.collection_uid)
            if serving is not None and plain_uuid(serving) != job.index_uid:
                # Another index serves since the work began. The document stays pending, and is written to that one next.
                await connection.execute(f"UPDATE documents SET {_REST} WHERE uid = $1 AND {_PENDING}", job.document_uid, 0.0)
                return
            done = await connection.fetchval(_FINISH, job.document_uid, job.edition, chunk_count, vector_count)
            if not done:
                await connection.execute(_ERASE_OUTDATED, job.collection_uid, job.document_uid, job.edition)
            elif job.edition > 1:
                await connection.execute(_ERASE_OLDER, job.collection_uid, job.document_uid, job.edition - 1)

    async def give_back(self, lease: UUID, delay: float) -> None:
        """See `Jobs.give_back`."""
        with outages():
            await self._pool.execute(f"UPDATE documents SET {_REST} WHERE lease = $1", lease, delay)

    async def postpone(self, job: Job, delay: float) -> None:
        """See `Jobs.postpone`."""
        with outages():
            await self._pool.execute(f"UPDATE documents SET {_REST} WHERE uid = $1 AND {_PENDING}", job.document_uid, delay)

    async def erase(self, most: int, erase: Callable[[Erasure], Awaitable[None]]) -> int:
        """See `Jobs.erase`."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_TAKE_ERASURES, most)
            for row in rows:
                await erase(_erasure(row))
            await connection.execute("DELETE FROM erasures WHERE id = ANY($1)", [row["id"] for row in rows])
        return len(rows)

    async def expected(self) -> list[Expected]:
        """See `Jobs.expected`."""
        with outages():
            rows = await self._pool.fetch(_EXPECTED)
        return [
            Expected(plain_uuid(row["uid"]), plain_uuid(row["index_uid"]), row["collection"], row["points"]) for row in rows
        ]

    async def analyze_anew(self, analyzer: int, changed_after: Mapping[int, str]) -> int:
        """See `Jobs.analyze_anew`."""
        again = 0
        for version in range(1, analyzer):
            async with transaction(self._pool) as connection:
                again += await connection.fetchval(_ANALYZE_ANEW, version, changed_after[version])
        return again

    async def index_anew(self, collection_uid: UUID) -> int:
        """See `Jobs.index_anew`."""
        with outages():
            return _count(await self._pool.execute(_INDEX_ANEW, collection_uid))


def _count(status: str) -> int:
    """Rows that a command tag such as `UPDATE 3` tells."""
    return int(status.rpartition(" ")[2])


def _job(row: Row) -> Job:
    return Job(
        document_uid=plain_uuid(row["uid"]),
        collection_uid=plain_uuid(row["collection_uid"]),
        index_uid=plain_uuid(row["index_uid"]),
        collection=row["collection"],
        embedder=EmbedderIdentity(row["embedder"], row["fingerprint"], row["dimensions"], tuple(row["languages"])),
        edition=row["wanted_edition"],
        attempts=row["attempts"],
    )


def _erasure(row: Row) -> Erasure:
    document_uid = row["document_uid"]
    return Erasure(
        id=row["id"],
        index_uids=tuple(plain_uuid(uid) for uid in row["index_uids"]),
        document_uid=None if document_uid is None else plain_uuid(document_uid),
        from_edition=row["from_edition"],
        to_edition=row["to_edition"],
    )
