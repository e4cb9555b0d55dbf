"""Keeps the index that does not serve equal to the documents, and moves reindexings on.

One worker at a time holds the lease of a reindexing. It writes whatever the index lacks, in batches, and notes each document
that is done, so that after a kill the next worker goes on with those that are not. Ids of points are made from document,
edition and ordinal: what is written again is there once.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from services.chassis.call import Call, enter_call
from services.chassis.errors import Failure, Reason
from services.retrieval.ingestion.batches import chunks_of, pieces_of, points_of
from services.retrieval.reindexing.reindexing import State, now
from services.retrieval.store import CollectionMissingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.retrieval.catalog import Catalog
    from services.retrieval.ingestion.embeddings import Embeddings
    from services.retrieval.ingestion.jobs import Job, Jobs
    from services.retrieval.reindexing.gate import QualityGate
    from services.retrieval.reindexing.reindexing import Reindexing, ReindexingRecords
    from services.retrieval.store import Store

_log = logging.getLogger(__name__)

_BATCH: Final = 64
_DOCUMENTS: Final = 16
_POLL_SECONDS: Final = 1.0
_REST_SECONDS: Final = 0.3
_OUTAGE_SECONDS: Final = 2.0
_RENEW_SECONDS: Final = 2.0
_SWITCH_TRIES: Final = 50


class _EndedError(Exception):
    """The reindexing was cancelled, or another worker has it."""


class Mirror:
    """Works on reindexings in the background. Use it as a context."""

    def __init__(
        self,
        records: ReindexingRecords,
        jobs: Jobs,
        catalog: Catalog,
        store: Store,
        *,
        embeddings: Embeddings,
        gate: QualityGate,
    ) -> None:
        self._records = records
        self._jobs = jobs
        self._catalog = catalog
        self._store = store
        self._embeddings = embeddings
        self._gate = gate
        self._wanted = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works until the context ends; what is under way then is given back."""
        task = asyncio.create_task(self._background(), name="reindexing")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def wake(self) -> None:
        """Says that there is something to do."""
        self._wanted.set()

    async def _background(self) -> None:
        while True:
            pause = _POLL_SECONDS
            try:
                lease = uuid4()
                found = await self._records.claim(lease)
                if found is not None:
                    await self._work(found, lease)
                    pause = 0.0
            except Failure as failure:
                _log.warning("reindexing waits: %s", failure.message)
            except Exception:  # noqa: BLE001 - a defect must not end the work on other collections; it is logged in full
                _log.exception("defect in reindexing")
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()

    async def _work(self, reindexing: Reindexing, lease: UUID) -> None:
        """One round: what lags is written, and if nothing does any more the reindexing moves on."""
        enter_call(Call(method="", request_id=str(reindexing.uid), deadline=None, tenant=reindexing.tenant))
        rest, note = _REST_SECONDS, ""
        renewing = asyncio.create_task(self._renew(reindexing.uid, lease), name="renewing the lease of a reindexing")
        try:
            await self._write_all(reindexing, lease)
            await self._move_on(reindexing)
        except _EndedError:
            return
        except Failure as failure:
            rest, note = _OUTAGE_SECONDS, failure.message
            if failure.reason in {Reason.EMBEDDER_UNAVAILABLE, Reason.MODEL_NOT_FOUND} and reindexing.state == State.BUILDING:
                await self._records.end(reindexing.uid, State.BUILDING, State.FAILED, failure.message)
                return
            raise
        finally:
            renewing.cancel()
            with suppress(Failure):
                await asyncio.shield(self._records.give_back(reindexing.uid, lease, rest, note))

    async def _renew(self, uid: UUID, lease: UUID) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with suppress(Failure):
                await self._records.renew(uid, lease)

    async def _write_all(self, reindexing: Reindexing, lease: UUID) -> None:
        await self._store.ensure(reindexing.index_uid, reindexing.embedder.dimensions)
        after: UUID | None = None
        while True:
            if not await self._records.renew(reindexing.uid, lease):
                raise _EndedError
            jobs = await self._records.lagging(reindexing, after, _DOCUMENTS)
            if not jobs:
                if after is None:
                    return
                # Those that changed behind the cursor.
                after = None
                continue
            for job in jobs:
                await self._write(job)
            after = jobs[-1].document_uid

    async def _write(self, job: Job) -> None:
        content = await self._jobs.content(job)
        if content is None:
            # Deleted or replaced since it was listed: it is listed again if it must.
            return
        chunks = await asyncio.to_thread(chunks_of, content, job)
        vectors = 0
        for start in range(0, len(chunks), _BATCH):
            batch = await asyncio.to_thread(pieces_of, job, chunks[start : start + _BATCH])
            known = [place for place, piece in enumerate(batch) if piece.is_known]
            texts = [batch[place].chunk.indexed_text for place in known]
            vectors_of = await self._embeddings.vectors_of(job.embedder, texts, collection=job.collection)
            points = await asyncio.to_thread(points_of, batch, dict(zip(known, vectors_of.vectors, strict=True)))
            try:
                await self._store.write(job.index_uid, points)
            except CollectionMissingError as error:
                # The store has lost it, or it was cancelled meanwhile, which the next round finds out.
                await self._records.begin_anew(job.index_uid)
                raise _EndedError from error
            vectors += len(known)
        if not await self._records.mark(job, len(chunks), vectors):
            raise _EndedError

    async def _move_on(self, reindexing: Reindexing) -> None:
        match reindexing.state:
            case State.BUILDING:
                if await self._is_whole(reindexing):
                    await self._judge(reindexing)
            case State.SERVING if reindexing.switch_time and now() >= reindexing.switch_time + reindexing.keep:
                await self._records.end(reindexing.uid, State.SERVING, State.SUCCEEDED, "")
            case _:
                await self._is_whole(reindexing)

    async def _is_whole(self, reindexing: Reindexing) -> bool:
        """Whether the store has all that the documents say; begins anew where it has lost some."""
        wanted = await self._records.points(reindexing.index_uid)
        try:
            if await self._store.count(reindexing.index_uid) >= wanted:
                return True
        except CollectionMissingError:
            pass
        if await self._records.points(reindexing.index_uid) >= wanted:
            _log.warning("the vector store has lost chunks of a new index of %s: it is begun anew", reindexing.collection)
            await self._records.begin_anew(reindexing.index_uid)
        return False

    async def _judge(self, reindexing: Reindexing) -> None:
        outcome = None
        if not reindexing.gate.skip:
            serving = await self._catalog.by_uid(reindexing.collection_uid)
            if serving is None:
                raise _EndedError
            outcome = await self._gate.compare(serving, reindexing)
        passed = outcome is None or outcome.passed
        if not passed and not reindexing.manual:
            await self._records.judge(reindexing.uid, outcome, State.FAILED, "the new index finds less than the old one")
            return
        note = "" if passed else "the new index finds less than the old one; switch to it all the same, or cancel"
        if await self._records.judge(reindexing.uid, outcome, State.READY, note) and not reindexing.manual:
            await self._switch(reindexing)

    async def _switch(self, reindexing: Reindexing) -> None:
        """Switches at a moment when no document is missing; under steady writing some may be, which then take a moment."""
        for attempt in range(_SWITCH_TRIES):
            last = attempt == _SWITCH_TRIES - 1
            if not await self._records.swap(reindexing.uid, State.READY, State.SERVING, lagging=last) or last:
                return
            for job in await self._records.lagging(reindexing, None, _DOCUMENTS):
                await self._write(job)
