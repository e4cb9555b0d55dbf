"""Embeds only what has not been embedded before."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from services.inference.admission import Priority
from services.inference.cache_keys import vector_key
from services.inference.engine import Embeddings, UsageSource
from services.inference.generation import Embedded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.chassis.cache.tiers import Tiers
    from services.inference.models import Models
    from services.inference.serving import Streams

# Before the numbers: the tokens of the text (-1 where unknown) and where that count comes from.
_HEAD: Final = struct.Struct("<iB")
# The least certain last.
_SOURCES: Final = (UsageSource.REPORTED, UsageSource.COUNTED, UsageSource.ESTIMATED)


class CachedVectors:
    """Embedding behind a cache of vectors, by text and fingerprint of the model.

    Args:
        inner: Embeds what is not cached.
        models: The models.
        tiers: Where vectors are kept.
    """

    def __init__(self, inner: Streams, models: Models, tiers: Tiers) -> None:
        self._inner = inner
        self._models = models
        self._tiers = tiers

    async def embed(self, model: str, inputs: Sequence[str], priority: Priority = Priority.DEFAULT) -> Embedded:
        """As `Inference.embed`. Tokens of cached vectors count as they did when the vectors were made."""
        known = self._models.embedder(model).model
        if not known.fingerprint:
            return await self._inner.embed(model, inputs, priority)
        keys = [vector_key(known, text) for text in inputs]
        found = await self._tiers.get_all(keys)
        values = {key: value for key, value in zip(keys, found, strict=True) if value is not None and _is_sound(value)}
        missing = {key: text for key, text in zip(keys, inputs, strict=True) if key not in values}
        if missing:
            embedded = await self._inner.embed(known.name, list(missing.values()), priority)
            if (embedded.model.engine, embedded.model.fingerprint) != (known.engine, known.fingerprint):
                # Another model has taken the name meanwhile: vectors of two models must not mix.
                return embedded if len(missing) == len(inputs) else await self._inner.embed(model, inputs, priority)
            fresh = dict(zip(missing, _written(embedded.embeddings, missing.values()), strict=True))
            self._tiers.put(fresh)
            if len(missing) == len(inputs):
                return embedded
            values |= fresh
        return Embedded(known, _read([values[key] for key in keys]))


def _is_sound(value: bytes) -> bool:
    """Whether it can be a vector at all: the shared store is written by others too."""
    length = len(value) - _HEAD.size
    return length > 0 and length % 4 == 0 and _HEAD.unpack_from(value)[1] < len(_SOURCES)


def _written(embeddings: Embeddings, texts: Iterable[str]) -> list[bytes]:
    lengths = [len(text) + 1 for text in texts]
    total, source = embeddings.input_tokens, embeddings.source
    if len(lengths) > 1:
        # Engines count a batch as one: each text gets its share by its length.
        source = UsageSource.ESTIMATED
    heads = []
    for length in lengths:
        tokens = -1 if total is None else round(total * length / sum(lengths))
        heads.append(_HEAD.pack(tokens, _SOURCES.index(source)))
    # Four bytes a number, as the contract has them.
    return [head + np.asarray(vector, "<f4").tobytes() for head, vector in zip(heads, embeddings.vectors, strict=True)]


def _read(values: Sequence[bytes]) -> Embeddings:
    heads = [_HEAD.unpack_from(value) for value in values]
    vectors = [np.frombuffer(value, "<f4", offset=_HEAD.size).tolist() for value in values]
    counts = [tokens for tokens, _ in heads]
    return Embeddings(vectors, None if -1 in counts else sum(counts), _SOURCES[max(source for _, source in heads)])
