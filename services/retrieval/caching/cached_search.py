"""Searches only what was not searched before in the same state of the collections."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from services.retrieval.answering.events import CacheMode
from services.retrieval.caching.keys import key_of, states
from services.retrieval.caching.wire import kept_hits, read_hits
from services.retrieval.passages import DEFAULT_TOP_K, DEFAULTS, Found, SearchMode, SearchTimings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.chassis.cache.tiers import Tiers
    from services.retrieval.catalog import Collection
    from services.retrieval.passages import Options


@dataclass(frozen=True, slots=True)
class _Kept:
    """A result, as it is kept."""

    hits: list[dict[str, Any]]
    mode: SearchMode
    mode_note: str
    reranker: str
    rerank_note: str


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Kept).decode


class Names(Protocol):
    """Knows the collections, and who may read them; `catalog.Catalog` does."""

    async def named(self, collections: Sequence[str]) -> list[Collection]:
        """These collections in this order. Raises Failure(COLLECTION_NOT_FOUND)."""
        ...


class SearchesTargets(Protocol):
    """Whatever finds passages in collections that were looked up; `search.Searcher` does."""

    async def search_in(
        self, targets: Sequence[Collection], query: str, top_k: int, mode: SearchMode, options: Options
    ) -> Found:
        """As `passages.Searches.search`."""
        ...


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search found, and whether it was known already."""

    found: Found
    cached: bool


class CachedSearch:
    """Searching behind a cache of results.

    Args:
        catalog: Knows the collections.
        inner: Searches.
        tiers: Where results are kept; None to keep none.
    """

    def __init__(self, catalog: Names, inner: SearchesTargets, tiers: Tiers | None) -> None:
        self._catalog = catalog
        self._inner = inner
        self._tiers = tiers

    async def search(
        self,
        collections: Sequence[str],
        query: str,
        top_k: int = DEFAULT_TOP_K,
        mode: SearchMode = SearchMode.HYBRID,
        options: Options = DEFAULTS,
        *,
        cache: CacheMode = CacheMode.USE,
    ) -> Searched:
        """As `Searcher.search`. Timings of a kept result are those of this call, not of the one that made it."""
        started = time.monotonic()
        targets = await self._catalog.named(collections)
        searched = await self._searched(targets, query, top_k, mode, options, cache=cache)
        timings = replace(searched.found.timings, total=time.monotonic() - started)
        return Searched(replace(searched.found, timings=timings), searched.cached)

    async def search_in(
        self,
        targets: Sequence[Collection],
        query: str,
        top_k: int,
        mode: SearchMode,
        options: Options,
        *,
        cache: CacheMode = CacheMode.USE,
    ) -> Found:
        """The same for collections that the caller has looked up, in this very request."""
        return (await self._searched(targets, query, top_k, mode, options, cache=cache)).found

    async def _searched(
        self, targets: Sequence[Collection], query: str, top_k: int, mode: SearchMode, options: Options, *, cache: CacheMode
    ) -> Searched:
        tiers = self._tiers
        # Explanations are for people who look into one search: they are neither kept nor asked for often.
        if tiers is None or cache is CacheMode.BYPASS or options.explain:
            if tiers is not None:
                tiers.lookups.bypassed += 1
            return Searched(await self._inner.search_in(targets, query, top_k, mode, options), cached=False)
        key = key_of("search", states(targets), query, top_k, mode, options)
        if cache is CacheMode.USE and (kept := _read(await tiers.get(key))) is not None:
            return Searched(kept, cached=True)
        found = await self._inner.search_in(targets, query, top_k, mode, options)
        if found.rerank_note:
            # It may be possible to rerank again at any moment.
            return Searched(found, cached=False)
        tiers.put({key: _encode(_Kept(kept_hits(found.hits), found.mode, found.mode_note, found.reranker, found.rerank_note))})
        return Searched(found, cached=False)


def _read(value: bytes | None) -> Found | None:
    """What is kept; None for nothing and for what is no result: the shared store is written by others too."""
    if value is None:
        return None
    try:
        kept = _decode(value)
        timings = SearchTimings(0.0, 0.0, 0.0)
        return Found(read_hits(kept.hits), kept.mode, kept.mode_note, timings, kept.reranker, kept.rerank_note)
    except (msgspec.DecodeError, TypeError, ValueError):
        return None
