"""The queue of indexing and erasing, in Postgres: rows under leases, taken with SKIP LOCKED."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from services.chassis.postgres import outages, transaction
from services.retrieval.chunking.settings import ChunkingSettings
from services.retrieval.embedding import EmbedderIdentity
from services.retrieval.ingestion.jobs import Content, Erasure, Expected, Job
from services.retrieval.reading import Heading
from services.retrieval.stores.postgres_documents import EXPIRE, LEASE_SECONDS
from services.retrieval.stores.rows import chunks_of_json, plain_uuid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from uuid import UUID

    from services.chassis.postgres import Pool
    from services.retrieval.stores.rows import Row

_PENDING: Final = "indexed_edition IS DISTINCT FROM wanted_edition AND NOT held"
_UNTIL: Final = f"now() + make_interval(secs => {LEASE_SECONDS})"
# Each statement below is put together from these constants alone.
# ruff: noqa: S608
# What is about to be held, as its ingestion was cancelled a moment ago, is begun by nobody.
_CLAIM: Final = f"""
UPDATE documents SET lease = $1, leased_until = {_UNTIL}, attempts = attempts + 1
WHERE uid IN (
    SELECT uid FROM documents d
    WHERE {_PENDING} AND not_before <= now() AND coalesce(leased_until <= now(), true) AND NOT EXISTS (
        SELECT FROM ingestion_items i JOIN ingestions g ON g.uid = i.ingestion_uid
        WHERE i.document_uid = d.uid AND i.state = 'PENDING' AND g.state = 'CANCELLED'
    )
    ORDER BY not_before LIMIT $2 FOR UPDATE SKIP LOCKED
)
"""
_LEASED: Final = f"""
SELECT d.uid, d.collection_uid, d.wanted_edition, d.attempts, d.ingestion_uid, octet_length(d.text) AS size, c.collection,
    c.embedder, c.fingerprint, c.dimensions, c.languages, c.chunking, coalesce(c.index_uid, c.uid) AS index_uid,
    coalesce(k.written, 0) AS written
FROM documents d JOIN collections c ON c.uid = d.collection_uid
LEFT JOIN document_chunks k
    ON k.document_uid = d.uid AND k.edition = d.wanted_edition AND k.index_uid = coalesce(c.index_uid, c.uid)
WHERE d.lease = $1 AND {_PENDING} ORDER BY d.not_before, d.uid
"""
_CONTENTS: Final = """
SELECT d.uid, d.document, d.text, d.title, d.media_type, d.headings, d.pages, k.chunks
FROM unnest($1::uuid[], $2::int[], $3::uuid[]) AS j(uid, edition, index_uid)
JOIN documents d ON d.uid = j.uid AND d.wanted_edition = j.edition
LEFT JOIN document_chunks k ON k.document_uid = d.uid AND k.edition = j.edition AND k.index_uid = j.index_uid
"""
_RENEW: Final = f"""
WITH mine AS (
    UPDATE documents SET leased_until = {_UNTIL} WHERE lease = $1 AND {_PENDING} RETURNING ingestion_uid
)
UPDATE ingestions SET heartbeat_time = now() WHERE uid IN (SELECT ingestion_uid FROM mine) AND end_time IS NULL
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
FROM erasures e WHERE e.not_before <= now() ORDER BY e.id LIMIT $1 FOR UPDATE OF e SKIP LOCKED
"""
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
        return (await self.contents([job])).get(job.document_uid)

    async def contents(self, jobs: Sequence[Job]) -> dict[UUID, Content]:
        """See `Jobs.contents`."""
        uids, editions, indexes = zip(*((job.document_uid, job.edition, job.index_uid) for job in jobs), strict=True)
        with outages():
            rows = await self._pool.fetch(_CONTENTS, uids, editions, indexes)
        return {plain_uuid(row["uid"]): _content(row) for row in rows}

    async def renew(self, lease: UUID) -> None:
        """See `Jobs.renew`."""
        with outages():
            await self._pool.execute(_RENEW, lease)

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

    async def expire(self, most: int) -> int:
        """See `Jobs.expire`."""
        with outages():
            return int(await self._pool.fetchval(EXPIRE, most))

    async def index_anew(self, collection_uid: UUID) -> int:
        """See `Jobs.index_anew`."""
        with outages():
            return _count(await self._pool.execute(_INDEX_ANEW, collection_uid))


def _content(row: Row) -> Content:
    text = row["text"]
    return Content(
        document=row["document"],
        text=text,
        title=row["title"],
        media_type=row["media_type"],
        headings=tuple(Heading(start, level, title) for start, level, title in json.loads(row["headings"])),
        pages=tuple(row["pages"]),
        chunks=None if row["chunks"] is None else chunks_of_json(row["chunks"], text),
    )


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
        chunking=ChunkingSettings.from_json(json.loads(row["chunking"])),
        attempts=row["attempts"],
        written=row["written"],
        size=row["size"],
        is_ingested=row["ingestion_uid"] is not None,
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
