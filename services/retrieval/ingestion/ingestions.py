"""Ingestions: documents on their way into a collection, as their callers see them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from services.chassis.errors import Failure, Reason, invalid_field
from services.retrieval.access import Right, caller
from services.retrieval.ingestion.jobs import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from datetime import datetime, timedelta

    from services.retrieval.catalog import Catalog, Collection

DEFAULT_PAGE_SIZE: Final = 50
_PIECE_BYTES: Final = 1024 * 1024
_LOOK_SECONDS: Final = 0.5
_RATE_SECONDS: Final = 10.0


class IngestionState(StrEnum):
    """How far an ingestion is: see IngestionState in the protos."""

    RECEIVING = "RECEIVING"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class SourceKind(StrEnum):
    """What a source is: text as its sender gave it, a file's bytes, or an address on the web."""

    TEXT = "TEXT"
    FILE = "FILE"
    URL = "URL"


@dataclass(frozen=True, slots=True)
class Source:
    """What documents are read from: a name, which is the id of the document if there is one, or an address; and its content."""

    kind: SourceKind
    name: str
    content: bytes = b""
    title: str = ""
    media_type: str = ""
    metadata: Mapping[str, object] | None = None
    ttl: timedelta | None = None


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far a stage is: see StageProgress in the protos."""

    stage: Stage
    documents_done: int
    documents_total: int
    chunks_done: int
    chunks_total: int
    bytes_done: int
    bytes_total: int
    complete: bool
    rate: float = 0.0

    @property
    def done(self) -> int:
        """What its rate is told in: documents that were read, else chunks."""
        return self.documents_done if self.stage is Stage.READ else self.chunks_done


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """What could not be brought in: see IngestionFailure in the protos. `place` tells where to go on in a list."""

    name: str
    stage: Stage
    reason: Reason
    message: str
    place: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Ingestion:
    """An ingestion as it stands: see Ingestion in the protos."""

    uid: UUID
    collection: str
    state: IngestionState
    stages: tuple[StageProgress, ...]
    unchanged_count: int
    superseded_count: int
    failed_count: int
    reused_chunk_count: int
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    heartbeat_time: datetime | None
    failures: tuple[ItemFailure, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether nobody works on it any more."""
        return self.end_time is not None


