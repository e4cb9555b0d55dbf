"""How rare words are in a collection, remembered for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from services.retrieval.store import Store

# Rarity moves slowly: ten times the documents shift it by a few parts in a hundred of the range.
_FRESH_SECONDS: Final = 300.0
_MOST_REMEMBERED: Final = 50_000
# Terms of one query that are looked up; those of a pasted page beyond count by those before.
_MOST_TERMS: Final = 64
# Of a word that the collection does not hold, where no other word of the query tells the scale.
_UNKNOWN: Final = 8.0


class Rarities:
    """The inverse document frequencies of words, by collection."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[tuple[UUID, int], tuple[float, float]] = OrderedDict()

    async def of(self, collection_uid: UUID, term_ids: Sequence[int]) -> dict[int, float]:
        """The rarity of each term. A word that no chunk holds is as rare as the rarest of the query's that one does.

        Raises:
            Failure: STORE_UNAVAILABLE.
            CollectionMissingError: the store does not hold the collection.
        """
        term_ids = term_ids[:_MOST_TERMS]
        now = time.monotonic()
        # Taken before waiting: meanwhile others may push out what is known now.
        rarities = {term: rarity for term in term_ids if (rarity := self._fresh(collection_uid, term, now)) is not None}
        missing = [term for term in dict.fromkeys(term_ids) if term not in rarities]
        if missing:
            found = await self._store.rarities(collection_uid, missing)
            for term in missing:
                rarities[term] = found.get(term, 0.0)
                self._known[(collection_uid, term)] = (rarities[term], now + _FRESH_SECONDS)
                self._known.move_to_end((collection_uid, term))
        while len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        unknown = max(rarities.values(), default=0.0) or _UNKNOWN
        return {term: rarities[term] or unknown for term in term_ids}

    def _fresh(self, collection_uid: UUID, term: int, now: float) -> float | None:
        rarity, until = self._known.get((collection_uid, term), (0.0, 0.0))
        return rarity if until >= now else None
