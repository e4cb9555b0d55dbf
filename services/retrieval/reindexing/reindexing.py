"""Gives a collection a new index, under another embedder or other settings, while the old one serves.

The new index is built beside the old one and kept equal to it (see `mirror`): documents added, replaced or deleted meanwhile
reach both. Once it holds everything, queries whose answers are known are asked of both (see `gate`), and if the new one is not
worse it is put in the old one's place, in one transaction that changes what a search reads: which index, and by which embedder.
So no query ever meets vectors of another model. The old index is kept equal for a while, and one call puts it back.

All that is known of it stands in the system of record: whatever dies, another worker goes on from the documents that are done.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason
from services.retrieval.access import Right, caller
from services.retrieval.embedding import EmbedderIdentity, identify

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from uuid import UUID

    from services.retrieval.catalog import Catalog
    from services.retrieval.chunking.settings import ChunkingSettings
    from services.retrieval.embedding import Embedder
    from services.retrieval.evaluation.measures import Interval
    from services.retrieval.ingestion.jobs import Job

KEEP: Final = timedelta(days=1)
LEAST_KEEP: Final = timedelta(minutes=1)
MOST_LOSS: Final = 0.02
_WATCH_SECONDS: Final = 0.25
# How long a call waits for the last documents to reach the index that is to serve, and how often it looks.
_SWITCH_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1


class State(StrEnum):
    """Where a reindexing stands."""

    BUILDING = "BUILDING"
    READY = "READY"
    SERVING = "SERVING"
    SUCCEEDED = "SUCCEEDED"
    ROLLED_BACK = "ROLLED_BACK"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


ENDED: Final = frozenset({State.SUCCEEDED, State.ROLLED_BACK, State.CANCELLED, State.FAILED})


@dataclass(frozen=True, slots=True)
class Gate:
    """What the new index must show before it serves.

    Attributes:
        skip: Whether it need not show anything.
        most_loss: By how much its nDCG@10 may be below the old one's, 0 to 1.
        most_queries: Most queries to ask of each.
    """

    skip: bool = False
    most_loss: float = MOST_LOSS
    most_queries: int = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the gate measured: nDCG@10 of both, and of the new less the old, query by query."""

    passed: bool
    judged: bool
    queries: int
    old: Interval
    new: Interval
    difference: Interval


@dataclass(frozen=True, slots=True)
class Reindexing:
    """A reindexing as kept.

    Attributes:
        uid: Its id.
        collection_uid: Which collection it is of.
        collection: That collection's id.
        tenant: Whose that is.
        state: Where it stands.
        index_uid: The index that does not serve: the new one until it serves, the old one from then on.
        embedder: The embedder of that index.
        chunking: How documents are cut for it.
        gate: What the new index must show.
        outcome: What it showed; None before that.
        note: Why it waits or failed, in plain words; empty where there is nothing to tell.
        manual: Whether a call decides when the new index serves.
        keep: How long the old index is kept once the new one serves.
        total: Documents that must be in the index.
        done: Those that have been there; never less than it was before, while the state is BUILDING.
        create_time: When it was asked for.
        switch_time: When the new index began to serve.
        end_time: When it ended.
    """

    uid: UUID
    collection_uid: UUID
    collection: str
    tenant: str
    state: State
    index_uid: UUID
    embedder: EmbedderIdentity
    chunking: ChunkingSettings
    gate: Gate
    outcome: Outcome | None
    note: str
    manual: bool
    keep: timedelta
    total: int
    done: int
    create_time: datetime
    switch_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; None for the embedder or the chunking means that of the collection."""

    embedder: str | None = None
    chunking: ChunkingSettings | None = None
    gate: Gate = Gate()
    manual: bool = False
    keep: timedelta = KEEP


class ReindexingRecords(Protocol):
    """The reindexings in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def start(self, collection_uid: UUID, identity: EmbedderIdentity, wanted: Wanted) -> UUID | None:
        """Keeps a new reindexing; None if another one of the collection is under way, or the collection is gone."""
        ...

    async def get(self, uid: UUID) -> Reindexing | None:
        """One of them."""
        ...

    async def of(self, collection_uid: UUID) -> list[Reindexing]:
        """The 50 latest of a collection, latest first."""
        ...

    async def claim(self, lease: UUID) -> Reindexing | None:
        """Leases one that is under way and that nobody works on; None if there is none."""
        ...

    async def renew(self, uid: UUID, lease: UUID) -> bool:
        """Keeps it for another while; False if it has ended, or is another's by now."""
        ...

    async def give_back(self, uid: UUID, lease: UUID, delay: float, note: str) -> None:
        """Ends the lease; nobody takes it again for `delay` seconds."""
        ...

    async def lagging(self, reindexing: Reindexing, after: UUID | None, most: int) -> list[Job]:
        """Documents by id whose content as it is now is not in the index, above the id given."""
        ...

    async def mark(self, job: Job, chunk_count: int, vector_count: int) -> bool:
        """Notes that a document is in the index as of the job's edition, and that what else is there of it must go.

        False if the index is not wanted any more. A document that is gone or was replaced is noted to be erased.
        """
        ...

    async def points(self, index_uid: UUID) -> int:
        """How many points the documents that are done have in the index."""
        ...

    async def begin_anew(self, index_uid: UUID) -> None:
        """Forgets which documents are done."""
        ...

    async def judge(self, uid: UUID, outcome: Outcome | None, state: State, note: str) -> bool:
        """Keeps what the gate measured and moves on from BUILDING; with FAILED, has the index dropped."""
        ...

    async def swap(self, uid: UUID, expected: State, state: State, *, lagging: bool) -> int | None:
        """Has the other index serve, if the reindexing is in the state expected, and moves it to the new one.

        Args:
            uid: Which reindexing.
            expected: The state that it must be in.
            state: The state that it then is in; where that one ends it, the index that served before is dropped.
            lagging: Whether to do so though documents are missing in the index; those are pending then.

        Returns:
            How many documents were missing; None if the state is another. Nothing was done where some were and `lagging` is
            False.
        """
        ...

    async def end(self, uid: UUID, expected: State, state: State, note: str) -> bool:
        """Ends it and has its index dropped, if it is in the state expected."""
        ...


