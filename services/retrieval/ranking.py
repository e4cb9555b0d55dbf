"""Ranks the chunks of one collection, those alone whose documents exist, are up to date and fit the filter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from services.retrieval.fusion import Fused, Rrf, fuse, ranked_alone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from services.retrieval.catalog import Collection
    from services.retrieval.filters import Condition, DocumentSet
    from services.retrieval.fusion import Ranked
    from services.retrieval.passages import Options
    from services.retrieval.store import Candidate, Query, Store

# Candidates asked for beyond those wanted, to make up for chunks of deleted and replaced documents.
_SPARE: Final = 5
_MOST_ROUNDS: Final = 4
# Chunks of each ranking that are fused here: scores are normalised over them, so that a few say too little.
_LEAST_DEPTH: Final = 100


@dataclass(frozen=True, slots=True)
class LiveDocument:
    """What a search must know of a document: its id, title and facts, and which edition of its content may be found."""

    document: str
    title: str
    metadata: Mapping[str, object]
    edition: int
    chunk_count: int


class LiveDocuments(Protocol):
    """The documents that exist, as the system of record knows them. Each method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def live(self, uids: Sequence[UUID], condition: Condition | None = None) -> dict[UUID, LiveDocument]:
        """Those of the documents that exist, can be found and fit the condition."""
        ...

    async def select(self, collection_uid: UUID, condition: Condition) -> DocumentSet:
        """The documents of a collection that can be found and fit."""
        ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A chunk that was found, its document, and where it stands in each ranking if that is known."""

    candidate: Candidate
    live: LiveDocument
    places: Fused | None


class Ranking:
    """Ranks chunks.

    Args:
        store: Where chunks are found.
        documents: What is known of documents.
    """

    def __init__(self, store: Store, documents: LiveDocuments) -> None:
        self._store = store
        self._documents = documents

    async def best(self, target: Collection, query: Query, count: int, options: Options) -> list[Placed]:
        """The best chunks of a collection, best first.

        Raises:
            Failure: STORE_UNAVAILABLE, DATABASE_UNAVAILABLE.
            CollectionMissingError: the store does not hold the collection.
        """
        if options.condition is not None:
            documents = await self._documents.select(target.uid, options.condition)
            if documents.is_empty:
                return []
            query = replace(query, documents=documents)
        both = query.dense is not None and query.sparse is not None
        fusion = options.fusion or target.settings.fusion
        if options.explain or (both and not isinstance(fusion, Rrf)):
            return await self._fused_here(target.index_uid, query, count, replace(options, fusion=fusion))
        if isinstance(fusion, Rrf):
            query = replace(query, rrf_k=fusion.k)
        return await self._fused_there(target.index_uid, query, count, options.condition)

    async def _fused_there(self, index_uid: UUID, query: Query, count: int, condition: Condition | None) -> list[Placed]:
        """Has the store fuse; asks for more while too many candidates were outdated."""
        found: list[Placed] = []
        offset, limit = 0, count + _SPARE
        for _ in range(_MOST_ROUNDS):
            candidates = await self._store.search(index_uid, query, limit, offset)
            found += await self._living(candidates, condition)
            if len(found) >= count or len(candidates) < limit:
                break
            offset, limit = offset + limit, limit * 4
        return found[:count]

    async def _fused_here(self, index_uid: UUID, query: Query, count: int, options: Options) -> list[Placed]:
        """Takes the two rankings as they are, and fetches the chunks that come out on top."""
        depth = max(_LEAST_DEPTH, 2 * (count + _SPARE))
        found: list[Placed] = []
        for _ in range(_MOST_ROUNDS):
            legs = await self._store.legs(index_uid, query, depth)
            fused = _common(query, legs.dense, legs.sparse, options)
            found = await self._top(index_uid, query, fused, count, options.condition)
            if len(found) >= count or max(len(legs.dense), len(legs.sparse)) < depth:
                break
            depth *= 4
        return found

    async def _top(
        self, index_uid: UUID, query: Query, fused: Sequence[Fused], count: int, condition: Condition | None
    ) -> list[Placed]:
        found: list[Placed] = []
        step = count + _SPARE
        for start in range(0, len(fused), step):
            places = {one.uid: one for one in fused[start : start + step]}
            fetched = await self._store.fetch(index_uid, list(places), dense=query.dense is not None)
            candidates = [replace(fetched[uid], score=one.score) for uid, one in places.items() if uid in fetched]
            living = await self._living(candidates, condition)
            found += [replace(one, places=places[one.candidate.uid]) for one in living]
            if len(found) >= count:
                break
        return found[:count]

    async def _living(self, candidates: Sequence[Candidate], condition: Condition | None) -> list[Placed]:
        known = await self._documents.live(list({candidate.document_uid for candidate in candidates}), condition)
        return [
            Placed(candidate, live, None)
            for candidate in candidates
            if (live := known.get(candidate.document_uid)) is not None and live.edition == candidate.edition
        ]


def _common(query: Query, dense: Sequence[Ranked], sparse: Sequence[Ranked], options: Options) -> list[Fused]:
    if query.sparse is None:
        return ranked_alone(dense, by_meaning=True)
    if query.dense is None:
        return ranked_alone(sparse, by_meaning=False)
    return fuse(dense, sparse, options.fusion or Rrf())
