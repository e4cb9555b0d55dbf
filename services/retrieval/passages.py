"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.retrieval.filters import Condition
    from services.retrieval.fusion import Fusion, Place

DEFAULT_TOP_K: Final = 5


class SearchMode(StrEnum):
    """How passages are found."""

    HYBRID = "HYBRID"
    DENSE = "DENSE"
    SPARSE = "SPARSE"


@dataclass(frozen=True, slots=True)
class Options:
    """What a search may be told beyond what to find and where.

    Attributes:
        condition: Which documents may be found; None means all.
        fusion: How the two rankings of a hybrid search become one; None means as the collection says.
        mmr_lambda: Weighs fit (1) against difference (0); None leaves the order by score.
        min_relevance: Less relevant passages are left out.
        neighbors: By how many chunks before and after each passage is widened.
        explain: Whether each hit is to say why it is where it is.
        section: Whether each passage is widened to the section it stands in.
        reranker: The model that reorders what was found; empty for none, None as the collection says.
    """

    condition: Condition | None = None
    fusion: Fusion | None = None
    mmr_lambda: float | None = None
    min_relevance: float = 0.0
    neighbors: int = 0
    explain: bool = False
    section: bool = False
    reranker: str | None = None


DEFAULTS: Final = Options()


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a passage is where it is: its place in each ranking, the query's words that it holds, its grade if it has one."""

    dense: Place | None
    sparse: Place | None
    matched_terms: tuple[str, ...]
    coverage: float
    reranked: float | None = None


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
        explanation: Why it is where it is, where that was asked for.
        page: The page that the chunk starts on, from 1; 0 where the document has none.
        headings: The headings that the chunk stands under, outermost first.
        covered: The share of the query's words that it holds, weighted by their rarity.
        cosine: That of its vector and the query's; None where one of them has none.
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
    explanation: Explanation | None = None
    page: int = 0
    headings: tuple[str, ...] = ()
    covered: float = 0.0
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class SearchTimings:
    """Where the time of a search went, in seconds."""

    embedding: float
    store: float
    total: float
    reranking: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        hits: Best first.
        mode: How they were really found.
        mode_note: Why `mode` is another than the one asked for; empty when it is not.
        timings: Where the time went.
        reranker: The model that reordered the hits; empty where none did.
        rerank_note: Why none did though one was asked for; empty where none was.
    """

    hits: tuple[Hit, ...]
    mode: SearchMode
    mode_note: str
    timings: SearchTimings
    reranker: str = ""
    rerank_note: str = ""


class Searches(Protocol):
    """Whatever finds passages; `search.Searcher` does."""

    async def search(
        self,
        collections: Sequence[str],
        query: str,
        top_k: int = DEFAULT_TOP_K,
        mode: SearchMode = SearchMode.HYBRID,
        options: Options = DEFAULTS,
    ) -> Found:
        """Finds the passages of these collections that fit the query best.

        Raises:
            Failure: COLLECTION_NOT_FOUND, EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE, SERVICE_UNAVAILABLE or
                DATABASE_UNAVAILABLE.
        """
        ...
