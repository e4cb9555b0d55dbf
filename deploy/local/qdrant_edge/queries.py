"""Queries, from Qdrant's messages to the engine."""

from collections.abc import Callable
from datetime import UTC
from typing import Any

import qdrant_edge as edge

from deploy.local.qdrant_edge.filters import engine_filter
from deploy.local.qdrant_edge.points import (
    EngineId,
    EngineVector,
    engine_id,
    engine_vector,
    payload_selection,
    vector_selection,
)
from deploy.local.qdrant_edge.refusals import not_served, wrong_input
from deploy.local.qdrant_edge.stubs import points_pb2

# Qdrant's own defaults.
LIMIT = 10
RRF_K = 2
MMR_DIVERSITY = 0.5
MMR_CANDIDATES = 100

StoredVector = Callable[[EngineId, str], EngineVector]
"""Gives the vector of a stored point, by its id and the vector's name."""


def engine_query(message: points_pb2.QueryPoints, stored: StoredVector) -> edge.QueryRequest:
    """Raises Refusal when the query is malformed or of a kind that is not served."""
    _refuse_lookup(message)
    limit = message.limit if message.HasField("limit") else LIMIT
    if limit == 0:
        raise wrong_input("limit is 0: it must be 1 or more")
    scoring, condition = _scoring(message, stored)
    return edge.QueryRequest(
        limit=limit,
        offset=message.offset,
        query=scoring,
        prefetches=[_prefetch(leg, stored) for leg in message.prefetch] or None,
        with_vector=vector_selection(message.with_vectors),
        with_payload=payload_selection(message.with_payload),
        filter=condition,
        score_threshold=message.score_threshold if message.HasField("score_threshold") else None,
        params=_params(message.params) if message.HasField("params") else None,
    )


def _prefetch(message: points_pb2.PrefetchQuery, stored: StoredVector) -> edge.Prefetch:
    _refuse_lookup(message)
    scoring, condition = _scoring(message, stored)
    return edge.Prefetch(
        limit=message.limit if message.HasField("limit") else LIMIT,
        query=scoring,
        prefetches=[_prefetch(leg, stored) for leg in message.prefetch] or None,
        params=_params(message.params) if message.HasField("params") else None,
        filter=condition,
        score_threshold=message.score_threshold if message.HasField("score_threshold") else None,
    )


def _refuse_lookup(message: points_pb2.QueryPoints | points_pb2.PrefetchQuery) -> None:
    if message.HasField("lookup_from"):
        raise not_served("lookup_from")


def _scoring(  # noqa: PLR0911  # one return a kind
    message: points_pb2.QueryPoints | points_pb2.PrefetchQuery, stored: StoredVector
) -> tuple[Any, edge.Filter | None]:
    """What scores the points, and the filter; a query by a point leaves that point out."""
    condition = engine_filter(message.filter) if message.HasField("filter") else None
    query = message.query
    match query.WhichOneof("variant"):
        case None:
            return None, condition
        case "nearest":
            vector = _input(query.nearest, message.using, stored)
            condition = _without(query.nearest, condition)
            return edge.Query.Nearest(vector, using=message.using or None), condition
        case "nearest_with_mmr":
            nearest = query.nearest_with_mmr.nearest
            vector = _input(nearest, message.using, stored)
            condition = _without(nearest, condition)
            return _mmr(query.nearest_with_mmr.mmr, vector, message.using), condition
        case "fusion":
            if query.fusion == points_pb2.DBSF:
                return edge.Fusion.Dbsf(), condition
            return edge.Fusion.Rrf(RRF_K), condition
        case "rrf":
            rrf = query.rrf
            k = rrf.k if rrf.HasField("k") else RRF_K
            if k < 1:
                raise wrong_input("the k of rrf must be 1 or more")
            return edge.Fusion.Rrf(k, list(rrf.weights) or None), condition
        case "order_by":
            return order_by(query.order_by), condition
        case "sample":
            return edge.Sample.Random, condition
        case kind:
            raise not_served(f"the query {kind}")


def _input(message: points_pb2.VectorInput, using: str, stored: StoredVector) -> EngineVector:
    if message.WhichOneof("variant") == "id":
        return stored(engine_id(message.id), using)
    return engine_vector(message)


def _without(message: points_pb2.VectorInput, condition: edge.Filter | None) -> edge.Filter | None:
    if message.WhichOneof("variant") != "id":
        return condition
    others = edge.Filter(must_not=[edge.HasIdCondition({engine_id(message.id)})])
    return others if condition is None else edge.Filter(must=[condition, others])


def _mmr(message: points_pb2.Mmr, vector: EngineVector, using: str) -> edge.Mmr:
    diversity = message.diversity if message.HasField("diversity") else MMR_DIVERSITY
    if not 0 <= diversity <= 1:
        raise wrong_input(f"the diversity of mmr is {diversity}: it must be 0 to 1")
    candidates = message.candidates_limit if message.HasField("candidates_limit") else MMR_CANDIDATES
    return edge.Mmr(vector, 1 - diversity, candidates, using=using or None)


def order_by(message: points_pb2.OrderBy) -> edge.OrderBy:
    """Raises ValueError when the key is no path."""
    start: int | float | str | None = None
    match message.start_from.WhichOneof("value"):
        case "float":
            start = message.start_from.float
        case "integer":
            start = message.start_from.integer
        case "timestamp":
            start = message.start_from.timestamp.ToDatetime(UTC).isoformat()
        case "datetime":
            start = message.start_from.datetime
    descending = message.direction == points_pb2.Desc
    return edge.OrderBy(
        message.key,
        edge.Direction.Desc if descending else edge.Direction.Asc,
        start,
    )


def _params(message: points_pb2.SearchParams) -> edge.SearchParams:
    quantization = None
    if message.HasField("quantization"):
        given = message.quantization
        quantization = edge.QuantizationSearchParams(
            ignore=given.ignore,
            rescore=given.rescore if given.HasField("rescore") else None,
            oversampling=given.oversampling if given.HasField("oversampling") else None,
        )
    idf = None
    if message.HasField("idf"):
        corpus = message.idf.corpus if message.idf.HasField("corpus") else None
        idf = edge.IdfParams(None if corpus is None else engine_filter(corpus))
    return edge.SearchParams(
        hnsw_ef=message.hnsw_ef if message.HasField("hnsw_ef") else None,
        exact=message.exact,
        quantization=quantization,
        indexed_only=message.indexed_only,
        idf=idf,
    )


def condition_of(
    message: points_pb2.ScrollPoints | points_pb2.CountPoints | points_pb2.FacetCounts,
) -> edge.Filter | None:
    """The filter that a request may carry."""
    return engine_filter(message.filter) if message.HasField("filter") else None
