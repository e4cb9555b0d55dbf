"""Collections: sets of documents of one tenant that are searched together and embedded by one model."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID, uuid4

from services.chassis.errors import Failure, Reason, invalid_field
from services.retrieval.access import Right, caller, denied, may
from services.retrieval.chunking.settings import ChunkingSettings
from services.retrieval.embedding import EmbedderIdentity, identify
from services.retrieval.fusion import Rrf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from services.retrieval.access import AccessList
    from services.retrieval.calibration import Calibration
    from services.retrieval.embedding import Embedder
    from services.retrieval.fusion import Fusion
    from services.retrieval.store import Store

_log = logging.getLogger(__name__)

DEFAULT_PAGE_SIZE: Final = 50
_CHANGEABLE: Final = ("description", "ttl", "acl", "fusion", "reranker", "system_prompt")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a collection is told: see Collection in the protos.

    Attributes:
        description: What it holds, in plain words.
        languages: Those of its texts, as BCP 47 tags; empty where they are told chunk by chunk alone.
        ttl: How long after they were added documents are kept; None means for good.
        acl: Who may use it; None means all of its tenant.
        fusion: How the two rankings of a hybrid search become one, unless the search says otherwise.
        reranker: The model that reorders what a search finds, unless the search says otherwise; empty for none.
        system_prompt: Told to models that answer from it; empty for none.
        chunking: How documents are cut.
    """

    description: str = ""
    languages: tuple[str, ...] = ()
    ttl: timedelta | None = None
    acl: AccessList | None = None
    fusion: Fusion = field(default_factory=Rrf)
    reranker: str = ""
    system_prompt: str = ""
    chunking: ChunkingSettings = field(default_factory=ChunkingSettings)


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as kept.

    Attributes:
        uid: Its identity; another collection made later under the same id has another.
        index_uid: The index of the vector store that serves it; another one after a reindexing.
        tenant: Whose it is.
        owner: The user who made it; empty where nobody said.
        collection: Its id, which callers chose, unique among those of its tenant.
        settings: What it was told.
        embedder: The embedder that its index was made with.
        create_time: When it was created.
        revision: Grows with every change of settings, calibration or index.
        calibration: What makes of facts about a passage its relevance; None means the service's own.
        document_count: Documents in it.
        chunk_count: Searchable chunks in it.
        has_vectors: Whether any of them has a vector.
        changes: How many changes of what a search may find were committed so far, and how many documents have expired since.
    """

    uid: UUID
    index_uid: UUID
    tenant: str
    owner: str
    collection: str
    settings: Settings
    embedder: EmbedderIdentity
    create_time: datetime
    revision: int = 1
    calibration: Calibration | None = None
    document_count: int = 0
    chunk_count: int = 0
    has_vectors: bool = False
    changes: tuple[int, int] = (0, 0)

    @property
    def calibrated(self) -> Calibration | None:
        """The calibration, if it is one under the embedder of now."""
        fits = self.calibration is not None and self.calibration.fingerprint == self.embedder.fingerprint
        return self.calibration if fits else None


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

    async def creation(self, tenant: str, request_id: str) -> Creation | None:
        """The tenant's earlier request under this idempotency key."""
        ...

    async def insert(self, collection: Collection, request_id: str, content_hash: str) -> bool:
        """Keeps a new collection, and its request where the id is not empty; False if the collection or the key exists."""
        ...

    async def named(self, tenant: str, collections: Sequence[str]) -> dict[str, Collection]:
        """Those of the collections that the tenant has, without counts."""
        ...

    async def counted(self, uid: UUID) -> Collection | None:
        """One collection with its counts."""
        ...

    async def calibrate(self, uid: UUID, calibration: Calibration | None) -> bool:
        """Keeps a calibration in place of the one before; False if there is no such collection."""
        ...

    async def change(self, uid: UUID, settings: Settings) -> bool:
        """Keeps settings in place of those before; False if there is no such collection."""
        ...

    async def stats(self, uid: UUID) -> CollectionStats | None:
        """What a collection holds."""
        ...

    async def page(self, tenant: str, after: str, size: int) -> list[Collection]:
        """The tenant's collections with their counts, by id, from the first id above `after`."""
        ...

    async def delete(self, uid: UUID) -> bool:
        """Deletes a collection with all its documents, and notes that the store must; False if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change of a collection; None leaves it as it is, and a TTL of 0 means for good."""

    description: str | None = None
    ttl: timedelta | None = None
    acl: AccessList | None = None
    fusion: Fusion | None = None
    reranker: str | None = None
    system_prompt: str | None = None