class Reindexings:
    """All reindexings, as callers see them."""

    def __init__(self, catalog: Catalog, records: ReindexingRecords, embedder: Embedder, wake: Callable[[], None]) -> None:
        self._catalog = catalog
        self._records = records
        self._embedder = embedder
        self._wake = wake

    async def start(self, collection: str, wanted: Wanted) -> Reindexing:
        """Begins one.

        Raises:
            Failure: COLLECTION_NOT_FOUND, PERMISSION_DENIED, REINDEX_STATE while another one is under way, or what
                `identify` raises.
        """
        target = (await self._catalog.named([collection], Right.WRITE))[0]
        name = target.embedder.name if wanted.embedder is None else wanted.embedder
        identity = await identify(self._embedder, name)
        uid = await self._records.start(target.uid, identity, wanted)
        if uid is None:
            live = next((one for one in await self._records.of(target.uid) if one.state not in ENDED), None)
            if live is None:
                await self._catalog.named([collection])
            raise _wrong_state(live, "another reindexing of the collection is under way; cancel it, or wait until it has ended")
        self._wake()
        return await self._got(uid)

    async def get(self, uid: UUID, right: Right = Right.READ) -> Reindexing:
        """One of them, of a collection that the caller may use. Raises Failure(REINDEX_NOT_FOUND, PERMISSION_DENIED)."""
        found = await self._records.get(uid)
        if found is None or found.tenant != caller().tenant:
            raise _not_found(uid)
        try:
            named = await self._catalog.named([found.collection], right)
        except Failure as failure:
            if failure.reason == Reason.COLLECTION_NOT_FOUND:
                raise _not_found(uid) from failure
            raise
        if named[0].uid != found.collection_uid:
            raise _not_found(uid)
        return found

    async def of(self, collection: str) -> list[Reindexing]:
        """The latest of a collection, latest first. Raises Failure(COLLECTION_NOT_FOUND)."""
        return await self._records.of((await self._catalog.named([collection]))[0].uid)

    async def watch(self, uid: UUID) -> AsyncGenerator[Reindexing, None]:
        """Each time that it has changed, until it serves, is ready, or has ended. Raises Failure(REINDEX_NOT_FOUND)."""
        last = None
        while True:
            now = await self.get(uid)
            if now != last:
                yield now
                last = now
            if now.state != State.BUILDING:
                return
            await asyncio.sleep(_WATCH_SECONDS)

    async def cancel(self, uid: UUID) -> Reindexing:
        """Ends one whose index does not serve yet; cancelling it again changes nothing.

        Raises:
            Failure: REINDEX_NOT_FOUND, PERMISSION_DENIED, REINDEX_STATE.
        """
        found = await self.get(uid, Right.WRITE)
        if found.state != State.CANCELLED:
            for expected in (State.BUILDING, State.READY):
                if await self._records.end(uid, expected, State.CANCELLED, ""):
                    break
            else:
                now_is = await self._got(uid)
                raise _wrong_state(now_is, "only one that is building or ready can be cancelled; roll it back instead")
        self._wake()
        return await self._got(uid)

    async def switch(self, uid: UUID) -> Reindexing:
        """Has the new index serve. Raises Failure(REINDEX_NOT_FOUND, PERMISSION_DENIED, REINDEX_STATE)."""
        await self.get(uid, Right.WRITE)
        await self._swap(uid, State.READY, State.SERVING, "only one that is ready can be switched to")
        return await self._got(uid)

    async def roll_back(self, uid: UUID) -> Reindexing:
        """Has the old index serve again, and drops the new one.

        Raises:
            Failure: REINDEX_NOT_FOUND, PERMISSION_DENIED, REINDEX_STATE once the old index is gone.
        """
        await self.get(uid, Right.WRITE)
        await self._swap(uid, State.SERVING, State.ROLLED_BACK, "only one whose new index serves can be rolled back")
        return await self._got(uid)

    async def _swap(self, uid: UUID, expected: State, state: State, problem: str) -> None:
        deadline = asyncio.get_running_loop().time() + _SWITCH_SECONDS
        while True:
            late = asyncio.get_running_loop().time() >= deadline
            missing = await self._records.swap(uid, expected, state, lagging=late)
            if missing is None:
                raise _wrong_state(await self._got(uid), problem)
            if not missing or late:
                self._wake()
                return
            self._wake()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _got(self, uid: UUID) -> Reindexing:
        found = await self._records.get(uid)
        if found is None:
            raise _not_found(uid)
        return found


def now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)


def _not_found(uid: UUID) -> Failure:
    return Failure(Reason.REINDEX_NOT_FOUND, f"there is no reindexing {str(uid)!r}", metadata={"reindex": str(uid)})


def _wrong_state(found: Reindexing | None, problem: str) -> Failure:
    facts = {"reindex": str(found.uid), "state": found.state.value} if found else {}
    return Failure(Reason.REINDEX_STATE, f"{problem} (it is {found.state if found else 'gone'})", metadata=facts)
