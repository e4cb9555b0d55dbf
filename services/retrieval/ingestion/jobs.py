"""The queue of what is to be indexed and erased, as the domain sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from uuid import UUID

    from services.retrieval.embedding import EmbedderIdentity
    from services.retrieval.reading import Heading


@dataclass(frozen=True, slots=True)
class Job:
    """A document to index, under a lease.

    Attributes:
        document_uid: Which.
        collection_uid: Its collection.
        index_uid: The index that serves the collection.
        collection: That collection's id.
        embedder: That collection's embedder.
        edition: The edition to index.
        attempts: How often it was begun and not ended, this time included.
    """

    document_uid: UUID
    collection_uid: UUID
    index_uid: UUID
    collection: str
    embedder: EmbedderIdentity
    edition: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Content:
    """What is indexed of a document."""

    text: str
    title: str
    headings: tuple[Heading, ...]


@dataclass(frozen=True, slots=True)
class Erasure:
    """Points of the store that nothing needs any more, in these indexes; without a document, the whole indexes."""

    id: int
    index_uids: tuple[UUID, ...]
    document_uid: UUID | None
    from_edition: int
    to_edition: int


@dataclass(frozen=True, slots=True)
class Expected:
    """How many points a collection must at least have, and in which index."""

    collection_uid: UUID
    index_uid: UUID
    collection: str
    points: int


class Jobs(Protocol):
    """The queue in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def claim(self, lease: UUID, most: int) -> int:
        """Leases pending documents that nobody works on, and says how many."""
        ...

    async def leased(self, lease: UUID) -> list[Job]:
        """The pending documents under a lease."""
        ...

    async def content(self, job: Job) -> Content | None:
        """The content of the job's edition; None if the document is gone or has a newer one."""
        ...

    async def renew(self, lease: UUID) -> None:
        """Keeps what is under the lease for another while."""
        ...

    async def finish(self, job: Job, chunk_count: int, vector_count: int) -> None:
        """Marks the edition indexed and notes that older ones must be erased; or, if it is outdated by now, itself."""
        ...

    async def give_back(self, lease: UUID, delay: float) -> None:
        """Ends the lease; what is pending under it is not taken again for `delay` seconds."""
        ...

    async def postpone(self, job: Job, delay: float) -> None:
        """The same for one document."""
        ...

    async def erase(self, most: int, erase: Callable[[Erasure], Awaitable[None]]) -> int:
        """Carries out erasures that nobody else works on, forgets them, and says how many; what `erase` raises passes."""
        ...

    async def expected(self) -> list[Expected]:
        """The points that the documents marked indexed have."""
        ...

    async def analyze_anew(self, analyzer: int, changed_after: Mapping[int, str]) -> int:
        """Makes those documents pending whose terms an older analyzer made, and a newer would make otherwise; says how many.

        Args:
            analyzer: The version of this process.
            changed_after: By older version, the regular expression of the texts whose terms changed after it.
        """
        ...

    async def index_anew(self, collection_uid: UUID) -> int:
        """Makes all indexed documents of a collection pending, and says how many."""
        ...
