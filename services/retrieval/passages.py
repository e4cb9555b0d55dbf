"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_TOP_K: Final = 5


class SearchMode(StrEnum):
    """How passages are found."""

    HYBRID = "HYBRID"
    DENSE = "DENSE"
    SPARSE = "SPARSE"


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        collection: Id of its collection.
        document: Id of its document.
        chunk: Id of the chunk, unique in the collection.
        text: The passage: the document's text from `start` to `end`.
        score: What hits are ordered by; its scale depends on the mode.
        relevance: 0 to 1, comparable between modes.
        title: The document's title; may be empty.
        metadata: Facts kept with the document.
        start: Where the passage starts in the document's text, in characters.
        end: Where it ends, exclusive.
    """

    collection: str
    document: str
    chunk: str
    text: str
    score: float
    relevance: float
    title: str
    metadata: Mapping[str, object]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SearchTimings:
    """Where the time of a search went, in seconds."""

    embedding: float
    store: float
    total: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        hits: Best first.
        mode: How they were really found.
        mode_note: Why `mode` is another than the one asked for; empty when it is not.
        timings: Where the time went.
    """

    hits: tuple[Hit, ...]
    mode: SearchMode
    mode_note: str
    timings: SearchTimings


class Searches(Protocol):
    """Whatever finds passages; `search.Searcher` does."""

    async def search(
        self, collections: Sequence[str], query: str, top_k: int = DEFAULT_TOP_K, mode: SearchMode = SearchMode.HYBRID
    ) -> Found:
        """Finds the passages of these collections that fit the query best.

        Raises:
            Failure: COLLECTION_NOT_FOUND, EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE, SERVICE_UNAVAILABLE or
                DATABASE_UNAVAILABLE.
        """
        ...
