"""The queue of what is to be indexed and erased, as the domain sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from uuid import UUID

    from services.retrieval.chunking.chunks import Chunk
    from services.retrieval.chunking.settings import ChunkingSettings
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
        chunking: How the collection's documents are cut.
        attempts: How often it was begun and not ended, this time included.
        written: How many of its chunks are in the store already, from the first one on.
        size: Of its text, in bytes.
        is_ingested: Whether an ingestion brought it, which is told if it fails.
    """

    document_uid: UUID
    collection_uid: UUID
    index_uid: UUID
    collection: str
    embedder: EmbedderIdentity
    edition: int
    chunking: ChunkingSettings
    attempts: int
    written: int = 0
    size: int = 0
    is_ingested: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """What is indexed of a document; the chunks, where it was cut already and not all of them are written."""

    document: str
    text: str
    title: str
    media_type: str
    headings: tuple[Heading, ...]
    pages: tuple[int, ...]
    chunks: tuple[Chunk, ...] | None = None


class Stage(StrEnum):
    """What is done with each document, in this order: see IngestionStage in the protos."""

    READ = "READ"
    CHUNK = "CHUNK"
    EMBED = "EMBED"
    INDEX = "INDEX"


@dataclass(frozen=True, slots=True)
class Step:
    """How far a document is: how many chunks it has, have their vectors, and are written from the first one on."""

    job: Job
    chunks: int
    embedded: int
    written: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A document of which all chunks are in the store, and how many of them have a vector."""

    job: Job
    chunks: int
    vectors: int


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

    async def contents(self, jobs: Sequence[Job]) -> dict[UUID, Content]:
        """The same for several documents, by document."""
        ...

    async def expire(self, most: int) -> int:
        """Deletes documents whose time has come, and says how many."""
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


class Checkpoints(Protocol):
    """What is done of documents, in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def chunked(self, cut: Mapping[Job, Sequence[Chunk]]) -> None:
        """Keeps the chunks that documents were cut into, until they are finished."""
        ...

    async def advance(self, steps: Sequence[Step], reused: int = 0) -> None:
        """Notes how far documents are; never less than noted before. `reused` vectors of theirs were known."""
        ...

    async def finish(self, finished: Sequence[Finished]) -> None:
        """Marks editions indexed and notes that older ones must be erased; or, if they are outdated by now, themselves."""
        ...

    async def fail(self, job: Job, stage: Stage, reason: str, message: str) -> None:
        """Ends the work on a document for its ingestions: it is held until one of them is retried."""
        ...

    async def supersede(self) -> None:
        """Ends the waiting of ingestions for documents that were deleted or replaced before they were searchable."""
        ...

    async def close_ingestions(self) -> int:
        """Ends the ingestions of which nothing is left to do, and says how many."""
        ...
