"""The states of collections, many asked for at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.chassis.postgres import outages
from services.retrieval.caching.coalescing import Coalescer
from services.retrieval.stores.postgres_collections import PostgresCollections

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from services.chassis.postgres import Pool
    from services.retrieval.catalog import Collection

_MOST: Final = 512
# Collections of a great many changes first; those that are gone are dropped.
_JOIN: Final = """
WITH crowded AS (
    SELECT collection_uid FROM changes GROUP BY collection_uid HAVING count(*) > $1
    UNION SELECT collection_uid FROM changes WHERE collection_uid NOT IN (SELECT uid FROM collections)
), gone AS (
    DELETE FROM changes WHERE collection_uid IN (SELECT collection_uid FROM crowded) RETURNING collection_uid, weight
)
INSERT INTO changes (collection_uid, weight)
SELECT collection_uid, sum(weight) FROM gone JOIN collections ON uid = collection_uid GROUP BY collection_uid
"""
_CROWDED: Final = 64


class CoalescedCollections(PostgresCollections):
    """`PostgresCollections` whose `named` asks once for all that come while it is asked.

    Each search asks for the state of its collections, and a query begun after the search came answers it: a write that was
    acknowledged before is never missed, in whichever process it was made.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._changes = pool
        self._together: Coalescer[str, Collection] = Coalescer(self._fetch, most=_MOST)

    async def named(self, tenant: str, collections: Sequence[str]) -> dict[str, Collection]:
        """See `CollectionRecords.named`."""
        found = await self._together.get(tenant, collections)
        return {one: found[one] for one in collections if one in found}

    async def join_changes(self) -> None:
        """Makes one row of many, of the same sum."""
        with outages():
            await self._changes.execute(_JOIN, _CROWDED)

    async def _fetch(self, group: Hashable, collections: Sequence[str]) -> Mapping[str, Collection]:
        return await super().named(str(group), collections)
