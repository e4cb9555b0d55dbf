"""What keeps the vector store, the system of record and the ingestions in step, beside the indexing itself."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from services.retrieval.analysis import ANALYZER, CHANGED_AFTER
from services.retrieval.store import CollectionMissingError

if TYPE_CHECKING:
    from uuid import UUID

    from services.retrieval.ingestion.embeddings import VectorRecords
    from services.retrieval.ingestion.jobs import Checkpoints, Erasure, Jobs
    from services.retrieval.store import Store

_log = logging.getLogger(__name__)

_CONFIRM_SECONDS: Final = 1.0
_ERASE_BATCH: Final = 100
_EXPIRE_BATCH: Final = 1000
_FORGET_SECONDS: Final = 3600.0
_FORGET_BATCH: Final = 5000


class Upkeep:
    """Erases what is deleted, deletes what is expired, ends ingestions, and notices what the store has lost.

    Args:
        jobs: The queue.
        checkpoints: What is done.
        vectors: Vectors by content.
        store: The vector store.
        keep_days: How many days a vector is kept that is of no use; 0 keeps none longer than today.
    """

    def __init__(self, jobs: Jobs, checkpoints: Checkpoints, vectors: VectorRecords, store: Store, *, keep_days: int) -> None:
        self._jobs = jobs
        self._checkpoints = checkpoints
        self._vectors = vectors
        self._store = store
        self._keep_days = keep_days
        self._must_check = self._must_analyze = True
        self._forget_next = 0.0

    def suspect_loss(self) -> None:
        """Has the store compared with the system of record when `once` is called next."""
        self._must_check = True

    async def once(self) -> bool:
        """Does what is to be done, and says whether more of it is certainly left."""
        if self._must_analyze:
            await self._analyze()
        await self._checkpoints.supersede()
        await self._checkpoints.close_ingestions()
        if self._must_check:
            await self._check()
        more = await self._jobs.expire(_EXPIRE_BATCH) == _EXPIRE_BATCH
        await self._erase()
        if time.monotonic() >= self._forget_next:
            more |= await self._forget()
        return more

    async def _forget(self) -> bool:
        if await self._vectors.forget(self._keep_days, _FORGET_BATCH) == _FORGET_BATCH:
            return True
        self._forget_next = time.monotonic() + _FORGET_SECONDS
        return False

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
