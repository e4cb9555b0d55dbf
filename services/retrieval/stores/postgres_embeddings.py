"""Vectors by content, in Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.chassis.postgres import outages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.chassis.postgres import Pool

_KNOWN: Final = (
    "SELECT hash, vector, used_on < current_date AS is_stale FROM embeddings WHERE fingerprint = $1 AND hash = ANY($2)"
)
_USED: Final = "UPDATE embeddings SET used_on = current_date WHERE fingerprint = $1 AND hash = ANY($2)"
# Sorted, so that two processes that keep the same vectors cannot wait for each other in a circle.
_KEEP: Final = """
INSERT INTO embeddings (fingerprint, hash, vector)
SELECT $1, hash, vector FROM unnest($2::bytea[], $3::bytea[]) AS n(hash, vector)
ORDER BY hash ON CONFLICT DO NOTHING
"""
_FORGET: Final = """
DELETE FROM embeddings WHERE ctid = ANY(array(
    SELECT ctid FROM embeddings WHERE used_on < current_date - $1::int LIMIT $2 FOR UPDATE SKIP LOCKED
))
"""


class PostgresEmbeddings:
    """See `embeddings.VectorRecords`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def known(self, fingerprint: str, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `VectorRecords.known`."""
        with outages():
            rows = await self._pool.fetch(_KNOWN, fingerprint, hashes)
            stale = [row["hash"] for row in rows if row["is_stale"]]
            if stale:
                await self._pool.execute(_USED, fingerprint, sorted(stale))
        return {row["hash"]: row["vector"] for row in rows}

    async def keep(self, fingerprint: str, vectors: Mapping[bytes, bytes]) -> None:
        """See `VectorRecords.keep`."""
        with outages():
            await self._pool.execute(_KEEP, fingerprint, list(vectors), list(vectors.values()))

    async def forget(self, days: int, most: int) -> int:
        """See `VectorRecords.forget`."""
        with outages():
            done = await self._pool.execute(_FORGET, days, most)
        return int(done.rpartition(" ")[2])
