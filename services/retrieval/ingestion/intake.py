"""The first stage of an ingestion: its files and addresses are read, and the documents in them kept.

One worker at a time holds the lease of an ingestion. It keeps documents in batches, each with its places in the source and
in one transaction, which fails if the lease was lost or the ingestion cancelled. So a worker that takes over goes on behind
what is kept, and nothing is kept after a cancellation.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID, uuid4

from services.chassis.errors import Failure, Reason
from services.retrieval.documents import Read
from services.retrieval.ingestion.ingestions import ItemFailure, SourceKind
from services.retrieval.ingestion.jobs import Stage
from services.retrieval.media_types import HTML, MARKDOWN, PLAIN, is_code
from services.retrieval.parsing import UnsupportedMediaTypeError, media_type_of
from services.retrieval.reading import UnreadableError
from services.retrieval.sources.archives import plain_name
from services.retrieval.sources.entries import Entry, Refused, document
from services.retrieval.sources.stream import Position, read_source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
    from datetime import timedelta

    from services.retrieval.fetching.fetcher import Fetcher

_log = logging.getLogger(__name__)

_RENEW_SECONDS: Final = 8.0
_BATCH: Final = 100
# What a file without a name is called by its reader.
_UNNAMED: Final = "unnamed"
# The place of what concerns a source as a whole, behind those of its documents.
_BEHIND: Final = 1 << 30
_SMALL_BYTES: Final = 256 * 1024
_BATCH_BYTES: Final = 2 * 1024 * 1024
_ID_CHARACTERS: Final = 512
_TITLE_CHARACTERS: Final = 1024
# How often reading a source may meet a defect, or its reader die with the process, before it counts as failed.
_MOST_ATTEMPTS: Final = 3
_REST_SECONDS: Final = 1.0
# Those that heal by themselves: the source is read again later.
_OUTAGES: Final = frozenset({Reason.DATABASE_UNAVAILABLE, Reason.SHUTTING_DOWN})


class LeaseLostError(Exception):
    """Another worker has the ingestion now, or nobody has: it was cancelled, or deleted with its collection."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An ingestion under a lease.

    Attributes:
        uid: Which.
        collection_uid: Its collection.
        ttl: That collection's, for documents that bring none.
        lease: The lease.
        attempts: How often it was begun and not ended, this time included.
    """

    uid: UUID
    collection_uid: UUID
    ttl: timedelta | None
    lease: UUID
    attempts: int


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A source that is still to be read; `kept` are the places of its documents that are there already."""

    number: int
    kind: SourceKind
    name: str
    title: str
    media_type: str
    metadata: Mapping[str, object]
    ttl: timedelta | None
    kept: frozenset[int]


class IntakeRecords(Protocol):
    """What is to be read, in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def claim(self, lease: UUID) -> Claimed | None:
        """Leases an ingestion that is to be read and that nobody reads."""
        ...

    async def renew(self, lease: UUID) -> None:
        """Keeps the lease for another while."""
        ...

    async def give_back(self, lease: UUID, delay: float) -> None:
        """Ends the lease; the ingestion is not taken again for `delay` seconds."""
        ...

    async def unread(self, claimed: Claimed) -> list[StoredSource]:
        """The sources that are still to be read, in their order."""
        ...

    def content(self, claimed: Claimed, source: int) -> AsyncIterator[bytes]:
        """A source's bytes, piece by piece."""
        ...

    async def keep(
        self, claimed: Claimed, source: int, found: Sequence[tuple[int, Read | ItemFailure]], position: int = 0
    ) -> None:
        """Keeps documents with their places in the source, and what could not be read. Raises LeaseLostError.

        Args:
            claimed: The ingestion.
            source: The source's number.
            found: What was found, by place.
            position: How many bytes of the source have been read for it.
        """
        ...

    async def end_source(self, claimed: Claimed, source: int) -> None:
        """Says that a source is read to its end. Raises LeaseLostError."""
        ...

    async def end(self, claimed: Claimed) -> None:
        """Says that all sources are read. Raises LeaseLostError."""
        ...

    async def tidy(self) -> None:
        """Forgets files that stopped coming, and ingestions that ended long ago; has cancelled documents held."""
        ...


