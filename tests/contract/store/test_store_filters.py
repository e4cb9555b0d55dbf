"""Which points a filter chooses."""

import uuid

import pytest
from qdrant_client import models
from qdrant_client.models import (
    DatetimeRange,
    FieldCondition,
    Filter,
    HasIdCondition,
    IsEmptyCondition,
    IsNullCondition,
    MatchAny,
    MatchExcept,
    MatchText,
    MatchValue,
    PayloadField,
    Range,
)

from tests.contract.store.sidecar import Shelf

SEVEN = str(uuid.UUID(int=7))


async def fill(shelf: Shelf) -> None:
    payloads: dict[int | str, dict[str, object]] = {
        1: {"kind": "news", "year": 2020, "score": 0.5, "is_open": True, "at": "2024-01-01T00:00:00Z", "tags": ["a", "b"]},
        2: {"kind": "news", "year": 2021, "score": 1.5, "is_open": False, "at": "2024-06-01T12:00:00Z", "tags": ["b"]},
        3: {"kind": "blog", "year": 2022, "score": 2.5, "is_open": True, "at": "2025-01-01T00:00:00Z", "tags": []},
        4: {"kind": "wiki", "year": -5, "text": "the quick brown fox", "nothing": None},
        SEVEN: {"author": {"name": "ann", "age": 30}, "text": "a lazy dog"},
    }
    await shelf.put(
        *(
            models.PointStruct(id=key, vector={"dense": [1.0, 0.0, 0.0, 0.0]}, payload=payload)
            for key, payload in payloads.items()
        )
    )


def field(key: str, match: object) -> Filter:
    return Filter(must=[FieldCondition(key=key, match=match)])  # type: ignore[arg-type]  # any match


CASES: list[tuple[str, Filter, set[int | str]]] = [
    ("keyword", field("kind", MatchValue(value="news")), {1, 2}),
    ("integer", field("year", MatchValue(value=-5)), {4}),
    ("bool", field("is_open", MatchValue(value=True)), {1, 3}),
    ("in a list", field("tags", MatchValue(value="b")), {1, 2}),
    ("any of keywords", field("kind", MatchAny(any=["blog", "wiki", "none"])), {3, 4}),
    ("any of integers", field("year", MatchAny(any=[2020, 2022])), {1, 3}),
    ("any of nothing", field("kind", MatchAny(any=[])), set()),
    ("except keywords", field("kind", MatchExcept(**{"except": ["news"]})), {3, 4}),
    ("except integers", field("year", MatchExcept(**{"except": [2020, 2021]})), {3, 4}),
    ("text without an index", field("text", MatchText(text="brown")), {4}),
    ("nested key", field("author.name", MatchValue(value="ann")), {SEVEN}),
    ("range", Filter(must=[FieldCondition(key="year", range=Range(gte=2021, lt=2022))]), {2}),
    ("open range", Filter(must=[FieldCondition(key="score", range=Range(gt=0.5))]), {2, 3}),
    (
        "datetime range",
        Filter(must=[FieldCondition(key="at", range=DatetimeRange(gt="2024-01-01T00:00:00Z", lte="2025-01-01T00:00:00Z"))]),  # type: ignore[arg-type]  # the client parses text
        {2, 3},
    ),
    ("ids", Filter(must=[HasIdCondition(has_id=[1, SEVEN, 99])]), {1, SEVEN}),
    ("empty", Filter(must=[IsEmptyCondition(is_empty=PayloadField(key="tags"))]), {3, 4, SEVEN}),
    ("null", Filter(must=[IsNullCondition(is_null=PayloadField(key="nothing"))]), {4}),
    ("must not", Filter(must_not=[FieldCondition(key="kind", match=MatchValue(value="news"))]), {3, 4, SEVEN}),
    (
        "should",
        Filter(
            should=[
                FieldCondition(key="kind", match=MatchValue(value="blog")),
                FieldCondition(key="year", match=MatchValue(value=2020)),
            ]
        ),
        {1, 3},
    ),
    (
        "groups within groups",
        Filter(
            must=[
                Filter(
                    should=[
                        Filter(must=[field("kind", MatchValue(value="news")), field("is_open", MatchValue(value=True))]),
                        field("kind", MatchValue(value="wiki")),
                    ]
                )
            ],
            must_not=[HasIdCondition(has_id=[4])],
        ),
        {1},
    ),
    ("everything", Filter(), {1, 2, 3, 4, SEVEN}),
]


@pytest.mark.parametrize(("wanted", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("is_indexed", [False, True], ids=["plain", "indexed"])
async def test_filter_chooses(shelf: Shelf, wanted: Filter, expected: set[int | str], is_indexed: bool) -> None:
    await fill(shelf)
    if is_indexed:
        for name, schema in (
            ("kind", models.PayloadSchemaType.KEYWORD),
            ("year", models.PayloadSchemaType.INTEGER),
            ("score", models.PayloadSchemaType.FLOAT),
            ("is_open", models.PayloadSchemaType.BOOL),
            ("at", models.PayloadSchemaType.DATETIME),
            ("tags", models.PayloadSchemaType.KEYWORD),
        ):
            await shelf.client.create_payload_index(shelf.name, name, schema, wait=True)
        info = await shelf.client.get_collection(shelf.name)
        assert info.payload_schema["year"].data_type == models.PayloadSchemaType.INTEGER
        assert info.payload_schema["year"].points == 4
    found, following = await shelf.client.scroll(shelf.name, scroll_filter=wanted, limit=100)
    assert {record.id for record in found} == expected
    assert following is None
    assert (await shelf.client.count(shelf.name, count_filter=wanted)).count == len(expected)
    searched = await shelf.client.query_points(
        shelf.name, query=[1.0, 0.0, 0.0, 0.0], using="dense", query_filter=wanted, limit=100
    )
    assert {point.id for point in searched.points} == expected


async def test_text_index_splits_and_lowers_words(shelf: Shelf) -> None:
    await fill(shelf)
    params = models.TextIndexParams(type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True)
    await shelf.client.create_payload_index(shelf.name, "text", params, wait=True)
    found, _ = await shelf.client.scroll(shelf.name, scroll_filter=field("text", MatchText(text="FOX quick")))
    assert [record.id for record in found] == [4]


async def test_scroll_pages_through_all_points_once(shelf: Shelf) -> None:
    await shelf.put(*(models.PointStruct(id=number, vector={}, payload={"n": number}) for number in range(25)))
    seen: list[int] = []
    offset = None
    while True:
        page, offset = await shelf.client.scroll(shelf.name, limit=10, offset=offset)
        seen += [int(record.id) for record in page]
        if offset is None:
            break
    assert seen == list(range(25))
