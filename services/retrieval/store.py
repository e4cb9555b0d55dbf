"""The vector store, as the domain sees it: derived from the documents, and rebuilt from them when lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from uuid import uuid5

from services.retrieval.fusion import RRF_K

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from services.retrieval.analysis import SparseVector
    from services.retrieval.filters import DocumentSet
    from services.retrieval.fusion import Ranked


class CollectionMissingError(Exception):
    """The store does not hold the collection: it was never made there, or was lost."""


def point_uid(document_uid: UUID, edition: int, ordinal: int) -> UUID:
    """The id of a chunk. Never change it: what is indexed has these."""
    return uuid5(document_uid, f"{edition}/{ordinal}")


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a chunk stands in its document.

    Attributes:
        ordinal: Its place among the document's chunks, from 0; -1 where it was written before that was kept.
        page: The page it starts on, from 1; 0 where the document has none.
        path: The headings it stands under, outermost first.
        section: The first and the last chunk of its section, by ordinal.
    """

    ordinal: int = -1
    page: int = 0
    path: tuple[str, ...] = ()
    section: tuple[int, int] = (-1, -1)


_NOWHERE: Final = Whereabouts()


@dataclass(frozen=True, slots=True)
class Point:
    """A chunk to be found.

    Attributes:
        uid: Made from document, edition and ordinal, so that writing it again changes nothing.
        document_uid: Its document.
        edition: The edition of the document's content that it was cut from.
        start: Where it starts in the document's text, in characters.
        end: Where it ends, exclusive.
        text: The passage.
        dense: Its vector; None where its language is none of the embedder's.
        sparse: Its weighted terms.
        where: Where it stands in the document.
    """

    uid: UUID
    document_uid: UUID
    edition: int
    start: int
    end: int
    text: str
    dense: Sequence[float] | None
    sparse: SparseVector
    where: Whereabouts = _NOWHERE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that was found; the document may have been deleted or replaced since it was written.

    Attributes:
        uid: Its id.
        document_uid: Its document.
        edition: The edition of the document's content that it was cut from.
        start: Where it starts in the document's text, in characters.
        end: Where it ends, exclusive.
        text: The passage.
        score: What candidates are ordered by; 0 where they were fetched by id.
        dense: Its vector; empty where it has none or none was asked for.
        weights: Its weighted terms by id.
        where: Where it stands in the document.
    """

    uid: UUID
    document_uid: UUID
    edition: int
    start: int
    end: int
    text: str
    score: float
    dense: Sequence[float]
    weights: Mapping[int, float]
    where: Whereabouts = _NOWHERE


@dataclass(frozen=True, slots=True)
class Query:
    """What to find: by meaning, by words, or by both, fused by reciprocal rank. At least one is given.

    Attributes:
        dense: The query's vector.
        sparse: The query's weighted terms.
        documents: Whose chunks may be found; None means all.
        rrf_k: The constant of reciprocal rank fusion.
    """

    dense: Sequence[float] | None
    sparse: SparseVector | None
    documents: DocumentSet | None = None
    rrf_k: int = RRF_K


@dataclass(frozen=True, slots=True)
class Legs:
    """The rankings of a query by meaning and by words, each empty where it was not asked for."""

    dense: Sequence[Ranked]
    sparse: Sequence[Ranked]


class Store(Protocol):
    """A vector store. Every method raises Failure(STORE_UNAVAILABLE) while it does not answer."""

    async def ensure(self, collection_uid: UUID, dimensions: int) -> None:
        """Makes the collection unless it is there."""
        ...

    async def drop(self, collection_uid: UUID) -> None:
        """Removes the collection if it is there."""
        ...

    async def write(self, collection_uid: UUID, points: Sequence[Point]) -> None:
        """Writes points durably, over those of the same ids. Raises CollectionMissingError."""
        ...

    async def erase(self, collection_uid: UUID, document_uid: UUID, from_edition: int, to_edition: int) -> None:
        """Removes a document's points of these editions, both included. Raises CollectionMissingError."""
        ...

    async def count(self, collection_uid: UUID) -> int:
        """How many points there are. Raises CollectionMissingError."""
        ...

    async def search(self, collection_uid: UUID, query: Query, limit: int, offset: int = 0) -> list[Candidate]:
        """The points that fit best, in order. Raises CollectionMissingError."""
        ...

    async def legs(self, collection_uid: UUID, query: Query, depth: int) -> Legs:
        """The first points of each ranking, unfused. Raises CollectionMissingError."""
        ...

    async def fetch(self, collection_uid: UUID, uids: Sequence[UUID], *, dense: bool) -> dict[UUID, Candidate]:
        """These points as far as they exist, with dense vectors where asked. Raises CollectionMissingError."""
        ...

    async def rarities(self, collection_uid: UUID, term_ids: Sequence[int]) -> dict[int, float]:
        """The inverse document frequency of each term that the collection holds. Raises CollectionMissingError."""
        ...
