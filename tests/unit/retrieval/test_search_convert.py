from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf import json_format
from penstock.retrieval.v1 import answer_service_pb2, search_service_pb2

from services.chassis.errors import Failure, Reason
from services.retrieval.filters import AllOf, AnyOf, Exists, NoneOf, OneOf, Range, TimeRange
from services.retrieval.fusion import Dbsf, Rrf, Weighted
from services.retrieval.passages import DEFAULTS, Options
from services.retrieval.search_convert import from_options

REQUESTS = (search_service_pb2.SearchRequest, answer_service_pb2.AnswerRequest, answer_service_pb2.StreamAnswerRequest)


def options(**fields: Any) -> Options:
    """The same from all three requests."""
    read = [from_options(json_format.ParseDict(fields, kind())) for kind in REQUESTS]
    assert read[0] == read[1] == read[2]
    return read[0]


def test_nothing_means_the_defaults() -> None:
    assert options() == DEFAULTS


def test_a_filter_of_every_kind() -> None:
    wanted = {
        "all_of": {
            "filters": [
                {"equals": {"key": "lang", "value": "ru"}},
                {"any_of": {"filters": [{"one_of": {"key": "n", "values": [1, True, "x"]}}, {"exists": {"key": "n"}}]}},
                {"none_of": {"filters": [{"range": {"key": "year", "gte": 2020, "lt": 2024.5}}]}},
                {"time_range": {"key": "at", "gt": "2026-01-02T03:04:05.5Z", "lte": "2026-02-01T00:00:00+03:00"}},
            ]
        }
    }
    read = options(filter=wanted).condition
    assert read == AllOf(
        (
            OneOf("lang", ("ru",)),
            AnyOf((OneOf("n", (1.0, True, "x")), Exists("n"))),
            NoneOf((Range("year", gte=2020.0, lt=2024.5),)),
            TimeRange(
                "at",
                gt=datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC),
                lte=datetime(2026, 1, 31, 21, 0, tzinfo=UTC),
            ),
        )
    )


def test_fusions() -> None:
    assert options(fusion={"rrf": {}}).fusion == Rrf(60)
    assert options(fusion={"rrf": {"k": 1}}).fusion == Rrf(1)
    assert options(fusion={"dbsf": {}}).fusion == Dbsf()
    assert options(fusion={"weighted": {}}).fusion == Weighted(0.7, 0.3)
    assert options(fusion={"weighted": {"dense": 0}}).fusion == Weighted(0.0, 0.3)


def test_zero_is_a_value() -> None:
    assert options(mmr_lambda=0).mmr_lambda == 0.0
    assert options().mmr_lambda is None
    assert options(min_relevance=0.4, neighbors=2) == Options(min_relevance=0.4, neighbors=2)


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"exists": {"key": "x"}}
    for _ in range(depth - 1):
        inner = {"none_of": {"filters": [inner]}}
    return inner


MANY = {"any_of": {"filters": [{"all_of": {"filters": [{"exists": {"key": "x"}}] * 50}}] * 3}}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"filter": {"equals": {"key": "a", "value": [1]}}}, "filter.equals.value"),
        ({"filter": {"equals": {"key": "a", "value": None}}}, "filter.equals.value"),
        ({"filter": {"equals": {"key": "a", "value": "\x00"}}}, "filter.equals.value"),
        ({"filter": {"one_of": {"key": "a", "values": [1, {}]}}}, "filter.one_of.values[1]"),
        ({"filter": {"exists": {"key": "a\x00"}}}, "filter.exists.key"),
        ({"filter": {"all_of": {"filters": [{"range": {"key": "a"}}]}}}, "filter.all_of.filters[0].range"),
        ({"filter": {"time_range": {"key": "a"}}}, "filter.time_range"),
        ({"filter": nested(9)}, "filter"),
        ({"filter": MANY}, "filter"),
        ({"fusion": {"weighted": {"dense": 0, "sparse": 0}}}, "fusion.weighted"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Failure) as caught:
        options(**fields)
    assert caught.value.reason == Reason.INVALID_FIELD
    assert caught.value.metadata["field"] == field


def test_8_deep_is_allowed() -> None:
    assert options(filter=nested(8)).condition is not None


def test_a_time_out_of_reach_is_refused() -> None:
    # JSON can't say it; the binary form can.
    request = search_service_pb2.SearchRequest()
    request.filter.time_range.gt.seconds = 1 << 60
    with pytest.raises(Failure) as caught:
        from_options(request)
    assert caught.value.metadata["field"] == "filter.time_range"
