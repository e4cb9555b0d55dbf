"""Finds passages: by meaning (dense vectors), by words (BM25), or by both."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason
from services.retrieval.analysis import query_vector
from services.retrieval.embedding import embed_as
from services.retrieval.languages import is_known
from services.retrieval.passages import DEFAULT_TOP_K, Found, Hit, SearchMode, SearchTimings
from services.retrieval.rarity import Rarities
from services.retrieval.relevance import coverage, relevance, similarity
from services.retrieval.store import CollectionMissingError, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from services.retrieval.analysis import SparseVector
    from services.retrieval.catalog import Catalog, Collection
    from services.retrieval.embedding import Embedder
    from services.retrieval.store import Candidate, Store

# Candidates asked for beyond those wanted, to make up for chunks of deleted and replaced documents.
_SPARE: Final = 5
_MOST_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class LiveDocument:
    """What a search must know of a document: its id, title and facts, and which edition of its content may be found."""

    document: str
    title: str
    metadata: Mapping[str, object]
    edition: int


class LiveDocuments(Protocol):
    """The documents that exist, as the system of record knows them."""

    async def live(self, uids: Sequence[UUID]) -> dict[UUID, LiveDocument]:
        """Those of the documents that exist and can be found. Raises Failure(DATABASE_UNAVAILABLE)."""
        ...


class Searcher:
    """Searches collections.

    Args:
        catalog: All collections.
        documents: What is known of documents.
        store: Where chunks are found.
        embedder: What embeds queries.
        suspect_loss: Called when the store turns out to have lost a collection.
    """

    def __init__(
        self,
        catalog: Catalog,
        documents: LiveDocuments,
        store: Store,
        embedder: Embedder,
        *,
        suspect_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self._catalog = catalog
        self._documents = documents
        self._store = store
        self._embedder = embedder
        self._rarities = Rarities(store)
        self._suspect_loss = suspect_loss

    async def search(
        self, collections: Sequence[str], query: str, top_k: int = DEFAULT_TOP_K, mode: SearchMode = SearchMode.HYBRID
    ) -> Found:
        """Finds the passages of these collections that fit the query best.

        Within one collection hits are ordered by the score of the mode. Those of several collections are ordered by relevance,
        as scores of different collections cannot be compared: a first place says nothing of how good it is.

        Raises:
            Failure: COLLECTION_NOT_FOUND, EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE, SERVICE_UNAVAILABLE or
                DATABASE_UNAVAILABLE.
        """
        started = time.monotonic()
        targets = await self._catalog.named(collections)
        sparse = query_vector(query)
        reasons = {target.collection: _without_vectors(target, query) for target in targets}
        by_words = [target for target in targets if mode == SearchMode.SPARSE or reasons[target.collection]]
        prepared = time.monotonic()
        vectors = await self._embed([target for target in targets if target not in by_words], query)
        embedded = time.monotonic()
        found = await asyncio.gather(
            *(self._search_one(target, _legs(mode, vectors.get(target.uid), sparse), sparse, top_k) for target in targets)
        )
        hits = [hit for those in found for hit in those]
        if len(targets) > 1:
            hits = sorted((_by_relevance(hit) for hit in hits), key=lambda hit: hit.score, reverse=True)[:top_k]
        ended = time.monotonic()
        served = SearchMode.SPARSE if len(by_words) == len(targets) else mode
        note = "" if mode == SearchMode.SPARSE else " ".join(dict.fromkeys(filter(None, reasons.values())))
        timings = SearchTimings(embedding=embedded - prepared, store=ended - embedded, total=ended - started)
        return Found(tuple(hits), served, note, timings)

    async def _embed(self, targets: Sequence[Collection], query: str) -> dict[UUID, Sequence[float]]:
        """The query's vector for each collection; embedders shared by several are asked once."""
        vectors: dict[UUID, Sequence[float]] = {}
        for identity in {target.embedder for target in targets}:
            users = [target for target in targets if target.embedder == identity]
            vector = (await embed_as(self._embedder, identity, [query], collection=users[0].collection))[0]
            vectors.update((target.uid, vector) for target in users)
        return vectors

    async def _search_one(self, target: Collection, query: Query, terms: SparseVector, top_k: int) -> list[Hit]:
        if query.dense is None and not terms.indices:
            return []
        try:
            rarities, found = await asyncio.gather(
                self._rarities.of(target.uid, terms.indices), self._live(target.uid, query, top_k)
            )
        except CollectionMissingError:
            return await self._missing(target)
        return [_hit(target, candidate, live, query.dense, rarities) for candidate, live in found]

    async def _live(self, collection_uid: UUID, query: Query, top_k: int) -> list[tuple[Candidate, LiveDocument]]:
        """The best candidates whose documents still say so; asks for more while too many were outdated."""
        found: list[tuple[Candidate, LiveDocument]] = []
        offset, limit = 0, top_k + _SPARE
        for _ in range(_MOST_ROUNDS):
            candidates = await self._store.search(collection_uid, query, limit, offset)
            known = await self._documents.live(list({candidate.document_uid for candidate in candidates}))
            for candidate in candidates:
                live = known.get(candidate.document_uid)
                if live is not None and live.edition == candidate.edition:
                    found.append((candidate, live))
            if len(found) >= top_k or len(candidates) < limit:
                break
            offset, limit = offset + limit, limit * 4
        return found[:top_k]

    async def _missing(self, target: Collection) -> list[Hit]:
        """An empty collection may not have reached the store yet; one with chunks was lost there, and is being rebuilt."""
        if (await self._catalog.get(target.collection)).chunk_count == 0:
            return []
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
        return f"No document of {target.collection} is in a language that its embedder {name} knows: searched by words alone."
    return ""


def _legs(mode: SearchMode, dense: Sequence[float] | None, sparse: SparseVector) -> Query:
    has_terms = bool(sparse.indices)
    by_words = dense is None or (mode == SearchMode.HYBRID and has_terms)
    return Query(dense=dense, sparse=sparse if by_words else None)


def _by_relevance(hit: Hit) -> Hit:
    return replace(hit, score=hit.relevance)


def _hit(
    target: Collection, candidate: Candidate, live: LiveDocument, dense: Sequence[float] | None, rarities: Mapping[int, float]
) -> Hit:
    similar = similarity(dense, candidate.dense) if dense is not None and candidate.dense else None
    return Hit(
        collection=target.collection,
        document=live.document,
        chunk=str(candidate.uid),
        text=candidate.text,
        score=candidate.score,
        relevance=relevance(coverage(rarities, candidate.weights), similar),
        title=live.title,
        metadata=live.metadata,
        start=candidate.start,
        end=candidate.end,
    )