class Catalog:
    """All collections."""

    def __init__(self, records: CollectionRecords, store: Store, embedder: Embedder) -> None:
        self._records = records
        self._store = store
        self._embedder = embedder

    async def create(self, collection: str, settings: Settings, embedder: str, request_id: str) -> Collection:
        """Creates an empty collection of the caller's tenant.

        Args:
            collection: Its id.
            settings: What it is told.
            embedder: Name of an embedding model; empty means the one that `auto` resolves to.
            request_id: Idempotency key; empty for none.

        Raises:
            Failure: COLLECTION_ALREADY_EXISTS, REQUEST_ID_REUSED, INVALID_FIELD, or what `identify` raises.
        """
        who = caller()
        content_hash = hashlib.sha256(repr([collection, settings, embedder]).encode()).hexdigest()
        earlier = await self._replay(who.tenant, request_id, content_hash)
        if earlier is not None:
            return earlier
        if await self._records.named(who.tenant, [collection]):
            raise _exists(collection)
        _check_access(settings.acl, who.user, "collection.acl")
        identity = await identify(self._embedder, embedder)
        uid = uuid4()
        created = Collection(uid, uid, who.tenant, who.user, collection, settings, identity, datetime.now(UTC))
        if not await self._records.insert(created, request_id, content_hash):
            earlier = await self._replay(who.tenant, request_id, content_hash)
            if earlier is None:
                raise _exists(collection)
            return earlier
        try:
            await self._store.ensure(created.index_uid, identity.dimensions)
        except Failure as failure:
            # The collection is durable; indexing makes its place in the store as soon as that answers.
            _log.warning("collection %s is not in the vector store yet: %s", collection, failure.message)
        return created

    async def get(self, collection: str) -> Collection:
        """One collection with its counts. Raises Failure(COLLECTION_NOT_FOUND)."""
        return await self._counted((await self.named([collection]))[0])

    async def update(self, collection: str, changes: Changes) -> Collection:
        """Changes what is not None, and returns the collection with its counts.

        Raises:
            Failure: COLLECTION_NOT_FOUND, PERMISSION_DENIED, INVALID_FIELD.
        """
        found = (await self.named([collection], Right.WRITE))[0]
        _check_access(changes.acl, found.owner, "acl")
        given = {name: value for name in _CHANGEABLE if (value := getattr(changes, name)) is not None}
        settings = replace(found.settings, **given)
        if not settings.ttl:
            settings = replace(settings, ttl=None)
        if settings != found.settings and not await self._records.change(found.uid, settings):
            raise not_found(collection)
        return await self._counted(found)

    async def stats(self, collection: str) -> CollectionStats:
        """What a collection holds. Raises Failure(COLLECTION_NOT_FOUND)."""
        found = await self._records.stats((await self.named([collection]))[0].uid)
        if found is None:
            raise not_found(collection)
        return found

    async def named(self, collections: Sequence[str], right: Right = Right.READ) -> list[Collection]:
        """These collections of the caller's tenant in this order, without counts: the one way from ids to collections.

        Raises:
            Failure: COLLECTION_NOT_FOUND where there is none that the caller may read, PERMISSION_DENIED where there is one
                that the caller may only read and wants to change.
        """
        found = await self._records.named(caller().tenant, collections)
        for collection in collections:
            one = found.get(collection)
            if one is None or not may(one.settings.acl, one.owner, Right.READ):
                raise not_found(collection)
            if right == Right.WRITE and not may(one.settings.acl, one.owner, Right.WRITE):
                raise denied(collection)
        return [found[collection] for collection in collections]

    async def by_uid(self, uid: UUID) -> Collection | None:
        """A collection by its identity, for work that no caller asks for; None once it is gone."""
        return await self._records.counted(uid)

    async def calibrate(self, target: Collection, calibration: Calibration | None) -> None:
        """Keeps a calibration of a collection; None means the service's own. Raises Failure(COLLECTION_NOT_FOUND)."""
        if not await self._records.calibrate(target.uid, calibration):
            raise not_found(target.collection)

    async def page(self, size: int, after: str) -> tuple[list[Collection], str]:
        """A page of the collections that the caller may read, by id, and the `after` of the next one, empty on the last.

        Size 0 means the default. A page may be shorter than its size where some may not be read.
        """
        size = size or DEFAULT_PAGE_SIZE
        found = await self._records.page(caller().tenant, after, size + 1)
        readable = [one for one in found[:size] if may(one.settings.acl, one.owner, Right.READ)]
        return readable, found[size - 1].collection if len(found) > size else ""

    async def delete(self, collection: str) -> None:
        """Deletes a collection with all its documents, for good. Raises Failure(COLLECTION_NOT_FOUND, PERMISSION_DENIED)."""
        if not await self._records.delete((await self.named([collection], Right.WRITE))[0].uid):
            raise not_found(collection)

    async def _counted(self, found: Collection) -> Collection:
        counted = await self._records.counted(found.uid)
        if counted is None:
            raise not_found(found.collection)
        return counted

    async def _replay(self, tenant: str, request_id: str, content_hash: str) -> Collection | None:
        earlier = await self._records.creation(tenant, request_id) if request_id else None
        if earlier is None:
            return None
        if earlier.content_hash != content_hash:
            raise Failure(
                Reason.REQUEST_ID_REUSED,
                f"request_id: {request_id!r} was used before for another request; use a new one",
                metadata={"request_id": request_id},
            )
        return earlier.collection


def _check_access(acl: AccessList | None, owner: str, field: str) -> None:
    """That the caller can still change the collection under its new list, as otherwise it may be nobody who can."""
    if not may(acl, owner, Right.WRITE):
        raise invalid_field(f"{field}.writers", "would lock you out; name yourself, one of your groups, or *")


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
