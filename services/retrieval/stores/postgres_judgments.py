"""Judged queries in Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg

from services.chassis.postgres import outages, transaction
from services.retrieval.evaluation.queries import Judged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from services.chassis.postgres import Pool

# Of a text so much is read for the queries that are made of it, characters.
_BEGINNING: Final = 4_000
_TEXTS: Final = f"""
SELECT document, left(text, {_BEGINNING}) AS beginning FROM documents
WHERE collection_uid = $1 AND indexed_edition IS NOT NULL ORDER BY hashtextextended(document, 0) LIMIT $2
"""  # noqa: S608 - put together from the constant above


class PostgresJudgments:
    """See `queries.Judgments`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def put(self, collection_uid: UUID, queries: Sequence[Judged]) -> bool:
        """See `Judgments.put`."""
        rows = [(collection_uid, number, one.query, list(one.relevant)) for number, one in enumerate(queries)]
        try:
            async with transaction(self._pool) as connection:
                await connection.execute("DELETE FROM judgments WHERE collection_uid = $1", collection_uid)
                await connection.executemany(
                    "INSERT INTO judgments (collection_uid, number, query, relevant) VALUES ($1, $2, $3, $4)", rows
                )
        except asyncpg.ForeignKeyViolationError:
            return False
        return True

    async def of(self, collection_uid: UUID) -> list[Judged]:
        """See `Judgments.of`."""
        with outages():
            rows = await self._pool.fetch(
                "SELECT query, relevant FROM judgments WHERE collection_uid = $1 ORDER BY number", collection_uid
            )
        return [Judged(row["query"], tuple(row["relevant"])) for row in rows]

    async def texts(self, collection_uid: UUID, most: int) -> list[tuple[str, str]]:
        """See `Judgments.texts`."""
        with outages():
            rows = await self._pool.fetch(_TEXTS, collection_uid, most)
        return [(row["document"], row["beginning"]) for row in rows]