class Intake:
    """Reads the sources of ingestions.

    Args:
        records: What is to be read.
        fetcher: Fetches addresses.
        wake: Told when there are documents to index.
    """

    def __init__(self, records: IntakeRecords, fetcher: Fetcher, wake: Callable[[], None]) -> None:
        self._records = records
        self._fetcher = fetcher
        self._wake = wake

    async def once(self) -> bool:
        """Reads one ingestion to its end, if there is one to be read."""
        await self._records.tidy()
        lease = uuid4()
        claimed = await self._records.claim(lease)
        if claimed is None:
            return False
        with suppress(LeaseLostError):
            async with self._leased(claimed):
                for source in await self._records.unread(claimed):
                    await self._read(claimed, source)
                await self._records.end(claimed)
        self._wake()
        return True

    async def _read(self, claimed: Claimed, source: StoredSource) -> None:
        try:
            await self._keep_all(claimed, source)
        except LeaseLostError:
            raise
        except Failure as failure:
            if failure.reason in _OUTAGES:
                raise
            await self._refuse(claimed, source, failure)
        except Exception:
            if claimed.attempts < _MOST_ATTEMPTS:
                raise
            _log.exception("a source cannot be read")
            await self._refuse(claimed, source, Failure(Reason.INTERNAL, "a defect of the service; its log tells more"))
        await self._records.end_source(claimed, source.number)

    async def _refuse(self, claimed: Claimed, source: StoredSource, failure: Failure) -> None:
        refused = ItemFailure(source.name, Stage.READ, failure.reason, failure.message)
        await self._records.keep(claimed, source.number, [(_BEHIND, refused)])

    async def _keep_all(self, claimed: Claimed, source: StoredSource) -> None:
        with tempfile.TemporaryDirectory(prefix="penstock-ingestion-") as folder:
            path = Path(folder, "source")
            source = await self._stored(claimed, source, path)
            group, position = _Group(), Position()
            # Of what is kept only the first ones without a gap are not read again.
            place = next(number for number in range(len(source.kept) + 1) if number not in source.kept)
            async with aclosing(_entries(path, source, place, position)) as entries:
                async for entry in entries:
                    if place not in source.kept:
                        if group.is_full_for(entry):
                            await self._keep(claimed, source, group, position)
                            group = _Group()
                        group.add(place, entry, source, claimed)
                    place += 1
            await self._keep(claimed, source, group, position)

    async def _stored(self, claimed: Claimed, source: StoredSource, path: Path) -> StoredSource:
        """Puts the source's bytes into a file; an address may tell better what it is."""
        if source.kind is SourceKind.URL:
            fetched = await self._fetcher.fetch(source.name, path)
            return replace(source, name=fetched.name, media_type=source.media_type or fetched.media_type)
        with path.open("wb") as file:
            async for piece in self._records.content(claimed, source.number):
                await asyncio.to_thread(file.write, piece)
        return source

    async def _keep(self, claimed: Claimed, source: StoredSource, group: _Group, position: Position) -> None:
        if group.found:
            await self._records.keep(claimed, source.number, group.found, position.size)
            self._wake()

    @asynccontextmanager
    async def _leased(self, claimed: Claimed) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self._renew(claimed.lease), name="renewing a lease")
        try:
            yield
        finally:
            renewing.cancel()
            # Without this the lease would only run out.
            with suppress(Failure):
                await asyncio.shield(self._records.give_back(claimed.lease, _REST_SECONDS))

    async def _renew(self, lease: UUID) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with suppress(Failure):
                await self._records.renew(lease)


async def _entries(path: Path, source: StoredSource, skip: int, position: Position) -> AsyncGenerator[Entry | Refused, None]:
    is_text = source.kind is SourceKind.TEXT
    small = await asyncio.to_thread(_small, path, source, is_text=is_text)
    if small is not None:
        for entry in [small][skip:]:
            yield entry
        return
    found = read_source(path, name=source.name, media_type=source.media_type, is_text=is_text, skip=skip, position=position)
    async with aclosing(found):
        async for entry in found:
            yield entry


def _small(path: Path, source: StoredSource, *, is_text: bool) -> Entry | Refused | None:
    """Reads what is one small text; a process of its own would cost far more than the reading."""
    if path.stat().st_size > _SMALL_BYTES:
        return None
    data = path.read_bytes()
    content = data.decode() if is_text else data
    try:
        kind = media_type_of(content, source.media_type, source.name, contains=True)
    except (UnreadableError, UnsupportedMediaTypeError):
        return None
    return document(source.name, content, source.media_type) if kind in (PLAIN, MARKDOWN, HTML) or is_code(kind) else None


class _Group:
    """What is kept in one transaction: documents of different ids."""

    def __init__(self) -> None:
        self.found: list[tuple[int, Read | ItemFailure]] = []
        self._ids: set[str] = set()
        self._bytes = 0

    def is_full_for(self, entry: Entry | Refused) -> bool:
        """Whether the entry must wait for the next group."""
        return len(self.found) >= _BATCH or self._bytes >= _BATCH_BYTES or entry.name in self._ids

    def add(self, place: int, entry: Entry | Refused, source: StoredSource, claimed: Claimed) -> None:
        """Adds what was found at a place of the source."""
        if isinstance(entry, Refused):
            failure = ItemFailure(entry.name or source.name, Stage.READ, entry.reason, entry.message)
            self.found.append((place, failure))
            return
        self._ids.add(entry.name)
        self._bytes += len(entry.reading.text)
        self.found.append((place, _document(entry, source, claimed)))


def _document(entry: Entry, source: StoredSource, claimed: Claimed) -> Read:
    # What is one document has the name that its sender gave, as it is.
    is_whole = entry.name in {source.name, plain_name(source.name) if source.name else _UNNAMED}
    name = source.name or f"sha256-{entry.content_hash[:32]}" if is_whole else entry.name
    title = source.title if is_whole and source.title else entry.title or entry.reading.title
    return Read(
        document=name.replace("\x00", "")[:_ID_CHARACTERS],
        title=title.replace("\x00", "")[:_TITLE_CHARACTERS],
        media_type=entry.media_type,
        metadata={**source.metadata, **entry.metadata},
        content_hash=entry.content_hash,
        reading=entry.reading,
        ttl=source.ttl or claimed.ttl,
    )