class IngestionRecords(Protocol):
    """Ingestions in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def of_request(self, tenant: str, request_id: str) -> tuple[UUID, str] | None:
        """The ingestion that was made under this idempotency key, and the hash of what it was asked for."""
        ...

    async def insert(
        self,
        target: Collection,
        sources: Sequence[Source],
        *,
        request_id: str = "",
        content_hash: str = "",
        receiving: bool = False,
    ) -> UUID | None:
        """Keeps a new ingestion; None if the collection is gone or the key is in use."""
        ...

    async def add_piece(self, uid: UUID, number: int, data: bytes) -> bool:
        """Keeps a piece of the file that is being received; False if the ingestion is gone."""
        ...

    async def received(self, uid: UUID, size: int) -> bool:
        """Says that the file is whole; False if the ingestion is gone."""
        ...

    async def drop(self, uid: UUID) -> None:
        """Forgets an ingestion."""
        ...

    async def get(self, tenant: str, uid: UUID) -> Ingestion | None:
        """One ingestion with its first failures."""
        ...

    async def page(self, collection_uid: UUID, before: UUID | None, size: int) -> list[Ingestion]:
        """Ingestions of a collection, the newest first, without failures."""
        ...

    async def failures(self, uid: UUID, after: tuple[int, int], size: int) -> list[ItemFailure]:
        """What failed, in the order of the source, behind a place."""
        ...

    async def cancel(self, uid: UUID) -> None:
        """Ends an ingestion, unless it has ended, and has its documents held that are not searchable."""
        ...

    async def retry(self, uid: UUID, stage: Stage | None) -> bool:
        """Has done again what failed in a stage, or in any, or was cancelled; False if there is nothing, or it goes on."""
        ...


class Ingestions:
    """All ingestions.

    Args:
        catalog: The collections.
        records: The ingestions in the system of record.
        wake: Tells the workers that there is something to do.
        most_bytes: Of one uploaded file.
    """

    def __init__(self, catalog: Catalog, records: IngestionRecords, wake: Callable[[], None], *, most_bytes: int) -> None:
        self._catalog = catalog
        self._records = records
        self._wake = wake
        self._most_bytes = most_bytes

    async def create(self, collection: str, sources: Sequence[Source], request_id: str) -> Ingestion:
        """Begins to bring sources in.

        Raises:
            Failure: COLLECTION_NOT_FOUND, PERMISSION_DENIED, REQUEST_ID_REUSED, DATABASE_UNAVAILABLE.
        """
        target = (await self._catalog.named([collection], Right.WRITE))[0]
        content_hash = _hash(target.uid, sources) if request_id else ""
        uid = await self._replay(target, request_id, content_hash)
        if uid is None:
            uid = await self._records.insert(target, sources, request_id=request_id, content_hash=content_hash)
        if uid is None:
            uid = await self._replay(target, request_id, content_hash)
        if uid is None:
            raise _gone(collection)
        self._wake()
        return await self._get(target.tenant, uid)

    async def receive(self, collection: str, source: Source, pieces: AsyncIterator[bytes]) -> Ingestion:
        """Takes a file piece by piece, holding about 1 MiB of it, and begins to bring it in once it is whole.

        Raises:
            Failure: COLLECTION_NOT_FOUND, PERMISSION_DENIED, REQUEST_TOO_LARGE, INVALID_FIELD, DATABASE_UNAVAILABLE.
        """
        target = (await self._catalog.named([collection], Right.WRITE))[0]
        uid = await self._records.insert(target, [source], receiving=True)
        if uid is None:
            raise _gone(collection)
        try:
            size = await self._take(uid, pieces)
            is_there = await self._records.received(uid, size)
        except BaseException:
            # What the database refuses now is forgotten in a quarter of an hour.
            with suppress(Failure):
                await asyncio.shield(self._records.drop(uid))
            raise
        if not is_there:
            raise _gone(collection)
        self._wake()
        return await self._get(target.tenant, uid)

    async def _take(self, uid: UUID, pieces: AsyncIterator[bytes]) -> int:
        waiting, size, number = bytearray(), 0, 0
        async for data in pieces:
            size += len(data)
            if size > self._most_bytes:
                raise Failure(
                    Reason.REQUEST_TOO_LARGE,
                    f"the file is larger than {self._most_bytes} bytes; split it",
                    metadata={"limit_bytes": str(self._most_bytes)},
                )
            waiting += data
            while len(waiting) >= _PIECE_BYTES:
                if not await self._records.add_piece(uid, number, bytes(waiting[:_PIECE_BYTES])):
                    raise _not_found(uid)
                del waiting[:_PIECE_BYTES]
                number += 1
        if not size:
            raise invalid_field("body", "the file is empty")
        if waiting:
            await self._records.add_piece(uid, number, bytes(waiting))
        return size

    async def get(self, ingestion: str) -> Ingestion:
        """One ingestion. Raises Failure(INGESTION_NOT_FOUND)."""
        return await self._allowed(ingestion, Right.READ)

    async def page(self, collection: str, size: int, after: str) -> tuple[list[Ingestion], str]:
        """A page of a collection's ingestions, and the `after` of the next one. Raises Failure(COLLECTION_NOT_FOUND)."""
        target = (await self._catalog.named([collection]))[0]
        size = size or DEFAULT_PAGE_SIZE
        found = await self._records.page(target.uid, _uid(after, "page_token") if after else None, size + 1)
        return found[:size], str(found[size - 1].uid) if len(found) > size else ""

    async def failures(self, ingestion: str, size: int, after: str) -> tuple[list[ItemFailure], str]:
        """A page of what failed, and the `after` of the next one. Raises Failure(INGESTION_NOT_FOUND)."""
        found = await self._allowed(ingestion, Right.READ)
        size = size or DEFAULT_PAGE_SIZE
        failed = await self._records.failures(found.uid, _place(after), size + 1)
        return failed[:size], "{}.{}".format(*failed[size - 1].place) if len(failed) > size else ""

    async def watch(self, ingestion: str, draining: asyncio.Event) -> AsyncIterator[Ingestion]:
        """The ingestion at once, and again whenever it has changed; the last one has ended.

        Raises:
            Failure: INGESTION_NOT_FOUND, SHUTTING_DOWN, DATABASE_UNAVAILABLE.
        """
        found = await self._allowed(ingestion, Right.READ)
        pace = _Pace()
        told: Ingestion | None = None
        while True:
            if told is None or replace(found, heartbeat_time=None) != told:
                told = replace(found, heartbeat_time=None)
                yield pace.of(found)
            if found.has_ended:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await draining.wait()
                    raise Failure(Reason.SHUTTING_DOWN, "this process stops; watch again", retry_after=1)
            found = await self._get(caller().tenant, found.uid)

    async def cancel(self, ingestion: str) -> Ingestion:
        """Stops an ingestion; one that has ended stays as it is. Raises Failure(INGESTION_NOT_FOUND, PERMISSION_DENIED)."""
        found = await self._allowed(ingestion, Right.WRITE)
        await self._records.cancel(found.uid)
        return await self._get(caller().tenant, found.uid)

    async def retry(self, ingestion: str, stage: Stage | None) -> Ingestion:
        """Does again what failed in a stage, or in any where none is named, or was cancelled.

        Raises:
            Failure: INGESTION_NOT_FOUND, PERMISSION_DENIED, INGESTION_STATE.
        """
        found = await self._allowed(ingestion, Right.WRITE)
        if not await self._records.retry(found.uid, stage):
            where = f"in the stage {stage}" if stage else "of it"
            problem = f"nothing failed {where}" if found.has_ended else "it has not ended"
            raise Failure(
                Reason.INGESTION_STATE,
                f"ingestion {ingestion!r} cannot be retried: {problem}",
                metadata={"ingestion": ingestion, "state": found.state},
            )
        self._wake()
        return await self._get(caller().tenant, found.uid)

    async def _allowed(self, ingestion: str, right: Right) -> Ingestion:
        found = await self._get(caller().tenant, _uid(ingestion, "ingestion"))
        # Whoever may not read the collection does not learn that there is one.
        await self._catalog.named([found.collection], right)
        return found

    async def _get(self, tenant: str, uid: UUID) -> Ingestion:
        found = await self._records.get(tenant, uid)
        if found is None:
            raise _not_found(uid)
        return found

    async def _replay(self, target: Collection, request_id: str, content_hash: str) -> UUID | None:
        earlier = await self._records.of_request(target.tenant, request_id) if request_id else None
        if earlier is None:
            return None
        uid, asked = earlier
        if asked != content_hash:
            raise Failure(
                Reason.REQUEST_ID_REUSED,
                f"request_id: {request_id!r} was used before for another request; use a new one",
                metadata={"request_id": request_id},
            )
        return uid


