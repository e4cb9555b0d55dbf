"""Finds passages: by meaning (dense vectors), by words (BM25), or by both."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from services.chassis.errors import Failure, Reason
from services.retrieval.analysis import query_vector, query_words
from services.retrieval.embedding import embed_as
from services.retrieval.languages import is_known
from services.retrieval.neighbors import Neighborhood
from services.retrieval.passages import DEFAULT_TOP_K, DEFAULTS, Found, SearchMode, SearchTimings
from services.retrieval.ranking import Ranking
from services.retrieval.rarity import Rarities
from services.retrieval.reranking import CANDIDATES, Reranked
from services.retrieval.selection import Passage, pool_size, selected
from services.retrieval.store import CollectionMissingError, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from services.retrieval.analysis import SparseVector
    from services.retrieval.catalog import Catalog, Collection
    from services.retrieval.embedding import Embedder
    from services.retrieval.passages import Hit, Options
    from services.retrieval.ranking import LiveDocuments
    from services.retrieval.reranking import Reranker
    from services.retrieval.store import Store


class Searcher:
    """Searches collections.

    Args:
        catalog: All collections.
        documents: What is known of documents.
        store: Where chunks are found.
        embedder: What embeds queries.
        suspect_loss: Called when the store turns out to have lost a collection.
        reranker: What reorders passages where that is asked for.
    """

    def __init__(
        self,
        catalog: Catalog,
        documents: LiveDocuments,
        store: Store,
        embedder: Embedder,
        *,
        suspect_loss: Callable[[], None] = lambda: None,
        reranker: Reranker | None = None,
    ) -> None:
        self._catalog = catalog
        self._embedder = embedder
        self._ranking = Ranking(store, documents)
        self._rarities = Rarities(store)
        self._neighborhood = Neighborhood(store)
        self._suspect_loss = suspect_loss
        self._reranker = reranker

    async def search(
        self,
        collections: Sequence[str],
        query: str,
        top_k: int = DEFAULT_TOP_K,
        mode: SearchMode = SearchMode.HYBRID,
        options: Options = DEFAULTS,
    ) -> Found:
        """Finds the passages of these collections that fit the query best.

        Within one collection hits are ordered by the score of the mode. Those of several collections are ordered by relevance,
        as scores of different collections cannot be compared: a first place says nothing of how good it is.

        Raises:
            Failure: COLLECTION_NOT_FOUND, EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE, SERVICE_UNAVAILABLE or
                DATABASE_UNAVAILABLE.
        """
        started = time.monotonic()
        found = await self.search_in(await self._catalog.named(collections), query, top_k, mode, options)
        return replace(found, timings=replace(found.timings, total=time.monotonic() - started))

    async def search_in(
        self, targets: Sequence[Collection], query: str, top_k: int, mode: SearchMode, options: Options
    ) -> Found:
        """The same for collections that the caller has already found, each in the index that it names."""
        started = time.monotonic()
        if options.reranker is None:
            options = replace(options, reranker=next((one.settings.reranker for one in targets if one.settings.reranker), ""))
        sparse = query_vector(query)
        reasons = {target.collection: _without_vectors(target, query) for target in targets}
        by_words = [target for target in targets if mode == SearchMode.SPARSE or reasons[target.collection]]
        prepared = time.monotonic()
        vectors = await self._embed([target for target in targets if target not in by_words], query)
        embedded = time.monotonic()
        count = pool_size(top_k, options)
        found = await asyncio.gather(
            *(
                self._search_one(target, _legs(mode, vectors.get(target.uid), sparse), sparse, count, options)
                for target in targets
            )
        )
        passages = [one for those in found for one in those]
        reranked = await self._reranked(passages, query, top_k, options, merged=len(targets) > 1)
        hits = await self._hits(reranked.passages, query, options)
        ended = time.monotonic()
        served = SearchMode.SPARSE if len(by_words) == len(targets) else mode
        note = "" if mode == SearchMode.SPARSE else " ".join(dict.fromkeys(filter(None, reasons.values())))
        timings = SearchTimings(
            embedding=embedded - prepared,
            store=ended - embedded - reranked.seconds,
            total=ended - started,
            reranking=reranked.seconds,
        )
        return Found(tuple(hits), served, note, timings, reranked.model, reranked.note)

    async def _reranked(
        self, passages: Sequence[Passage], query: str, top_k: int, options: Options, *, merged: bool
    ) -> Reranked:
        """The passages to return, in order; those above the threshold are reranked before any are chosen."""
        if not options.reranker or self._reranker is None:
            return Reranked(await selected(passages, top_k, options, merged=merged), "", "", 0.0)
        best = await selected(passages, max(top_k, CANDIDATES), replace(options, mmr_lambda=None), merged=merged)
        reranked = await self._reranker.rerank(options.reranker, query, best)
        chosen = await selected(reranked.passages, top_k, replace(options, min_relevance=0.0), merged=False)
        return replace(reranked, passages=chosen)

    async def _embed(self, targets: Sequence[Collection], query: str) -> dict[UUID, Sequence[float]]:
        """The query's vector for each collection; embedders shared by several are asked once."""
        vectors: dict[UUID, Sequence[float]] = {}
        for identity in {target.embedder for target in targets}:
            users = [target for target in targets if target.embedder == identity]
            vector = (await embed_as(self._embedder, identity, [query], collection=users[0].collection))[0]
            vectors.update((target.uid, vector) for target in users)
        return vectors

    async def _search_one(
        self, target: Collection, query: Query, terms: SparseVector, count: int, options: Options
    ) -> list[Passage]:
        if query.dense is None and not terms.indices:
            return []
        try:
            rarities, found = await asyncio.gather(
                self._rarities.of(target.index_uid, terms.indices), self._ranking.best(target, query, count, options)
            )
        except CollectionMissingError:
            await self._missing(target)
            return []
        return [Passage.of(target, placed, query.dense, rarities) for placed in found]

    async def _hits(self, passages: Sequence[Passage], query: str, options: Options) -> list[Hit]:
        words = query_words(query) if options.explain else None
        wider: dict[UUID, tuple[int, str]] = {}
        if options.neighbors or options.section:
            for target in {one.target.uid: one.target for one in passages}.values():
                placed = [one.placed for one in passages if one.target.uid == target.uid]
                try:
                    wider |= await self._neighborhood.around(
                        target.index_uid, placed, options.neighbors, section=options.section
                    )
                except CollectionMissingError:
                    await self._missing(target)
        return [one.hit(words, wider.get(one.placed.candidate.uid)) for one in passages]

    async def _missing(self, target: Collection) -> None:
        """An empty collection may not have reached the store yet; one with chunks was lost there, and is being rebuilt."""
        if (await self._catalog.get(target.collection)).chunk_count == 0:
            return
        self._suspect_loss()
        raise Failure(
            Reason.STORE_UNAVAILABLE,
            f"the vector store has lost collection {target.collection!r}, which is being rebuilt; try again",
            metadata={"collection": target.collection},
            retry_after=2,
        )


def _without_vectors(target: Collection, query: str) -> str:
    """Why a query cannot be served by meaning in this collection; empty if it can."""
    name = target.embedder.name
    if not is_known(query, target.embedder.languages):
        known = ", ".join(target.embedder.languages)
        return f"The query is in a language that the embedder {name} does not know (it knows {known}): searched by words alone."
    if not target.has_vectors and target.embedder.languages:
        return f"{target.collection} has no document in a language that its embedder {name} knows: searched by words alone."
    return ""


def _legs(mode: SearchMode, dense: Sequence[float] | None, sparse: SparseVector) -> Query:
    has_terms = bool(sparse.indices)
    by_words = dense is None or (mode == SearchMode.HYBRID and has_terms)
    return Query(dense=dense, sparse=sparse if by_words else None)
