"""Embeds queries that were not embedded before, those that come together in one batch."""

from __future__ import annotations

import array
import hashlib
from typing import TYPE_CHECKING, Final

from services.retrieval.caching.coalescing import Coalescer
from services.retrieval.embedding import Embedded

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from services.chassis.cache.tiers import Tiers
    from services.retrieval.embedding import Embedder

# Longer lists are documents on their way in: these keep their vectors elsewhere, and are batches already.
_MOST_TEXTS: Final = 32
_MOST_TOGETHER: Final = 32
# Batches under way at a time: one is worked on while the next one travels.
_LANES: Final = 2
_NUMBER: Final = "f"


class CachedEmbedder:
    """Embedding behind a cache of vectors, by the text and the embedder's fingerprint.

    Args:
        inner: Embeds.
        tiers: Where vectors are kept; None to keep none.
    """

    def __init__(self, inner: Embedder, tiers: Tiers | None) -> None:
        self._inner = inner
        self._tiers = tiers
        self._together: Coalescer[str, Sequence[float]] = Coalescer(self._fetch, most=_MOST_TOGETHER, lanes=_LANES)
        # What the embedder called itself when it made the vectors of a group.
        self._made_by: dict[str, str] = {}

    async def languages(self, model: str) -> tuple[str, ...]:
        """See `Embedder.languages`."""
        return await self._inner.languages(model)

    async def embed(self, model: str, texts: Sequence[str], fingerprint: str = "") -> Embedded:
        """See `Embedder.embed`. A vector of the right fingerprint is right, whatever the embedder is by now."""
        if not fingerprint or len(texts) > _MOST_TEXTS:
            return await self._inner.embed(model, texts, fingerprint)
        vectors = dict.fromkeys(texts, None) | await self._known(fingerprint, texts)
        missing = [text for text, vector in vectors.items() if vector is None]
        if missing:
            fresh = await self._together.get((model, fingerprint), missing)
            made_by = self._made_by.get(model, "")
            if made_by != fingerprint or not all(text in fresh for text in missing):
                # The embedder has changed: the caller learns that from what it says of itself.
                return await self._inner.embed(model, texts, fingerprint)
            vectors |= {text: fresh[text] for text in missing}
        found = [vector for text in texts if (vector := vectors[text]) is not None]
        return Embedded(found, model, fingerprint, len(found[0]))

    async def _known(self, fingerprint: str, texts: Sequence[str]) -> dict[str, Sequence[float] | None]:
        if self._tiers is None:
            return {}
        values = await self._tiers.get_all([_key(fingerprint, text) for text in texts])
        return {text: _read(value) for text, value in zip(texts, values, strict=True) if value}

    async def _fetch(self, group: Hashable, texts: Sequence[str]) -> Mapping[str, Sequence[float]]:
        assert isinstance(group, tuple)  # noqa: S101 - made in `embed` above
        model, fingerprint = group
        embedded = await self._inner.embed(model, texts, fingerprint)
        self._made_by[model] = embedded.fingerprint
        if embedded.fingerprint != fingerprint:
            return {}
        found = dict(zip(texts, embedded.vectors, strict=True))
        if self._tiers is not None:
            self._tiers.put({_key(fingerprint, text): array.array(_NUMBER, vector).tobytes() for text, vector in found.items()})
        return found


def _key(fingerprint: str, text: str) -> bytes:
    return hashlib.sha256(f"{fingerprint}\x00{text}".encode()).digest()


def _read(value: bytes) -> Sequence[float] | None:
    """The vector; None for what is none: the shared store is written by others too."""
    vector = array.array(_NUMBER)
    if len(value) % vector.itemsize:
        return None
    vector.frombytes(value)
    return vector
