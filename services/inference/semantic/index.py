"""The questions that have been answered, by their vectors: a bounded part of this process's memory.

A look finds the key of an answer; the answer itself is where all answers are kept (`tiers`). The threshold belongs to one
embedder, named by its fingerprint: of another one, or another version, neither the threshold nor the vectors mean anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from services.chassis.errors import Failure
from services.inference.semantic.questions import is_understood, keep_their_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from services.inference.generation import Embedded

_log = logging.getLogger(__name__)

# A look that takes longer is not worth its time.
_PATIENCE: Final = 0.25
# Of the nearest questions so many are looked at.
_NEAREST: Final = 4
# A question beside its vector: its text, the key of its answer, and what Python takes for them.
_OVERHEAD: Final = 300
_MOST_IN_BUCKET: Final = 1024


class Embeds(Protocol):
    """Embeds as `Inference` does."""

    async def embed(self, model: str, inputs: Sequence[str]) -> Embedded:
        """Embeds the inputs, all or none."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """Which embedder questions are compared by, and from which cosine on two of them count as the same."""

    model: str
    fingerprint: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Sought:
    """A question with its vector, ready to be remembered. `scope` is all that must be the same beside it."""

    scope: bytes
    text: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Match:
    """A question that means the same: the key of its answer, and the cosine."""

    key: bytes
    similarity: float


@dataclass(slots=True)
class Looks:
    """How looks have ended since the start. `skipped`: the embedder does not speak the language, is another one, or failed."""

    found: int = 0
    missed: int = 0
    skipped: int = 0


@dataclass(slots=True)
class _Bucket:
    """Questions of one scope. The vectors stand in one array, to be compared at once; the oldest is replaced first."""

    vectors: NDArray[np.float32]
    entries: list[tuple[str, bytes]] = field(default_factory=list)
    following: int = 0

    def size(self) -> int:
        return self.vectors.nbytes + len(self.entries) * _OVERHEAD + sum(len(text) for text, _ in self.entries) * 2

    def nearest(self, sought: Sought, threshold: float) -> Match | None:
        similarities = self.vectors[: len(self.entries)] @ sought.vector
        for place in np.argsort(-similarities)[:_NEAREST]:
            similarity = float(similarities[place])
            if similarity < threshold:
                return None
            text, key = self.entries[place]
            if keep_their_order(text, sought.text):
                return Match(key, min(1.0, similarity))
        return None

    def add(self, sought: Sought, key: bytes) -> None:
        for place, (text, _) in enumerate(self.entries):
            if text == sought.text:
                self.entries[place] = (text, key)
                return
        if len(self.entries) < _MOST_IN_BUCKET:
            place = len(self.entries)
            self.entries.append((sought.text, key))
            if place == len(self.vectors):
                self.vectors = np.concatenate([self.vectors, np.zeros_like(self.vectors)])
        else:
            place, self.following = self.following, (self.following + 1) % _MOST_IN_BUCKET
            self.entries[place] = (sought.text, key)
        self.vectors[place] = sought.vector


class SemanticIndex:
    """Remembers questions and finds those that mean the same.

    Args:
        embeds: Embeds, best behind a cache of vectors.
        embedder: Which one, and its threshold.
        most_bytes: Of memory, for all questions together.
    """

    def __init__(self, embeds: Embeds, embedder: Embedder, most_bytes: int) -> None:
        self.looks = Looks()
        self._embeds = embeds
        self._embedder = embedder
        self._most_bytes = most_bytes
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._is_told = False
        self.used_bytes = 0

    async def seek(self, scope: bytes, text: str) -> Sought | None:
        """The question with its vector; None where it cannot be compared, or not in time."""
        try:
            async with asyncio.timeout(_PATIENCE):
                embedded = await self._embeds.embed(self._embedder.model, [text])
        except (Failure, TimeoutError):
            self.looks.skipped += 1
            return None
        model = embedded.model
        if model.fingerprint != self._embedder.fingerprint:
            self._changed(model.fingerprint)
            return None
        if not is_understood(text, model.languages):
            self.looks.skipped += 1
            return None
        vector = np.asarray(embedded.embeddings.vectors[0], np.float32)
        length = float(np.linalg.norm(vector))
        if not length:
            self.looks.skipped += 1
            return None
        return Sought(scope, text, vector / length)

    def match(self, sought: Sought) -> Match | None:
        """The question nearest to it that means the same."""
        bucket = self._buckets.get(sought.scope)
        match = bucket.nearest(sought, self._embedder.threshold) if bucket is not None else None
        if bucket is not None:
            self._buckets.move_to_end(sought.scope)
        if match is None:
            self.looks.missed += 1
        return match

    def add(self, sought: Sought, key: bytes) -> None:
        """Remembers a question by the key of its answer."""
        bucket = self._buckets.get(sought.scope)
        if bucket is None:
            bucket = self._buckets[sought.scope] = _Bucket(np.zeros((1, len(sought.vector)), np.float32))
            self.used_bytes += bucket.size()
        before = bucket.size()
        bucket.add(sought, key)
        self.used_bytes += bucket.size() - before
        self._buckets.move_to_end(sought.scope)
        while self.used_bytes > self._most_bytes and self._buckets:
            self.used_bytes -= self._buckets.popitem(last=False)[1].size()

    def _changed(self, fingerprint: str) -> None:
        self.looks.skipped += 1
        self._buckets.clear()
        self.used_bytes = 0
        if not self._is_told:
            self._is_told = True
            _log.warning(
                "the semantic cache rests: its threshold was found for %s, and %s embeds with %s; find one for it, and set"
                " SEMANTIC_CACHE_FINGERPRINT",
                self._embedder.fingerprint,
                self._embedder.model,
                fingerprint or "no fingerprint",
            )