class _Pace:
    """Tells rates over the last seconds of a watch."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, tuple[int, ...]]] = deque()

    def of(self, ingestion: Ingestion) -> Ingestion:
        """The ingestion with the rates of now; of the whole time where nothing was seen before."""
        now = time.monotonic()
        self._seen.append((now, tuple(stage.done for stage in ingestion.stages)))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _RATE_SECONDS:  # noqa: PLR2004 - the first and the last one
            self._seen.popleft()
        since, done = self._seen[0]
        if now - since < _LOOK_SECONDS:
            return ingestion
        rates = ((stage.done - before) / (now - since) for stage, before in zip(ingestion.stages, done, strict=True))
        return replace(
            ingestion, stages=tuple(replace(stage, rate=rate) for stage, rate in zip(ingestion.stages, rates, strict=True))
        )


def _hash(collection_uid: UUID, sources: Sequence[Source]) -> str:
    """Of what is asked for, to tell a repeated request from another one."""
    digest = hashlib.sha256(str(collection_uid).encode())
    for source in sources:
        facts = [source.kind, source.name, source.title, source.media_type, source.metadata, str(source.ttl)]
        content = hashlib.sha256(source.content).hexdigest()
        digest.update(json.dumps([*facts, content], sort_keys=True).encode())
    return digest.hexdigest()


def _uid(text: str, field: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        if field == "ingestion":
            raise _not_found(text) from None
        raise invalid_field(field, "is not one that this service gave") from None


def _place(token: str) -> tuple[int, int]:
    if not token:
        return (-1, -1)
    source, dot, entry = token.partition(".")
    if not (dot and source.isdecimal() and entry.isdecimal() and len(token) < 20):  # noqa: PLR2004 - two numbers of Postgres
        raise invalid_field("page_token", "is not one that this service gave")
    return int(source), int(entry)


def _not_found(ingestion: UUID | str) -> Failure:
    return Failure(
        Reason.INGESTION_NOT_FOUND, f"there is no ingestion {str(ingestion)!r}", metadata={"ingestion": str(ingestion)}
    )


def _gone(collection: str) -> Failure:
    return Failure(
        Reason.COLLECTION_NOT_FOUND,
        f"collection {collection!r} was deleted in this moment",
        metadata={"collection": collection},
    )
