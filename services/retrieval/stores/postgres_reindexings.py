"""Reindexings in Postgres: rows under leases, and the documents that each second index holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import asyncpg

from services.chassis.postgres import outages, transaction
from services.retrieval.embedding import EmbedderIdentity
from services.retrieval.evaluation.measures import Interval
from services.retrieval.ingestion.jobs import Job
from services.retrieval.reindexing.reindexing import ENDED, Gate, Outcome, Reindexing, State
from services.retrieval.stores.rows import chunking_of, plain_uuid

if TYPE_CHECKING:
    from services.chassis.postgres import Connection, Pool
    from services.retrieval.reindexing.reindexing import Wanted
    from services.retrieval.stores.rows import Row

# Each statement below is put together from these constants alone.
# ruff: noqa: S608
# Two workers at once would do no harm, only work twice: so the lease is short, and little time is lost with a worker.
_LEASE_SECONDS: Final = 8
_UNTIL: Final = f"now() + make_interval(secs => {_LEASE_SECONDS})"
_START: Final = """
INSERT INTO reindexings (
    collection_uid, tenant, state, index_uid, embedder, fingerprint, dimensions, languages, text_languages, chunking, gate,
    keep_seconds, manual
) SELECT c.uid, c.tenant, 'BUILDING', $2, $3, $4, $5, $6, c.text_languages, coalesce($7, c.chunking), $8, $9, $10
FROM collections c WHERE c.uid = $1 RETURNING uid
"""
_SELECT: Final = """
SELECT r.*, c.collection, (SELECT count(*) FROM documents d WHERE d.collection_uid = r.collection_uid) AS total,
    (SELECT count(*) FROM mirrored_documents m WHERE m.index_uid = r.index_uid) AS mirrored
