"""Documents: read, kept durably, and handed on to be indexed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID, uuid4

from services.chassis.errors import Failure, Reason, invalid_field
from services.retrieval.access import Right
from services.retrieval.catalog import not_found
from services.retrieval.media_types import CONTAINERS, SUPPORTED
from services.retrieval.parsing import UnsupportedMediaTypeError
from services.retrieval.reader_process import Content, read_all
from services.retrieval.reading import Reading, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from services.retrieval.catalog import Catalog
    from services.retrieval.ingestion.indexer import Indexer
    from services.retrieval.reader_process import Outcome

_log = logging.getLogger(__name__)

_ID_CHARACTERS: Final = 512
_TITLE_CHARACTERS: Final = 1024
_DAY_SECONDS: Final = 86400.0


class DocumentState(StrEnum):
    """Whether a document can be found."""

    PENDING = "PENDING"
    INDEXED = "INDEXED"
    HELD = "HELD"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A document to add, as its sender gave it: see DocumentInput in the protos."""

    document: str
    title: str
    content: str | bytes
    media_type: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    ttl: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """A document that was read, ready to be kept; for good where it has no TTL."""

    document: str
    title: str
    media_type: str
    metadata: Mapping[str, object]
    content_hash: str
    reading: Reading
    ttl: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document as kept: see Document in the protos. `uid` is its identity; `text` is empty in lists."""

    uid: UUID
    document: str
    title: str
    media_type: str
    metadata: Mapping[str, object]
    content_hash: str
    state: DocumentState
    chunk_count: int
    version: int
    create_time: datetime
    expire_time: datetime | None = None
    text: str = ""


class DocumentRecords(Protocol):
    """The documents in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def put(self, collection_uid: UUID, documents: Sequence[Read], lease: UUID) -> list[Document] | None:
        """Keeps documents over those of the same ids, all or none; None if the collection is gone.

        Those whose content is not searchable yet are leased; a document that is the same in all stays as it is.
        """
        ...

    async def states(self, uids: Sequence[UUID]) -> dict[UUID, Document]:
        """These documents as they are now, without texts, as far as they exist."""
        ...

    async def get(self, collection_uid: UUID, document: str) -> Document | None:
        """One document with its text."""
        ...

    async def delete(self, collection_uid: UUID, document: str) -> bool:
        """Deletes a document, and notes that the store must; False if there is none."""
        ...

    async def expire(self, collection_uid: UUID, seconds: float) -> int:
        """Deletes the documents that were added or last changed so long ago, and says how many."""
        ...


class Library:
    """The documents of all collections."""

    def __init__(self, catalog: Catalog, records: DocumentRecords, indexer: Indexer) -> None:
        self._catalog = catalog
        self._records = records
        self._indexer = indexer

    async def add(self, collection: str, incoming: Sequence[Incoming]) -> list[Document]:
        """Adds documents, all or none. Returns once they are durable, and searchable too where that is quick enough.

        Raises:
            Failure: COLLECTION_NOT_FOUND, DOCUMENT_UNREADABLE, UNSUPPORTED_MEDIA_TYPE, INVALID_FIELD, DATABASE_UNAVAILABLE.
        """
        target = (await self._catalog.named([collection], Right.WRITE))[0]
        contents = [Content(one.content, one.media_type, one.document) for one in incoming]
        outcomes = await read_all(contents)
        read = [
            await asyncio.to_thread(_read, number, one, outcome, target.settings.ttl)
            for number, (one, outcome) in enumerate(zip(incoming, outcomes, strict=True))
        ]
        _check_unique(read)
        lease = uuid4()
        kept = await self._records.put(target.uid, read, lease)
        if kept is None:
            raise not_found(collection)
        if all(document.state == DocumentState.INDEXED for document in kept):
            return kept
        await self._indexer.index_leased(lease)
        try:
            now = await self._records.states([document.uid for document in kept])
        except Failure as failure:
            # They are durable, and that is what the caller must learn.
            _log.warning("the states of new documents cannot be read: %s", failure.message)
            now = {}
        return [now.get(document.uid, document) for document in kept]

    async def get(self, collection: str, document: str) -> Document:
        """One document with its text. Raises Failure(COLLECTION_NOT_FOUND, DOCUMENT_NOT_FOUND)."""
        source = (await self._catalog.named([collection]))[0]
        found = await self._records.get(source.uid, document)
        if found is None:
            raise _no_document(collection, document)
        return found

    async def delete(self, collection: str, document: str) -> None:
        """Deletes a document; from now on no search finds it. Raises Failure(COLLECTION_NOT_FOUND, DOCUMENT_NOT_FOUND)."""
        source = (await self._catalog.named([collection], Right.WRITE))[0]
        if not await self._records.delete(source.uid, document):
            raise _no_document(collection, document)
        self._indexer.wake()

    async def expire(self, collection: str, days: float) -> int:
        """Deletes the documents older than this, and says how many. Raises Failure(COLLECTION_NOT_FOUND, PERMISSION_DENIED)."""
        source = (await self._catalog.named([collection], Right.WRITE))[0]
        deleted = await self._records.expire(source.uid, days * _DAY_SECONDS)
        self._indexer.wake()
        return deleted


def _read(number: int, incoming: Incoming, outcome: Outcome, ttl: timedelta | None) -> Read:
    """Makes a document of what was read; runs in a thread. Failures name the field of the request."""
    name = f"documents[{number}].{'text' if isinstance(incoming.content, str) else 'data'}"
    if isinstance(outcome, UnreadableError):
        raise invalid_field(name, f"the content {outcome}", Reason.DOCUMENT_UNREADABLE)
    if isinstance(outcome, UnsupportedMediaTypeError):
        media_type = outcome.args[0][:256]
        advice = f"send one of {', '.join(SUPPORTED)}, or source code"
        if media_type in CONTAINERS:
            advice = "it holds many documents: send it as an ingestion"
        raise Failure(
            Reason.UNSUPPORTED_MEDIA_TYPE,
            f"{name}: there is no reader for {media_type!r} as one document; {advice}",
            metadata={"media_type": media_type, "field": name},
            violations=[(name, "no reader for this media type")],
        )
    media_type, reading = outcome
    content = incoming.content
    content_hash = hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
    if "\x00" in incoming.document or "\x00" in incoming.title:
        raise invalid_field(f"documents[{number}]", "id and title must not hold the character U+0000")
    return Read(
        document=incoming.document or f"sha256-{content_hash[:32]}",
        title=incoming.title or reading.title[:_TITLE_CHARACTERS],
        media_type=media_type,
        metadata=incoming.metadata,
        content_hash=content_hash,
        reading=reading,
        ttl=incoming.ttl or ttl,
    )


def _check_unique(read: Sequence[Read]) -> None:
    first: dict[str, int] = {}
    for number, one in enumerate(read):
        if one.document in first:
            earlier = first[one.document]
            raise invalid_field(f"documents[{number}].document", f"{one.document!r} is also that of documents[{earlier}]")
        first[one.document] = number


def _no_document(collection: str, document: str) -> Failure:
    return Failure(
        Reason.DOCUMENT_NOT_FOUND,
        f"there is no document {document[:_ID_CHARACTERS]!r} in collection {collection!r}",
        metadata={"collection": collection, "document": document},
    )
