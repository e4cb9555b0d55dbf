"""Batches of chunks on their way to the vector store, and how far each document is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.retrieval.analysis import document_vector
from services.retrieval.chunking.chunks import Chunk, chunk
from services.retrieval.chunking.tokens import ESTIMATE
from services.retrieval.ingestion.jobs import Finished, Step
from services.retrieval.languages import is_known
from services.retrieval.store import Point, Whereabouts, point_uid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from services.retrieval.chunking.tokens import Measure
    from services.retrieval.ingestion.jobs import Content, Job


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk on its way.

    Attributes:
        job: Its document.
        chunk: The chunk.
        is_known: Whether its language is one of the embedder's; a vector of any other would be found at random.
    """

    job: Job
    chunk: Chunk
    is_known: bool


@dataclass(slots=True)
class _Track:
    """Chunks of one document: from `first` on they are to do in this run, and those before the next gap are done."""

    job: Job
    chunks: int
    vectors: int
    embedded: int
    written: int
    ahead: set[int]


class Tracker:
    """Tells how far the documents of one run are. Batches may end in any order."""

    def __init__(self) -> None:
        self._tracks: dict[UUID, _Track] = {}

    def begin(self, job: Job, pieces: Sequence[Piece], first: int) -> None:
        """Says which pieces a document has, and how many of them were written before this run."""
        vectors = sum(piece.is_known for piece in pieces)
        self._tracks[job.document_uid] = _Track(job, len(pieces), vectors, first, first, set())

    def embedded(self, batch: Sequence[Piece]) -> list[Step]:
        """Says that the vectors of these are there; returns how far their documents are by it."""
        for piece in batch:
            self._tracks[piece.job.document_uid].embedded += 1
        return self.steps(_jobs_of(batch))

    def written(self, batch: Sequence[Piece]) -> tuple[list[Step], list[Finished]]:
        """Says that these are in the store; returns how far their documents are by it, and those that are complete."""
        for piece in batch:
            track = self._tracks[piece.job.document_uid]
            track.ahead.add(piece.chunk.ordinal)
            while track.written in track.ahead:
                track.ahead.remove(track.written)
                track.written += 1
        jobs = _jobs_of(batch)
        return self.steps(jobs), [self.end(job) for job in jobs if self.is_complete(job)]

    def steps(self, jobs: Iterable[Job]) -> list[Step]:
        """How far documents are."""
        tracks = (self._tracks[job.document_uid] for job in jobs)
        return [Step(track.job, track.chunks, track.embedded, track.written) for track in tracks]

    def is_complete(self, job: Job) -> bool:
        """Whether all of the document is in the store."""
        track = self._tracks[job.document_uid]
        return track.written == track.chunks

    def end(self, job: Job) -> Finished:
        """Forgets a document that is complete."""
        track = self._tracks.pop(job.document_uid)
        return Finished(track.job, track.chunks, track.vectors)


def _jobs_of(batch: Sequence[Piece]) -> list[Job]:
    return list({piece.job.document_uid: piece.job for piece in batch}.values())


def chunks_of(content: Content, job: Job, measure: Measure = ESTIMATE) -> list[Chunk]:
    """All chunks of a document."""
    return chunk(
        content.text,
        title=content.title,
        headings=content.headings,
        pages=content.pages,
        media_type=content.media_type,
        settings=job.chunking,
        measure=measure,
    )


def pieces_of(job: Job, chunks: Sequence[Chunk]) -> list[Piece]:
    """The chunks of a document, each with whether the embedder knows its language."""
    return [Piece(job, one, is_known(one.text, job.embedder.languages)) for one in chunks]


def points_of(batch: Sequence[Piece], vectors: Mapping[int, Sequence[float]]) -> list[Point]:
    """The points of a batch, with the vectors by place."""
    return [
        Point(
            uid=point_uid(piece.job.document_uid, piece.job.edition, piece.chunk.ordinal),
            document_uid=piece.job.document_uid,
            edition=piece.job.edition,
            start=piece.chunk.start,
            end=piece.chunk.end,
            text=piece.chunk.text,
            dense=vectors.get(place),
            sparse=document_vector(piece.chunk.indexed_text),
            where=Whereabouts(piece.chunk.ordinal, piece.chunk.page, piece.chunk.path, piece.chunk.section),
        )
        for place, piece in enumerate(batch)
    ]