FROM reindexings r JOIN collections c ON c.uid = r.collection_uid
"""
_CLAIM: Final = f"""
UPDATE reindexings SET lease = $1, leased_until = {_UNTIL} WHERE uid = (
    SELECT uid FROM reindexings WHERE end_time IS NULL AND coalesce(leased_until <= now(), true)
    ORDER BY leased_until NULLS FIRST LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING uid
"""
# What is done is counted here, so that progress never goes back, even where the store loses the index.
_RENEW: Final = f"""
UPDATE reindexings r SET leased_until = {_UNTIL}, most_done = greatest(
    most_done, (SELECT count(*) FROM mirrored_documents m WHERE m.index_uid = r.index_uid)
) WHERE uid = $1 AND lease = $2 AND end_time IS NULL RETURNING true
"""
_GIVE_BACK: Final = """
UPDATE reindexings SET lease = NULL, leased_until = now() + make_interval(secs => $3),
    note = CASE WHEN state = 'BUILDING' AND end_time IS NULL THEN $4 ELSE note END
WHERE uid = $1 AND lease = $2
"""
_LAGGING: Final = """
SELECT d.uid, d.wanted_edition, d.attempts FROM documents d
LEFT JOIN mirrored_documents m ON m.document_uid = d.uid AND m.index_uid = $2
WHERE d.collection_uid = $1 AND m.edition IS DISTINCT FROM d.wanted_edition AND ($3::uuid IS NULL OR d.uid > $3)
ORDER BY d.uid LIMIT $4
"""
# The row of the reindexing is held until the end of the transaction: it cannot end, nor its index be changed, in between.
_WANTED: Final = "SELECT index_uid FROM reindexings WHERE collection_uid = $1 AND end_time IS NULL FOR SHARE"
_MARK: Final = """
INSERT INTO mirrored_documents (index_uid, document_uid, edition, chunk_count, vector_count)
SELECT $1, uid, $3, $4, $5 FROM documents WHERE uid = $2 AND wanted_edition = $3 FOR SHARE
ON CONFLICT (index_uid, document_uid) DO UPDATE SET edition = excluded.edition, chunk_count = excluded.chunk_count,
    vector_count = excluded.vector_count
RETURNING true
"""
_ERASE: Final = """
INSERT INTO erasures (collection_uid, document_uid, index_uid, from_edition, to_edition) VALUES ($1, $2, $3, $4, $5)
"""
_SERVING: Final = "SELECT *, coalesce(index_uid, uid) AS serving_uid FROM collections WHERE uid = $1 FOR NO KEY UPDATE"
_MISSING: Final = """
SELECT count(*) FROM documents d LEFT JOIN mirrored_documents m ON m.document_uid = d.uid AND m.index_uid = $2
WHERE d.collection_uid = $1 AND d.indexed_edition IS NOT NULL
    AND (m.edition IS NULL OR m.edition NOT IN (d.indexed_edition, d.wanted_edition))
"""
# All parts of one statement see the same rows. A document that the other index lacks is pending from then on.
_SWAP_DOCUMENTS: Final = """
WITH gone AS (DELETE FROM mirrored_documents WHERE index_uid = $2 RETURNING document_uid, edition, chunk_count, vector_count),
was AS (
    SELECT d.uid, d.indexed_edition, d.chunk_count, d.vector_count, g.edition AS new_edition,
        coalesce(g.chunk_count, 0) AS new_chunks, coalesce(g.vector_count, 0) AS new_vectors
    FROM documents d LEFT JOIN gone g ON g.document_uid = d.uid WHERE d.collection_uid = $1 FOR UPDATE OF d
), kept AS (
    INSERT INTO mirrored_documents (index_uid, document_uid, edition, chunk_count, vector_count)
    SELECT $3, uid, indexed_edition, chunk_count, vector_count FROM was WHERE indexed_edition IS NOT NULL AND $4
)
UPDATE documents d SET indexed_edition = was.new_edition, chunk_count = was.new_chunks, vector_count = was.new_vectors
FROM was WHERE was.uid = d.uid
"""
_SWAP_COLLECTION: Final = """
UPDATE collections SET index_uid = $2, embedder = $3, fingerprint = $4, dimensions = $5, languages = $6, text_languages = $7,
    chunking = $8, calibration = $9, revision = revision + 1
WHERE uid = $1
"""
_SWAP_REINDEXING: Final = """
UPDATE reindexings SET index_uid = $2, embedder = $3, fingerprint = $4, dimensions = $5, languages = $6, text_languages = $7,
    chunking = $8, calibration = $9, state = $10, note = '', switch_time = coalesce(switch_time, now())
WHERE uid = $1
"""
_SWAPPED: Final = ("embedder", "fingerprint", "dimensions", "languages", "text_languages", "chunking", "calibration")
_END: Final = """
UPDATE reindexings SET state = $3, note = $4, end_time = now(), lease = NULL WHERE uid = $1 AND state = $2 AND end_time IS NULL
RETURNING index_uid, collection_uid
"""
_DROP: Final = """
WITH forgotten AS (DELETE FROM mirrored_documents WHERE index_uid = $2)
INSERT INTO erasures (collection_uid, index_uid) VALUES ($1, $2)
"""


class PostgresReindexings:
    """See `reindexing.ReindexingRecords`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def start(self, collection_uid: UUID, identity: EmbedderIdentity, wanted: Wanted) -> UUID | None:
        """See `ReindexingRecords.start`."""
        chunking = None if wanted.chunking is None else json.dumps(wanted.chunking.to_json())
        try:
            with outages():
                uid = await self._pool.fetchval(
                    _START,
                    collection_uid,
                    uuid4(),
                    identity.name,
                    identity.fingerprint,
                    identity.dimensions,
                    identity.languages,
                    chunking,
                    json.dumps(asdict(wanted.gate)),
                    int(wanted.keep.total_seconds()),
                    wanted.manual,
                )
        except asyncpg.UniqueViolationError:
            return None
        return None if uid is None else plain_uuid(uid)

    async def get(self, uid: UUID) -> Reindexing | None:
        """See `ReindexingRecords.get`."""
        with outages():
            row = await self._pool.fetchrow(f"{_SELECT} WHERE r.uid = $1", uid)
        return _reindexing(row) if row else None

    async def of(self, collection_uid: UUID) -> list[Reindexing]:
        """See `ReindexingRecords.of`."""
        with outages():
            rows = await self._pool.fetch(f"{_SELECT} WHERE r.collection_uid = $1 ORDER BY r.uid DESC LIMIT 50", collection_uid)
        return [_reindexing(row) for row in rows]

    async def claim(self, lease: UUID) -> Reindexing | None:
        """See `ReindexingRecords.claim`."""
        with outages():
            uid = await self._pool.fetchval(_CLAIM, lease)
        return None if uid is None else await self.get(plain_uuid(uid))

    async def renew(self, uid: UUID, lease: UUID) -> bool:
        """See `ReindexingRecords.renew`."""
        with outages():
            return bool(await self._pool.fetchval(_RENEW, uid, lease))

    async def give_back(self, uid: UUID, lease: UUID, delay: float, note: str) -> None:
        """See `ReindexingRecords.give_back`."""
        with outages():
            await self._pool.execute(_GIVE_BACK, uid, lease, delay, note)

    async def lagging(self, reindexing: Reindexing, after: UUID | None, most: int) -> list[Job]:
        """See `ReindexingRecords.lagging`."""
        with outages():
            rows = await self._pool.fetch(_LAGGING, reindexing.collection_uid, reindexing.index_uid, after, most)
        return [
            Job(
                document_uid=plain_uuid(row["uid"]),
                collection_uid=reindexing.collection_uid,
                index_uid=reindexing.index_uid,
                collection=reindexing.collection,
                embedder=reindexing.embedder,
                chunking=reindexing.chunking,
                edition=row["wanted_edition"],
                attempts=row["attempts"],
                written=0,
                size=0,
                is_ingested=False,
            )
            for row in rows
        ]

    async def mark(self, job: Job, chunk_count: int, vector_count: int) -> bool:
        """See `ReindexingRecords.mark`."""
        async with transaction(self._pool) as connection:
            index_uid = await connection.fetchval(_WANTED, job.collection_uid)
            if index_uid is None or plain_uuid(index_uid) != job.index_uid:
                return False
            marked = await connection.fetchval(_MARK, job.index_uid, job.document_uid, job.edition, chunk_count, vector_count)
            first, last = (0, job.edition - 1) if marked else (job.edition, job.edition)
            if first <= last and last > 0:
                await connection.execute(_ERASE, job.collection_uid, job.document_uid, job.index_uid, first, last)
        return True

    async def points(self, index_uid: UUID) -> int:
        """See `ReindexingRecords.points`."""
        with outages():
            statement = "SELECT coalesce(sum(chunk_count), 0) FROM mirrored_documents WHERE index_uid = $1"
            return int(await self._pool.fetchval(statement, index_uid))

    async def begin_anew(self, index_uid: UUID) -> None:
        """See `ReindexingRecords.begin_anew`."""
        with outages():
            await self._pool.execute("DELETE FROM mirrored_documents WHERE index_uid = $1", index_uid)

    async def judge(self, uid: UUID, outcome: Outcome | None, state: State, note: str) -> bool:
        """See `ReindexingRecords.judge`."""
        kept = None if outcome is None else json.dumps(asdict(outcome))
        async with transaction(self._pool) as connection:
            statement = "UPDATE reindexings SET outcome = $2 WHERE uid = $1 AND state = 'BUILDING' RETURNING true"
            if not await connection.fetchval(statement, uid, kept):
                return False
            if state in ENDED:
                await _end(connection, uid, State.BUILDING, state, note)
            else:
                await connection.execute("UPDATE reindexings SET state = $2, note = $3 WHERE uid = $1", uid, state.value, note)
        return True

    async def swap(self, uid: UUID, expected: State, state: State, *, lagging: bool) -> int | None:
        """See `ReindexingRecords.swap`.

        The collection's row is locked first: whoever marks a document as indexed holds it shared, and so is either done before,
        or sees the other index after.
        """
        async with transaction(self._pool) as connection:
            collection_uid = await connection.fetchval("SELECT collection_uid FROM reindexings WHERE uid = $1", uid)
            serving = await connection.fetchrow(_SERVING, collection_uid)
            other = await connection.fetchrow(
                "SELECT * FROM reindexings WHERE uid = $1 AND state = $2 AND end_time IS NULL FOR UPDATE", uid, expected.value
            )
            if serving is None or other is None:
                return None
            missing = int(await connection.fetchval(_MISSING, collection_uid, other["index_uid"]))
            if missing and not lagging:
                return missing
            old, new = serving["serving_uid"], other["index_uid"]
            await connection.execute(_SWAP_DOCUMENTS, collection_uid, new, old, state not in ENDED)
            await connection.execute(_SWAP_COLLECTION, collection_uid, new, *(other[name] for name in _SWAPPED))
            await connection.execute(_SWAP_REINDEXING, uid, old, *(serving[name] for name in _SWAPPED), expected.value)
            if state in ENDED:
                await _end(connection, uid, expected, state, "")
            else:
                await connection.execute("UPDATE reindexings SET state = $2 WHERE uid = $1", uid, state.value)
        return missing

    async def end(self, uid: UUID, expected: State, state: State, note: str) -> bool:
        """See `ReindexingRecords.end`."""
        async with transaction(self._pool) as connection:
            return await _end(connection, uid, expected, state, note)


async def _end(connection: Connection, uid: UUID, expected: State, state: State, note: str) -> bool:
    ended = await connection.fetchrow(_END, uid, expected.value, state.value, note)
    if ended is None:
        return False
    await connection.execute(_DROP, ended["collection_uid"], ended["index_uid"])
    return True


def _reindexing(row: Row) -> Reindexing:
    state = State(row["state"])
    done = row["mirrored"] if state == State.SERVING else max(row["most_done"], row["mirrored"])
    return Reindexing(
        uid=plain_uuid(row["uid"]),
        collection_uid=plain_uuid(row["collection_uid"]),
        collection=row["collection"],
        tenant=row["tenant"],
        state=state,
        index_uid=plain_uuid(row["index_uid"]),
        embedder=EmbedderIdentity(row["embedder"], row["fingerprint"], row["dimensions"], tuple(row["languages"])),
        chunking=chunking_of(row["chunking"]),
        gate=Gate(**json.loads(row["gate"])),
        outcome=_outcome(row["outcome"]),
        note=row["note"],
        manual=row["manual"],
        keep=timedelta(seconds=row["keep_seconds"]),
        total=max(row["total"], done),
        done=done,
        create_time=row["create_time"],
        switch_time=row["switch_time"],
        end_time=row["end_time"],
    )


def _outcome(text: str | None) -> Outcome | None:
    if text is None:
        return None
    kept: dict[str, Any] = json.loads(text)
    return Outcome(**{**kept, **{name: Interval(**kept[name]) for name in ("old", "new", "difference")}})
