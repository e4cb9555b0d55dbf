"""Makes kept documents searchable: cut into chunks, embedded, written to the vector store.

The rows of the system of record are the queue. A document whose `wanted_edition` is not its `indexed_edition` is pending; a
worker takes a lease on it, renews it while it works, and marks the edition indexed only when all of its chunks are in the
store. Whatever dies in between, the lease runs out and the next worker, in this process or another, begins again; ids of
points are made from document, edition and ordinal, so nothing is there twice. Only then are the points of older editions
erased. Searches compare each hit's edition with the row, so they see the old content until the new one is complete.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from services.chassis.call import current_call, enter_call
from services.chassis.errors import Failure, Reason
from services.retrieval.analysis import ANALYZER, CHANGED_AFTER
from services.retrieval.embedding import embed_as
from services.retrieval.ingestion.batches import Progress, chunks_of, known_places, points_of
from services.retrieval.store import CollectionMissingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from services.retrieval.chunking.chunks import Chunk
    from services.retrieval.embedding import Embedder
    from services.retrieval.ingestion.jobs import Erasure, Job, Jobs
    from services.retrieval.store import Store

_log = logging.getLogger(__name__)

# Chunks embedded and written at a time: about 0.3 s of work for MiniLM on two cores, and 1 MB of vectors in memory.
_BATCH: Final = 64
_CLAIM: Final = 32
_RENEW_SECONDS: Final = 8.0
_CONFIRM_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 2.0
_LONGEST_PAUSE: Final = 5.0
# Adds that index their documents while their callers wait; more of them leave it to the background.
_MOST_WAITING: Final = 8
_AT_ONCE: Final = 2
# Left of the caller's deadline for the response itself, seconds.
_MARGIN: Final = 0.5
_ERASE_BATCH: Final = 100
# How long documents rest that an outage left pending; the pause between tries is the background's.
_REST_SECONDS: Final = 0.2
_LONGEST_DELAY: Final = 600.0
# These heal by themselves and concern all documents; everything else is a matter of one.
_OUTAGES: Final = frozenset(
    {
        Reason.DATABASE_UNAVAILABLE,
        Reason.DEADLINE_EXCEEDED,
        Reason.ENGINE_OVERLOADED,
        Reason.ENGINE_UNAVAILABLE,
        Reason.SERVICE_UNAVAILABLE,
        Reason.SHUTTING_DOWN,
        Reason.STORE_UNAVAILABLE,
    }
)


class Indexer:
    """Indexes documents: at once for the callers that wait, the rest in the background. Use it as a context."""

    def __init__(self, jobs: Jobs, store: Store, embedder: Embedder, *, wait_seconds: float) -> None:
        self._jobs = jobs
        self._store = store
        self._embedder = embedder
        self._wait_seconds = wait_seconds
        self._wanted = asyncio.Event()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._must_check = self._must_analyze = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works in the background until the context ends; leases held then are given back."""
        background = asyncio.create_task(self._background(), name="indexing")
        try:
            yield
        finally:
            for task in (background, *self._tasks):
                task.cancel()
            await asyncio.gather(background, *self._tasks, return_exceptions=True)

    def wake(self) -> None:
        """Says that there is something to do."""
        self._wanted.set()

    def suspect_loss(self) -> None:
        """Has the store compared with the system of record soon, and rebuilt where it must be."""
        self._must_check = True
        self.wake()

    async def index_leased(self, lease: UUID) -> None:
        """Indexes what is under the lease, and returns when that is done or has taken as long as the caller may wait.

        It never fails: what is not indexed then will be, by this or another process.
        """
        limit = current_call().remaining(self._wait_seconds) or 0.0
        if len(self._tasks) >= _MOST_WAITING or limit <= _MARGIN:
            with suppress(Failure):
                await self._jobs.give_back(lease, 0)
            self.wake()
            return
        task = asyncio.create_task(self._index_apart(lease), name=f"indexing {lease}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=limit - _MARGIN)

    async def _index_apart(self, lease: UUID) -> None:
        # The work outlives the call that began it, and so must not end with its deadline.
        enter_call(replace(current_call(), deadline=None))
        try:
            await self._index(lease)
        except Failure as failure:
            self._failed(failure)

    async def _background(self) -> None:
        pause = _POLL_SECONDS
        while True:
            try:
                if self._must_analyze:
                    await self._analyze()
                if self._must_check:
                    await self._check()
                await self._erase()
                busy = await self._index_some()
                pause = 0.0 if busy else _POLL_SECONDS
            except Failure as failure:
                self._failed(failure)
                pause = min(max(2 * pause, 0.5), _LONGEST_PAUSE)
            except Exception:  # noqa: BLE001 - a defect must not end the work on all other documents; it is logged in full
                _log.exception("defect in indexing")
                pause = _LONGEST_PAUSE
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()

    def _failed(self, failure: Failure) -> None:
        _log.warning("indexing waits: %s", failure.message)
        # A store that was away may come back empty.
        self._must_check |= failure.reason == Reason.STORE_UNAVAILABLE

    async def _index_some(self) -> bool:
        lease = uuid4()
        if not await self._jobs.claim(lease, _CLAIM):
            return False
        await self._index(lease)
        return True

    async def _index(self, lease: UUID) -> None:
        """Indexes what is under the lease. What one collection suffers from stops no other; the last outage is raised."""
        outage: Failure | None = None
        async with self._leased(lease), self._room:
            jobs = sorted(await self._jobs.leased(lease), key=lambda job: job.collection_uid)
            for _, group in groupby(jobs, key=lambda job: job.collection_uid):
                try:
                    await self._index_or_put_off(list(group))
                except Failure as failure:
                    outage = failure
        # Older editions are to be erased now.
        self.wake()
        if outage is not None:
            raise outage

    async def _index_or_put_off(self, jobs: Sequence[Job]) -> None:
        """Indexes documents of one collection. One that fails by itself is put off; an outage is raised."""
        try:
            await self._index_all(jobs)
        except CollectionMissingError:
            await self._restore(jobs[0])
        except Exception as error:
            if isinstance(error, Failure) and error.reason in _OUTAGES:
                raise
            if len(jobs) > 1:
                for job in jobs:
                    await self._index_or_put_off([job])
                return
            job = jobs[0]
            if isinstance(error, Failure):
                _log.warning("document %s stays pending: %s", job.document_uid, error.message)
            else:
                _log.exception("document %s cannot be indexed", job.document_uid)
            await self._jobs.postpone(job, min(2.0**job.attempts, _LONGEST_DELAY))

    async def _restore(self, job: Job) -> None:
        """Makes the collection in the store, and all that was in it pending; the job itself stays so for now."""
        if await self._jobs.content(job) is None:
            # The store lacks the collection because it was deleted while its documents were indexed.
            return
        await self._store.ensure(job.index_uid, job.embedder.dimensions)
        again = await self._jobs.index_anew(job.collection_uid)
        if again:
            _log.warning("the vector store has lost collection %s: %d documents are indexed anew", job.collection, again)
        self.wake()

    @asynccontextmanager
    async def _leased(self, lease: UUID) -> AsyncIterator[None]:
        """Keeps the lease alive, and ends it however the work ends."""
        renewing = asyncio.create_task(self._renew(lease), name="renewing a lease")
        try:
            yield
        finally:
            renewing.cancel()
            # Without this the lease would only run out.
            with suppress(Failure):
                await asyncio.shield(self._jobs.give_back(lease, _REST_SECONDS))

    async def _renew(self, lease: UUID) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with suppress(Failure):
                await self._jobs.renew(lease)

    async def _index_all(self, jobs: Sequence[Job]) -> None:
        """Indexes documents of one collection, their chunks in common batches."""
        progress = Progress()
        pending: list[tuple[Job, Chunk]] = []
        for job in jobs:
            content = await self._jobs.content(job)
            if content is None:
                continue
            chunks = await asyncio.to_thread(chunks_of, content)
            progress.begin(job, len(chunks))
            pending += [(job, one) for one in chunks]
            while len(pending) >= _BATCH:
                await self._index_batch(pending[:_BATCH], progress)
                del pending[:_BATCH]
        await self._index_batch(pending, progress)

    async def _index_batch(self, batch: Sequence[tuple[Job, Chunk]], progress: Progress) -> None:
        if batch:
            job = batch[0][0]
            known = await asyncio.to_thread(known_places, batch)
            vectors: Iterable[Sequence[float]] = ()
            if known:
                texts = [batch[place][1].indexed_text for place in known]
                vectors = await embed_as(self._embedder, job.embedder, texts, collection=job.collection)
            points = await asyncio.to_thread(points_of, batch, dict(zip(known, vectors, strict=True)))
            await self._store.write(job.index_uid, points)
            progress.written(points)
        for job, chunk_count, vector_count in progress.complete():
            await self._jobs.finish(job, chunk_count, vector_count)

    async def _erase(self) -> None:
        """Erases what is noted to be erased."""

        async def carry_out(erasure: Erasure) -> None:
            for index_uid in erasure.index_uids:
                with suppress(CollectionMissingError):
                    if erasure.document_uid is None:
                        await self._store.drop(index_uid)
                    else:
                        await self._store.erase(index_uid, erasure.document_uid, erasure.from_edition, erasure.to_edition)

        while await self._jobs.erase(_ERASE_BATCH, carry_out) == _ERASE_BATCH:
            pass

    async def _analyze(self) -> None:
        """Has documents indexed anew that an older version of the analyzer indexed, where that makes a difference."""
        again = await self._jobs.analyze_anew(ANALYZER, CHANGED_AFTER)
        if again:
            _log.warning("version %d of the analyzer: %d documents are indexed anew", ANALYZER, again)
        self._must_analyze = False

    async def _check(self) -> None:
        """Compares the store with the system of record, and has rebuilt what it lost."""
        short = await self._short()
        if short:
            # Documents replaced or deleted between the two counts look like a loss, once.
            await asyncio.sleep(_CONFIRM_SECONDS)
            for uid, collection in (await self._short()).items():
                if uid in short:
                    again = await self._jobs.index_anew(uid)
                    _log.warning("the vector store has lost chunks of %s: %d documents are indexed anew", collection, again)
        self._must_check = False

    async def _short(self) -> dict[UUID, str]:
        """The collections of which the store has fewer chunks than it must."""
        short = {}
        for expected in await self._jobs.expected():
            try:
                count = await self._store.count(expected.index_uid)
            except CollectionMissingError:
                count = 0
            if count < expected.points:
                short[expected.collection_uid] = expected.collection
        return short
