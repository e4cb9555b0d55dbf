"""Makes kept documents searchable.

The rows of the system of record are the queue. A document whose `wanted_edition` is not its `indexed_edition` is pending; a
worker takes a lease on it, renews it while it works, and marks the edition indexed only when all of its chunks are in the
store. Whatever dies in between, the lease runs out and the next worker, in this process or another, goes on from the last
checkpoint; ids of points are made from document, edition and ordinal, so nothing is there twice. Only then are the points of
older editions erased. Searches compare each hit's edition with the row, so they see the old content until the new one is
complete.
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
from services.retrieval.ingestion.loops import Loop
from services.retrieval.ingestion.pipeline import StageError
from services.retrieval.store import CollectionMissingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from services.retrieval.ingestion.jobs import Checkpoints, Job, Jobs
    from services.retrieval.ingestion.loops import Work
    from services.retrieval.ingestion.pipeline import Pipeline
    from services.retrieval.ingestion.upkeep import Upkeep
    from services.retrieval.store import Store

_log = logging.getLogger(__name__)

# Documents taken at a time, and how many times: while one lot ends, the embedder has work with the other.
_CLAIM: Final = 256
_WORKERS: Final = 2
_RENEW_SECONDS: Final = 8.0
# Adds that index their documents while their callers wait; more of them leave it to the background.
_MOST_WAITING: Final = 8
_AT_ONCE: Final = 2
# Left of the caller's deadline for the response itself, seconds.
_MARGIN: Final = 0.5
# How long documents rest that an outage left pending; the pause between tries is the background's.
_REST_SECONDS: Final = 0.2
_LONGEST_DELAY: Final = 600.0
# How often a document of an ingestion may meet a defect before it counts as failed.
_MOST_ATTEMPTS: Final = 3
# These heal by themselves and concern all documents; everything else is a matter of one.
_OUTAGES: Final = frozenset(
    {
        Reason.DATABASE_UNAVAILABLE,
        Reason.DEADLINE_EXCEEDED,
        Reason.ENGINE_OVERLOADED,
        Reason.ENGINE_UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.SERVICE_UNAVAILABLE,
        Reason.SHUTTING_DOWN,
        Reason.STORE_UNAVAILABLE,
    }
)


class Indexer:
    """Indexes documents: at once for the callers that wait, the rest in the background. Use it as a context."""

    def __init__(
        self, jobs: Jobs, checkpoints: Checkpoints, store: Store, pipeline: Pipeline, upkeep: Upkeep, *, wait_seconds: float
    ) -> None:
        self._jobs = jobs
        self._checkpoints = checkpoints
        self._store = store
        self._pipeline = pipeline
        self._upkeep = upkeep
        self._wait_seconds = wait_seconds
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        # Leases that could not be given back, for the database was away.
        self._owed: set[UUID] = set()
        self._loops = [Loop(self._index_some, self._failed) for _ in range(_WORKERS)]
        self._loops.append(Loop(upkeep.once, self._failed))

    @asynccontextmanager
    async def running(self, *others: Work) -> AsyncIterator[None]:
        """Works in the background until the context ends; leases held then are given back. `others` is repeated beside it."""
        self._loops += [Loop(work, self._failed) for work in others]
        loops = [asyncio.create_task(loop.run(), name="indexing") for loop in self._loops]
        try:
            yield
        finally:
            tasks = (*loops, *self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Says that there is something to do."""
        for loop in self._loops:
            loop.wake()

    def suspect_loss(self) -> None:
        """Has the store compared with the system of record soon, and rebuilt where it must be."""
        self._upkeep.suspect_loss()
        self.wake()

    async def index_leased(self, lease: UUID) -> None:
        """Indexes what is under the lease, and returns when that is done or has taken as long as the caller may wait.

        It never fails: what is not indexed then will be, by this or another process.
        """
        limit = current_call().remaining(self._wait_seconds) or 0.0
        if len(self._tasks) >= _MOST_WAITING or limit <= _MARGIN:
            await self._give_back(lease, 0)
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
            async with self._room:
                await self._index(lease)
        except Failure as failure:
            self._failed(failure)

    def _failed(self, failure: Failure) -> None:
        _log.warning("indexing waits: %s", failure.message)
        # A store that was away may come back empty.
        if failure.reason == Reason.STORE_UNAVAILABLE:
            self._upkeep.suspect_loss()

    async def _index_some(self) -> bool:
        for owed in tuple(self._owed):
            await self._jobs.give_back(owed, 0)
            self._owed.discard(owed)
        lease = uuid4()
        if not await self._jobs.claim(lease, _CLAIM):
            return False
        await self._index(lease)
        return True

    async def _index(self, lease: UUID) -> None:
        """Indexes what is under the lease. What one collection suffers from stops no other; the last outage is raised."""
        outage: Failure | None = None
        async with self._leased(lease):
            # Those of one collection stay in the order in which they were added.
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
            await self._pipeline.index(jobs)
        except CollectionMissingError:
            await self._restore(jobs[0])
        except StageError as error:
            failure = error.failure
            if failure is not None and failure.reason in _OUTAGES:
                raise failure from error
            if len(jobs) > 1:
                await self._index_each(jobs)
            else:
                await self._put_off(jobs[0], error)

    async def _index_each(self, jobs: Sequence[Job]) -> None:
        """Goes on in halves, so that one that fails is found in a few steps and the others keep company."""
        middle = len(jobs) // 2
        await self._index_or_put_off(jobs[:middle])
        await self._index_or_put_off(jobs[middle:])

    async def _put_off(self, job: Job, error: StageError) -> None:
        failure = error.failure
        if failure is not None:
            _log.warning("document %s stays pending: %s", job.document_uid, failure.message)
        else:
            _log.error("document %s cannot be indexed", job.document_uid, exc_info=error.cause)
        if job.is_ingested and (failure is not None or job.attempts >= _MOST_ATTEMPTS):
            reason = Reason.INTERNAL if failure is None else failure.reason
            message = "a defect of the service; its log tells more" if failure is None else failure.message
            await self._checkpoints.fail(job, error.stage, reason, message)
            await self._checkpoints.close_ingestions()
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
            await asyncio.shield(self._give_back(lease, _REST_SECONDS))

    async def _give_back(self, lease: UUID, delay: float) -> None:
        """Ends a lease, now or as soon as the database is back; without this it would only run out."""
        try:
            await self._jobs.give_back(lease, delay)
        except Failure:
            self._owed.add(lease)

    async def _renew(self, lease: UUID) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with suppress(Failure):
                await self._jobs.renew(lease)
