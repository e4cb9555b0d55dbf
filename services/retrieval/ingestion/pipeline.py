"""The way of documents into the vector store: cut into chunks, embedded, written; a checkpoint after each stage.

Several batches are on their way at a time, so that the embedder has work while chunks are written. Batches may hold chunks of
many documents, and a document may need many batches.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure
from services.retrieval.chunking.tokens import ESTIMATE
from services.retrieval.ingestion.batches import Tracker, chunks_of, pieces_of, points_of
from services.retrieval.ingestion.jobs import Stage
from services.retrieval.store import CollectionMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from services.retrieval.chunking.chunks import Chunk
    from services.retrieval.chunking.rulers import Rulers
    from services.retrieval.chunking.tokens import Measure
    from services.retrieval.ingestion.batches import Piece
    from services.retrieval.ingestion.embeddings import Embeddings
    from services.retrieval.ingestion.jobs import Checkpoints, Content, Finished, Job, Jobs
    from services.retrieval.store import Store

# Chunks embedded and written at a time: about 0.3 s of work for MiniLM on two cores, and 1 MB of vectors in memory.
BATCH: Final = 64
# Two keep the embedder busy, the third is being written.
_IN_FLIGHT: Final = 3
# Texts that are read from the database at a time.
_GROUP_BYTES: Final = 4 * 1024 * 1024
_GROUP: Final = 64


class StageError(Exception):
    """Work on documents that failed, and in which stage. The cause is a Failure, or a defect."""

    def __init__(self, stage: Stage, cause: Exception) -> None:
        super().__init__(f"{stage}: {cause}")
        self.stage = stage
        self.cause = cause

    @property
    def failure(self) -> Failure | None:
        """The cause, if it is no defect."""
        return self.cause if isinstance(self.cause, Failure) else None


@contextmanager
def _at(stage: Stage) -> Iterator[None]:
    try:
        yield
    except (CollectionMissingError, StageError):
        raise
    except Exception as error:
        raise StageError(stage, error) from error


class Pipeline:
    """Brings documents of one collection into the vector store, and notes how far they are."""

    def __init__(
        self, jobs: Jobs, checkpoints: Checkpoints, store: Store, embeddings: Embeddings, rulers: Rulers | None = None
    ) -> None:
        self._jobs = jobs
        self._checkpoints = checkpoints
        self._store = store
        self._embeddings = embeddings
        self._rulers = rulers

    async def index(self, jobs: Sequence[Job]) -> None:
        """Indexes the documents, from where they are.

        Raises:
            StageError: something failed; batches that were on their way are given up.
            CollectionMissingError: the store does not hold the collection.
        """
        run = _Run(self._checkpoints, self._store, self._embeddings)
        try:
            for group in _groups(jobs):
                contents = await self._contents(group)
                pieces = await self._cut(run, [job for job in group if job.document_uid in contents], contents)
                await run.add(pieces)
            await run.end()
        finally:
            await run.stop()

    async def _contents(self, jobs: Sequence[Job]) -> dict[UUID, Content]:
        with _at(Stage.CHUNK):
            return await self._jobs.contents(jobs)

    async def _cut(self, run: _Run, jobs: Sequence[Job], contents: dict[UUID, Content]) -> list[Piece]:
        """What is still to be written of the documents."""
        left: list[Piece] = []
        fresh: dict[Job, Sequence[Chunk]] = {}
        with _at(Stage.CHUNK):
            measures = await self._measures([(job, contents[job.document_uid]) for job in jobs])
            for job in jobs:
                content = contents[job.document_uid]
                chunks: Sequence[Chunk] | None = content.chunks
                if chunks is None:
                    measure = measures.get(job.document_uid, ESTIMATE)
                    chunks = fresh[job] = await asyncio.to_thread(chunks_of, content, job, measure)
                pieces = await asyncio.to_thread(pieces_of, job, chunks)
                first = min(job.written, len(pieces)) if job not in fresh else 0
                run.tracker.begin(job, pieces, first)
                left += pieces[first:]
            # Of a document of one chunk there is nothing to go on from.
            if long := {job: chunks for job, chunks in fresh.items() if len(chunks) > 1}:
                await self._checkpoints.chunked(long)
            await self._checkpoints.advance(run.tracker.steps(jobs))
        # A process may have died after it had written all, and before it could say so.
        await run.finish([run.tracker.end(job) for job in jobs if run.tracker.is_complete(job)])
        return left

    async def _measures(self, documents: Sequence[tuple[Job, Content]]) -> dict[UUID, Measure]:
        """What tells the tokens of those that are to be cut; all are of one collection, and so of one embedder."""
        fresh = [(job, content.text) for job, content in documents if content.chunks is None]
        if self._rulers is None or not fresh:
            return {}
        measures = await self._rulers.of(fresh[0][0].embedder, [text for _, text in fresh])
        return {job.document_uid: measure for (job, _), measure in zip(fresh, measures, strict=True)}


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Documents whose texts together are of a moderate size, unless a single one is larger."""
    group: list[Job] = []
    size = 0
    for job in jobs:
        if group and (size + job.size > _GROUP_BYTES or len(group) == _GROUP):
            yield group
            group, size = [], 0
        group.append(job)
        size += job.size
    if group:
        yield group


class _Run:
    """One run of the pipeline: the batches that are on their way."""

    def __init__(self, checkpoints: Checkpoints, store: Store, embeddings: Embeddings) -> None:
        self.tracker = Tracker()
        self._checkpoints = checkpoints
        self._store = store
        self._embeddings = embeddings
        self._waiting: list[Piece] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, pieces: Sequence[Piece]) -> None:
        """Sends full batches on their way, as many as may be at a time."""
        self._waiting += pieces
        while len(self._waiting) >= BATCH:
            await self._send(self._waiting[:BATCH])
            del self._waiting[:BATCH]

    async def end(self) -> None:
        """Sends the rest, and waits until all has arrived."""
        if self._waiting:
            await self._send(self._waiting)
            self._waiting = []
        while self._tasks:
            await self._arrive()

    async def stop(self) -> None:
        """Gives up what is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finish(self, finished: Sequence[Finished]) -> None:
        """Marks documents searchable."""
        if finished:
            with _at(Stage.INDEX):
                await self._checkpoints.finish(finished)
                await self._checkpoints.close_ingestions()

    async def _send(self, batch: Sequence[Piece]) -> None:
        while len(self._tasks) >= _IN_FLIGHT:
            await self._arrive()
        self._tasks.add(asyncio.create_task(self._carry(batch), name="a batch of chunks"))

    async def _arrive(self) -> None:
        """Waits for a batch. Raises what it failed by."""
        done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _carry(self, batch: Sequence[Piece]) -> None:
        job = batch[0].job
        known = [place for place, piece in enumerate(batch) if piece.is_known]
        vectors: Sequence[Sequence[float]] = ()
        with _at(Stage.EMBED):
            reused = 0
            if known:
                texts = [batch[place].chunk.indexed_text for place in known]
                found = await self._embeddings.vectors_of(job.embedder, texts, collection=job.collection)
                vectors, reused = found.vectors, found.reused
            await self._checkpoints.advance(self.tracker.embedded(batch), reused)
        with _at(Stage.INDEX):
            points = await asyncio.to_thread(points_of, batch, dict(zip(known, vectors, strict=True)))
            await self._store.write(job.index_uid, points)
            steps, finished = self.tracker.written(batch)
            complete = {one.job for one in finished}
            await self._checkpoints.advance([step for step in steps if step.job not in complete])
        await self.finish(finished)
