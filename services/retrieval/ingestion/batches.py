"""Batches of chunks on their way to the vector store, and what is complete once they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.retrieval.analysis import document_vector
from services.retrieval.chunking.chunks import Chunk, chunk
from services.retrieval.languages import is_known
from services.retrieval.store import Point, point_uid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from services.retrieval.ingestion.jobs import Content, Job


class Progress:
    """Tells when all chunks of a document are written."""

    def __init__(self) -> None:
        self._jobs: dict[UUID, Job] = {}
        self._left: dict[UUID, int] = {}
        self._chunks: dict[UUID, int] = {}
        self._vectors: dict[UUID, int] = {}

    def begin(self, job: Job, chunks: int) -> None:
        """Says how many chunks a document has."""
        self._jobs[job.document_uid] = job
        self._left[job.document_uid] = self._chunks[job.document_uid] = chunks
        self._vectors[job.document_uid] = 0

    def written(self, points: Sequence[Point]) -> None:
        """Says that these points are in the store."""
        for point in points:
            self._left[point.document_uid] -= 1
            self._vectors[point.document_uid] += point.dense is not None

    def complete(self) -> list[tuple[Job, int, int]]:
        """Documents that have become complete, with their chunks and vectors."""
        done = [uid for uid, left in self._left.items() if left == 0]
        for uid in done:
            del self._left[uid]
        return [(self._jobs[uid], self._chunks[uid], self._vectors[uid]) for uid in done]


def chunks_of(content: Content) -> list[Chunk]:
    """All chunks of a document."""
    return list(chunk(content.text, title=content.title, headings=content.headings))


def known_places(batch: Sequence[tuple[Job, Chunk]]) -> list[int]:
    """Places in the batch whose language the embedder knows; a vector of any other would be found at random."""
    return [place for place, (job, one) in enumerate(batch) if is_known(one.text, job.embedder.languages)]


def points_of(batch: Sequence[tuple[Job, Chunk]], vectors: Mapping[int, Sequence[float]]) -> list[Point]:
    """The points of a batch, with the vectors by place."""
    return [
        Point(
            uid=point_uid(job.document_uid, job.edition, one.ordinal),
            document_uid=job.document_uid,
            edition=job.edition,
            start=one.start,
            end=one.end,
            text=one.text,
            dense=vectors.get(place),
            sparse=document_vector(one.indexed_text),
        )
        for place, (job, one) in enumerate(batch)
    ]
