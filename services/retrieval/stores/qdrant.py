"""The vector store: Qdrant, by its own client over gRPC.

One Qdrant collection per collection, with two named vectors: `dense` (cosine) and `sparse`, for which Qdrant adds the inverse
document frequency at query time. Of the payload only what filters need is indexed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit
from uuid import UUID

import grpc
import grpc.aio
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from services.chassis.call import current_call
from services.chassis.errors import Failure, Reason
from services.retrieval.fusion import Ranked
from services.retrieval.store import Candidate, CollectionMissingError, Legs, Whereabouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AsyncExitStack

    from services.retrieval.filters import DocumentSet
    from services.retrieval.store import Point, Query

_log = logging.getLogger(__name__)

_DENSE: Final = "dense"
_SPARSE: Final = "sparse"
_DOCUMENT: Final = "document"
_EDITION: Final = "edition"
# Most that one request to the store may take, seconds.
_LIMIT_SECONDS: Final = 10
# Candidates a leg gives to the fusion, at least; more changes no figure of benchmarks/retrieval_quality.py.
_LEAST_DEPTH: Final = 50
_OPTIONS: Final = {
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
}
_OUTAGES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


async def open_client(stack: AsyncExitStack, url: str) -> AsyncQdrantClient:
    """Opens a client of the Qdrant at `http://host:port`, the port being that of gRPC. Connects when first used."""
    parts = urlsplit(url)
    client = AsyncQdrantClient(
        host=parts.hostname,
        grpc_port=parts.port or 6334,
        https=parts.scheme == "https",
        prefer_grpc=True,
        check_compatibility=False,
        timeout=_LIMIT_SECONDS,
        grpc_options=dict(_OPTIONS),
        pool_size=1,
    )
    stack.push_async_callback(client.close)
    return client


class QdrantStore:
    """See `store.Store`."""

    def __init__(self, client: AsyncQdrantClient) -> None:
        self._client = client

    async def ensure(self, collection_uid: UUID, dimensions: int) -> None:
        """See `Store.ensure`."""
        name = _name(collection_uid)
        async with _outages():
            if await self._client.collection_exists(name):
                return
            try:
                await self._client.create_collection(
                    name,
                    vectors_config={_DENSE: models.VectorParams(size=dimensions, distance=models.Distance.COSINE)},
                    sparse_vectors_config={_SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                )
            except grpc.aio.AioRpcError as error:
                # Another process made it in between; servers say so with one of these two.
                if error.code() not in {grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.INVALID_ARGUMENT}:
                    raise
                if not await self._client.collection_exists(name):
                    raise
            await self._client.create_payload_index(name, _DOCUMENT, models.PayloadSchemaType.KEYWORD)

    async def drop(self, collection_uid: UUID) -> None:
        """See `Store.drop`."""
        async with _outages():
            await self._client.delete_collection(_name(collection_uid))

    async def write(self, collection_uid: UUID, points: Sequence[Point]) -> None:
        """See `Store.write`."""
        async with _outages():
            await self._client.upsert(_name(collection_uid), [_struct(point) for point in points], wait=True)

    async def erase(self, collection_uid: UUID, document_uid: UUID, from_edition: int, to_edition: int) -> None:
        """See `Store.erase`."""
        those = models.Filter(
            must=[
                models.FieldCondition(key=_DOCUMENT, match=models.MatchValue(value=str(document_uid))),
                models.FieldCondition(key=_EDITION, range=models.Range(gte=from_edition, lte=to_edition)),
            ]
        )
        async with _outages():
            await self._client.delete(_name(collection_uid), models.FilterSelector(filter=those), wait=True)

    async def count(self, collection_uid: UUID) -> int:
        """See `Store.count`."""
        async with _outages():
            return (await self._client.count(_name(collection_uid), exact=True)).count

    async def search(self, collection_uid: UUID, query: Query, limit: int, offset: int = 0) -> list[Candidate]:
        """See `Store.search`. Both legs and their fusion are one request."""
        dense, sparse = _vectors(query)
        condition = _condition(query.documents)
        depth = max(_LEAST_DEPTH, 2 * (limit + offset))
        what: Any
        legs: list[models.Prefetch] | None = None
        if dense is not None and sparse is not None:
            legs = [
                models.Prefetch(query=dense, using=_DENSE, limit=depth),
                models.Prefetch(query=sparse, using=_SPARSE, limit=depth),
            ]
            what, using = models.RrfQuery(rrf=models.Rrf(k=query.rrf_k)), None
        else:
            what, using = (sparse, _SPARSE) if dense is None else (dense, _DENSE)
        async with _outages():
            found = await self._client.query_points(
                _name(collection_uid),
                query=what,
                using=using,
                prefetch=legs,
                # Qdrant hands it on to the legs: each is restricted before it ranks.
                query_filter=condition,
                limit=limit,
                offset=offset,
                # The vector is only of use where there is one of the query to compare it with.
                with_vectors=[_SPARSE] if dense is None else [_DENSE, _SPARSE],
            )
        return [_candidate(point) for point in found.points]

    async def legs(self, collection_uid: UUID, query: Query, depth: int) -> Legs:
        """See `Store.legs`."""
        condition = _condition(query.documents)
        given = {name: vector for name, vector in zip((_DENSE, _SPARSE), _vectors(query), strict=True) if vector is not None}
        requests = [
            models.QueryRequest(query=vector, using=name, limit=depth, filter=condition) for name, vector in given.items()
        ]
        async with _outages():
            responses = await self._client.query_batch_points(_name(collection_uid), requests)
        found = {
            name: [Ranked(UUID(str(point.id)), point.score) for point in response.points]
            for name, response in zip(given, responses, strict=True)
        }
        return Legs(found.get(_DENSE, ()), found.get(_SPARSE, ()))

    async def fetch(self, collection_uid: UUID, uids: Sequence[UUID], *, dense: bool) -> dict[UUID, Candidate]:
        """See `Store.fetch`."""
        async with _outages():
            points = await self._client.retrieve(
                _name(collection_uid),
                [str(uid) for uid in uids],
                with_payload=True,
                with_vectors=[_DENSE, _SPARSE] if dense else [_SPARSE],
            )
        candidates = [_candidate(point) for point in points]
        return {candidate.uid: candidate for candidate in candidates}

    async def rarities(self, collection_uid: UUID, term_ids: Sequence[int]) -> dict[int, float]:
        """See `Store.rarities`.

        Qdrant tells no frequencies, but a query of one term scores a point by the term's IDF times its weight in the point.
        """
        name = _name(collection_uid)
        requests = [
            models.QueryRequest(
                query=models.SparseVector(indices=[term], values=[1.0]), using=_SPARSE, limit=1, with_vector=[_SPARSE]
            )
            for term in term_ids
        ]
        async with _outages():
            responses = await self._client.query_batch_points(name, requests)
        rarities = {}
        for term, response in zip(term_ids, responses, strict=True):
            for point in response.points:
                weight = _weights(point).get(term)
                if weight:
                    rarities[term] = point.score / weight
        return rarities


def _name(collection_uid: UUID) -> str:
    return f"penstock-{collection_uid.hex}"


def _vectors(query: Query) -> tuple[list[float] | None, models.SparseVector | None]:
    sparse = query.sparse
    return (
        None if query.dense is None else list(query.dense),
        None if sparse is None else models.SparseVector(indices=list(sparse.indices), values=list(sparse.values)),
    )


def _condition(documents: DocumentSet | None) -> models.Filter | None:
    if documents is None or documents.is_whole:
        return None
    those = models.FieldCondition(key=_DOCUMENT, match=models.MatchAny(any=[str(uid) for uid in documents.uids]))
    return models.Filter(must=[those]) if documents.allowed else models.Filter(must_not=[those])


def _struct(point: Point) -> models.PointStruct:
    vectors: dict[str, Any] = {
        _SPARSE: models.SparseVector(indices=list(point.sparse.indices), values=list(point.sparse.values))
    }
    if point.dense is not None:
        vectors[_DENSE] = list(point.dense)
    payload = {
        _DOCUMENT: str(point.document_uid),
        _EDITION: point.edition,
        "start": point.start,
        "end": point.end,
        "text": point.text,
        **_told(point.where),
    }
    return models.PointStruct(id=str(point.uid), vector=vectors, payload=payload)


def _candidate(point: models.ScoredPoint | models.Record) -> Candidate:
    payload = point.payload or {}
    dense = point.vector.get(_DENSE) if isinstance(point.vector, dict) else None
    return Candidate(
        uid=UUID(str(point.id)),
        document_uid=UUID(payload[_DOCUMENT]),
        edition=payload[_EDITION],
        start=payload["start"],
        end=payload["end"],
        text=payload["text"],
        score=point.score if isinstance(point, models.ScoredPoint) else 0.0,
        dense=cast("Sequence[float]", dense or ()),
        weights=_weights(point),
        where=_where(payload),
    )


def _told(where: Whereabouts) -> dict[str, Any]:
    """Where a chunk stands, as far as there is something to say."""
    if where.ordinal < 0:
        return {}
    told: dict[str, Any] = {"ordinal": where.ordinal, "section": list(where.section)}
    if where.page:
        told["page"] = where.page
    if where.path:
        told["headings"] = list(where.path)
    return told


def _where(payload: dict[str, Any]) -> Whereabouts:
    if "ordinal" not in payload:
        return Whereabouts()
    first, last = payload["section"]
    return Whereabouts(payload["ordinal"], payload.get("page", 0), tuple(payload.get("headings", ())), (first, last))


def _weights(point: models.ScoredPoint | models.Record) -> dict[int, float]:
    sparse = point.vector.get(_SPARSE) if isinstance(point.vector, dict) else None
    if not isinstance(sparse, models.SparseVector):
        return {}
    return dict(zip(sparse.indices, sparse.values, strict=True))


@asynccontextmanager
async def _outages() -> AsyncIterator[None]:
    """Keeps the deadline, and turns a store that does not answer into STORE_UNAVAILABLE; what else it refuses is a defect."""
    try:
        async with asyncio.timeout(current_call().remaining(_LIMIT_SECONDS)):
            yield
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise CollectionMissingError from error
        if error.code() not in _OUTAGES:
            raise
        _log.warning("the vector store answers %s", error.code().name)
        raise _unavailable() from error
    except ResourceExhaustedResponse as error:
        raise _unavailable() from error
    except TimeoutError as error:
        if current_call().remaining() == 0:
            raise
        raise _unavailable() from error


def _unavailable() -> Failure:
    return Failure(Reason.STORE_UNAVAILABLE, "the vector store does not answer; try again", retry_after=1)
