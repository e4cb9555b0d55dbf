"""Between the messages of a search's options and the domain."""

from __future__ import annotations

import math
from datetime import UTC
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from penstock.inference.v1 import generation_pb2
from penstock.retrieval.v1 import search_pb2

from services.chassis.errors import invalid_field
from services.retrieval.answering.events import CacheMode
from services.retrieval.filters import AllOf, AnyOf, Exists, NoneOf, OneOf, Range, TimeRange
from services.retrieval.fusion import DENSE_WEIGHT, RRF_K, SPARSE_WEIGHT, Dbsf, Rrf, Weighted
from services.retrieval.passages import Options

if TYPE_CHECKING:
    from datetime import datetime

    from google.protobuf import struct_pb2
    from penstock.retrieval.v1 import answer_service_pb2, search_service_pb2

    from services.retrieval.filters import Condition, Value
    from services.retrieval.fusion import Fusion, Place
    from services.retrieval.passages import Explanation

    Request: TypeAlias = (
        search_service_pb2.SearchRequest | answer_service_pb2.AnswerRequest | answer_service_pb2.StreamAnswerRequest
    )

_Bound = TypeVar("_Bound")

_MOST_CONDITIONS: Final = 128
_DEEPEST: Final = 8
_CACHE_MODES: Final[dict[int, CacheMode]] = {
    generation_pb2.CACHE_MODE_BYPASS: CacheMode.BYPASS,
    generation_pb2.CACHE_MODE_REFRESH: CacheMode.REFRESH,
}
_BOUNDS: Final = ("gt", "gte", "lt", "lte")


def from_options(request: Request) -> Options:
    """Reads what a search is told beyond what to find and where. Raises Failure(INVALID_FIELD)."""
    return Options(
        condition=_Reader().condition(request.filter, "filter", 1) if request.HasField("filter") else None,
        fusion=from_fusion(request.fusion) if request.HasField("fusion") else None,
        mmr_lambda=request.mmr_lambda if request.HasField("mmr_lambda") else None,
        min_relevance=request.min_relevance,
        neighbors=request.neighbors,
        explain=getattr(request, "explain", False),
        section=getattr(request, "section", False),
        reranker=request.reranker if request.HasField("reranker") else None,
    )


def from_cache_mode(mode: int) -> CacheMode:
    """Whether kept results will do."""
    return _CACHE_MODES.get(mode, CacheMode.USE)


def to_explanation(explanation: Explanation | None) -> search_pb2.Explanation | None:
    """Writes why a hit is where it is."""
    if explanation is None:
        return None
    return search_pb2.Explanation(
        dense=_leg(explanation.dense),
        sparse=_leg(explanation.sparse),
        matched_terms=explanation.matched_terms,
        coverage=explanation.coverage,
        rerank_score=explanation.reranked,
    )


def _leg(place: Place | None) -> search_pb2.LegExplanation | None:
    if place is None:
        return None
    return search_pb2.LegExplanation(rank=place.rank, score=place.score, normalized_score=place.normalized)


def from_fusion(message: search_pb2.Fusion, field: str = "fusion") -> Fusion:
    """Reads how rankings are fused. Raises Failure(INVALID_FIELD)."""
    match message.WhichOneof("method"):
        case "dbsf":
            return Dbsf()
        case "weighted":
            weighted = message.weighted
            dense = weighted.dense if weighted.HasField("dense") else DENSE_WEIGHT
            sparse = weighted.sparse if weighted.HasField("sparse") else SPARSE_WEIGHT
            if dense + sparse <= 0:
                raise invalid_field(f"{field}.weighted", "one of the two weights must be above 0")
            return Weighted(dense, sparse)
        case _:
            return Rrf(message.rrf.k if message.rrf.HasField("k") else RRF_K)


def to_fusion(fusion: Fusion) -> search_pb2.Fusion:
    """Writes how rankings are fused."""
    match fusion:
        case Rrf(k):
            return search_pb2.Fusion(rrf=search_pb2.RrfFusion(k=k))
        case Dbsf():
            return search_pb2.Fusion(dbsf=search_pb2.DbsfFusion())
        case Weighted(dense, sparse):
            return search_pb2.Fusion(weighted=search_pb2.WeightedFusion(dense=dense, sparse=sparse))


class _Reader:
    """Reads a filter, and counts its conditions."""

    def __init__(self) -> None:
        self._conditions = 0

    def condition(self, message: search_pb2.Filter, field: str, depth: int) -> Condition:
        self._conditions += 1
        if self._conditions > _MOST_CONDITIONS:
            raise invalid_field("filter", f"holds more than {_MOST_CONDITIONS} conditions")
        if depth > _DEEPEST:
            raise invalid_field("filter", f"is nested more than {_DEEPEST} deep")
        kind = message.WhichOneof("condition")
        field = f"{field}.{kind}"
        match kind:
            case "all_of":
                return AllOf(self._each(message.all_of, field, depth))
            case "any_of":
                return AnyOf(self._each(message.any_of, field, depth))
            case "none_of":
                return NoneOf(self._each(message.none_of, field, depth))
            case _:
                return _comparison(message, field)

    def _each(self, message: search_pb2.Filters, field: str, depth: int) -> tuple[Condition, ...]:
        return tuple(self.condition(one, f"{field}.filters[{number}]", depth + 1) for number, one in enumerate(message.filters))


def _comparison(message: search_pb2.Filter, field: str) -> Condition:
    match message.WhichOneof("condition"):
        case "equals":
            equals = message.equals
            return OneOf(_key(equals.key, field), (_value(equals.value, f"{field}.value"),))
        case "one_of":
            one_of = message.one_of
            values = (_value(value, f"{field}.values[{number}]") for number, value in enumerate(one_of.values))
            return OneOf(_key(one_of.key, field), tuple(values))
        case "range":
            span = message.range
            bounds: dict[str, float] = {name: getattr(span, name) for name in _BOUNDS if span.HasField(name)}
            return Range(_key(span.key, field), **_some(bounds, field))
        case "time_range":
            period = message.time_range
            try:
                times: dict[str, datetime] = {
                    name: getattr(period, name).ToDatetime(UTC) for name in _BOUNDS if period.HasField(name)
                }
            except ValueError as error:
                raise invalid_field(field, "must name times between the years 1 and 9999") from error
            return TimeRange(_key(period.key, field), **_some(times, field))
        case _:
            return Exists(_key(message.exists.key, field))


def _some(bounds: dict[str, _Bound], field: str) -> dict[str, _Bound]:
    if not bounds:
        raise invalid_field(field, f"must have at least one of {', '.join(_BOUNDS)}")
    return bounds


def _key(key: str, field: str) -> str:
    if "\x00" in key:
        raise invalid_field(f"{field}.key", "must not hold the character U+0000")
    return key


def _value(value: struct_pb2.Value, field: str) -> Value:
    match value.WhichOneof("kind"):
        case "string_value" if "\x00" not in value.string_value:
            return value.string_value
        case "number_value" if math.isfinite(value.number_value):
            return value.number_value
        case "bool_value":
            return value.bool_value
    raise invalid_field(field, "must be a string without U+0000, a finite number or a boolean")
