"""Collections: sets of documents that are searched together and embedded by one model."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID, uuid4

from services.chassis.errors import Failure, Reason
from services.retrieval.embedding import EmbedderIdentity, identify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.embedding import Embedder
    from services.retrieval.store import Store

_log = logging.getLogger(__name__)

DEFAULT_PAGE_SIZE: Final = 50


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as kept.

    Attributes:
        uid: Its identity; another collection made later under the same id has another.
        collection: Its id, which callers chose.
        description: What it holds, in plain words.
        embedder: The embedder it was made with.
        create_time: When it was created.
        document_count: Documents in it.
        chunk_count: Searchable chunks in it.
        has_vectors: Whether any of them has a vector.
    """

    uid: UUID
    collection: str
    description: str
    embedder: EmbedderIdentity
    create_time: datetime
    document_count: int = 0
    chunk_count: int = 0
    has_vectors: bool = False


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """What a collection holds: see CollectionStats in the protos."""

    collection: Collection
    pending_document_count: int
    vector_count: int
    text_bytes: int
    stored_bytes: int
    last_ingest_time: datetime | None


@dataclass(frozen=True, slots=True)
class Creation:
    """A create request that was answered: what it asked for, as a hash, and what it got."""

    content_hash: str
    collection: Collection


class CollectionRecords(Protocol):
    """The collections in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def creation(self, request_id: str) -> Creation | None:
        """The earlier request under this idempotency key."""
        ...

    async def insert(self, collection: Collection, request_id: str, content_hash: str) -> bool:
        """Keeps a new collection, and its request where the id is not empty; False if the collection or the key exists."""
        ...

    async def named(self, collections: Sequence[str]) -> dict[str, Collection]:
        """Those of the collections that exist, without counts."""
        ...

    async def counted(self, collection: str) -> Collection | None:
        """One collection with its counts."""
        ...

    async def describe(self, collection: str, description: str) -> bool:
        """Changes the description; False if there is no such collection."""
        ...

    async def stats(self, collection: str) -> CollectionStats | None:
        """What a collection holds."""
        ...

    async def page(self, after: str, size: int) -> list[Collection]:
        """Collections with their counts, by id, from the first id above `after`."""
        ...

    async def delete(self, collection: str) -> bool:
        """Deletes a collection with all its documents, and notes that the store must; False if there is none."""
        ...


class Catalog:
    """All collections."""

    def __init__(self, records: CollectionRecords, store: Store, embedder: Embedder) -> None:
        self._records = records
        self._store = store
        self._embedder = embedder

    async def create(self, collection: str, description: str, embedder: str, request_id: str) -> Collection:
        """Creates an empty collection.

        Args:
            collection: Its id.
            description: What it holds.
            embedder: Name of an embedding model; empty means the one that `auto` resolves to.
            request_id: Idempotency key; empty for none.

        Raises:
            Failure: COLLECTION_ALREADY_EXISTS, REQUEST_ID_REUSED, or what `identify` raises.
        """
        content_hash = hashlib.sha256(json.dumps([collection, description, embedder]).encode()).hexdigest()
        earlier = await self._replay(request_id, content_hash)
        if earlier is not None:
            return earlier
        if await self._records.named([collection]):
            raise _exists(collection)
        identity = await identify(self._embedder, embedder)
        created = Collection(uuid4(), collection, description, identity, datetime.now(UTC))
        if not await self._records.insert(created, request_id, content_hash):
            earlier = await self._replay(request_id, content_hash)
            if earlier is None:
                raise _exists(collection)
            return earlier
        try:
            await self._store.ensure(created.uid, identity.dimensions)
        except Failure as failure:
            # The collection is durable; indexing makes its place in the store as soon as that answers.
            _log.warning("collection %s is not in the vector store yet: %s", collection, failure.message)
        return created

    async def get(self, collection: str) -> Collection:
        """One collection with its counts. Raises Failure(COLLECTION_NOT_FOUND)."""
        found = await self._records.counted(collection)
        if found is None:
            raise not_found(collection)
        return found

    async def update(self, collection: str, description: str | None) -> Collection:
        """Changes what is not None, and returns the collection with its counts. Raises Failure(COLLECTION_NOT_FOUND)."""
        if description is not None and not await self._records.describe(collection, description):
            raise not_found(collection)
        return await self.get(collection)

    async def stats(self, collection: str) -> CollectionStats:
        """What a collection holds. Raises Failure(COLLECTION_NOT_FOUND)."""
        found = await self._records.stats(collection)
        if found is None:
            raise not_found(collection)
        return found

    async def named(self, collections: Sequence[str]) -> list[Collection]:
        """These collections in this order, without counts. Raises Failure(COLLECTION_NOT_FOUND)."""
        found = await self._records.named(collections)
        for collection in collections:
            if collection not in found:
                raise not_found(collection)
        return [found[collection] for collection in collections]

    async def page(self, size: int, after: str) -> tuple[list[Collection], str]:
        """A page of collections by id, and the `after` of the next one, empty on the last. Size 0 means the default."""
        size = size or DEFAULT_PAGE_SIZE
        found = await self._records.page(after, size + 1)
        return found[:size], found[size - 1].collection if len(found) > size else ""

    async def delete(self, collection: str) -> None:
        """Deletes a collection with all its documents, for good. Raises Failure(COLLECTION_NOT_FOUND)."""
        if not await self._records.delete(collection):
            raise not_found(collection)

    async def _replay(self, request_id: str, content_hash: str) -> Collection | None:
        earlier = await self._records.creation(request_id) if request_id else None
        if earlier is None:
            return None
        if earlier.content_hash != content_hash:
            raise Failure(
                Reason.REQUEST_ID_REUSED,
                f"request_id: {request_id!r} was used before for another request; use a new one",
                metadata={"request_id": request_id},
            )
        return earlier.collection


def not_found(collection: str) -> Failure:
    """That there is no such collection."""
    return Failure(
        Reason.COLLECTION_NOT_FOUND,
        f"there is no collection {collection!r}; create it first",
        metadata={"collection": collection},
    )


def _exists(collection: str) -> Failure:
    return Failure(
        Reason.COLLECTION_ALREADY_EXISTS,
        f"collection {collection!r} exists; choose another id, or delete it first",
        metadata={"collection": collection},
    )
