"""Filters, from Qdrant's messages to the engine."""

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge

from deploy.local.qdrant_edge.points import engine_id
from deploy.local.qdrant_edge.refusals import not_served, wrong_input
from deploy.local.qdrant_edge.stubs import qdrant_common_pb2 as common_pb2

EngineCondition = (
    edge.FieldCondition
    | edge.IsEmptyCondition
    | edge.IsNullCondition
    | edge.HasIdCondition
    | edge.HasVectorCondition
    | edge.NestedCondition
    | edge.Filter
)
EngineMatch = (
    edge.MatchValue
    | edge.MatchText
    | edge.MatchTextAny
    | edge.MatchPhrase
    | edge.MatchPrefix
    | edge.MatchSubstring
    | edge.MatchAny
    | edge.MatchExcept
)


def engine_filter(message: common_pb2.Filter) -> edge.Filter:
    """Raises Refusal when a condition is malformed or unknown to the engine."""
    min_should = None
    if message.HasField("min_should"):
        min_should = edge.MinShould(
            [_condition(part) for part in message.min_should.conditions],
            message.min_should.min_count,
        )
    return edge.Filter(
        must=[_condition(part) for part in message.must] or None,
        should=[_condition(part) for part in message.should] or None,
        must_not=[_condition(part) for part in message.must_not] or None,
        min_should=min_should,
    )


def _condition(message: common_pb2.Condition) -> EngineCondition:  # noqa: PLR0911  # one return a kind
    match message.WhichOneof("condition_one_of"):
        case "field":
            return _field(message.field)
        case "is_empty":
            return edge.IsEmptyCondition(message.is_empty.key)
        case "is_null":
            return edge.IsNullCondition(message.is_null.key)
        case "has_id":
            return edge.HasIdCondition({engine_id(one) for one in message.has_id.has_id})
        case "has_vector":
            return edge.HasVectorCondition(message.has_vector.has_vector)
        case "nested":
            return edge.NestedCondition(message.nested.key, engine_filter(message.nested.filter))
        case "filter":
            return engine_filter(message.filter)
        case None:
            raise wrong_input("a filter holds an empty condition")
        case kind:
            raise not_served(f"the filter condition {kind}")


def _field(message: common_pb2.FieldCondition) -> edge.FieldCondition:
    given = {field.name for field, _ in message.ListFields()}
    count = message.values_count
    return edge.FieldCondition(
        message.key,
        match=_match(message.match) if "match" in given else None,
        range=_range(message),
        geo_bounding_box=_box(message.geo_bounding_box) if "geo_bounding_box" in given else None,
        geo_radius=_radius(message.geo_radius) if "geo_radius" in given else None,
        geo_polygon=_polygon(message.geo_polygon) if "geo_polygon" in given else None,
        values_count=edge.ValuesCount(**_bounds(count)) if "values_count" in given else None,
        is_empty=message.is_empty if "is_empty" in given else None,
        is_null=message.is_null if "is_null" in given else None,
    )


def _range(message: common_pb2.FieldCondition) -> edge.RangeFloat | edge.RangeDateTime | None:
    if message.HasField("range"):
        return edge.RangeFloat(**_bounds(message.range))
    if message.HasField("datetime_range"):
        bounds = _bounds(message.datetime_range)
        return edge.RangeDateTime(**{name: time.ToJsonString() for name, time in bounds.items()})
    return None


def _bounds(message: common_pb2.Range | common_pb2.DatetimeRange | common_pb2.ValuesCount) -> dict[str, Any]:
    """The bounds that are set; their names are the engine's too."""
    return {field.name: value for field, value in message.ListFields()}


class _Truth:
    """A truth value that the engine takes as one.

    Its binding tries integers before truth values, and a Python bool is an integer: `MatchValue(True)`
    would look for the number 1. It accepts numpy's bool, which is none, and knows it by this name.
    """

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Truth.__module__, _Truth.__name__ = "numpy", "bool_"


# By the name of the field that Qdrant's message sets.
_MATCHES: dict[str, Callable[[Any], EngineMatch]] = {
    "keyword": edge.MatchValue,
    "integer": edge.MatchValue,
    "boolean": lambda value: edge.MatchValue(_Truth(value)),  # type: ignore[arg-type]  # see _Truth
    "keywords": lambda value: edge.MatchAny(list(value.strings)),
    "integers": lambda value: edge.MatchAny(list(value.integers)),
    "except_keywords": lambda value: edge.MatchExcept(list(value.strings)),
    "except_integers": lambda value: edge.MatchExcept(list(value.integers)),
    "text": edge.MatchText,
    "text_any": edge.MatchTextAny,
    "phrase": edge.MatchPhrase,
    "prefix": edge.MatchPrefix,
    "substring": edge.MatchSubstring,
}


def _match(message: common_pb2.Match) -> EngineMatch:
    kind = message.WhichOneof("match_value")
    if kind is None:
        raise wrong_input("a match condition holds no value")
    return _MATCHES[kind](getattr(message, kind))


def _point(message: common_pb2.GeoPoint) -> edge.GeoPoint:
    return edge.GeoPoint(message.lon, message.lat)


def _box(message: common_pb2.GeoBoundingBox) -> edge.GeoBoundingBox:
    return edge.GeoBoundingBox(_point(message.top_left), _point(message.bottom_right))


def _radius(message: common_pb2.GeoRadius) -> edge.GeoRadius:
    return edge.GeoRadius(_point(message.center), message.radius)


def _polygon(message: common_pb2.GeoPolygon) -> edge.GeoPolygon:
    return edge.GeoPolygon(
        [_point(point) for point in message.exterior.points],
        [[_point(point) for point in line.points] for line in message.interiors] or None,
    )
