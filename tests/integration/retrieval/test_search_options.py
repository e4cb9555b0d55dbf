"""Filters, fusion, explanations, thresholds, diversity and neighbors, through the service's gRPC."""

import operator
import random
from datetime import UTC, datetime
from typing import Any, Literal

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import json_format, timestamp_pb2
from penstock.retrieval.v1 import search_pb2

from tests.support.retrieval import Retrieval, info_of, reason_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

DENSE, SPARSE, HYBRID = search_pb2.SEARCH_MODE_DENSE, search_pb2.SEARCH_MODE_SPARSE, search_pb2.SEARCH_MODE_HYBRID
WHALES = "Whales dive deep and breathe at the surface."


def filter_of(condition: dict[str, Any]) -> search_pb2.Filter:
    return json_format.ParseDict(condition, search_pb2.Filter())


def moment(text: str) -> datetime | None:
    """A time as the contract reads it."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def holds(condition: dict[str, Any], facts: dict[str, Any]) -> bool:
    """What a filter means, told a second time."""
    ((kind, body),) = condition.items()
    if kind in {"all_of", "any_of", "none_of"}:
        judged = [holds(one, facts) for one in body["filters"]]
        return {"all_of": all(judged), "any_of": any(judged), "none_of": not any(judged)}[kind]
    if kind == "exists":
        return body["key"] in facts
    values = facts.get(body["key"], [])
    values = values if isinstance(values, list) else [values]
    if kind in {"equals", "one_of"}:
        wanted = body["values"] if kind == "one_of" else [body["value"]]
        return any((isinstance(one, bool), one) == (isinstance(other, bool), other) for one in values for other in wanted)
    if kind == "range":
        numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
        return any(within(one, {name: bound for name, bound in body.items() if name != "key"}) for one in numbers)
    times = [read for one in values if isinstance(one, str) and (read := moment(one))]
    return any(within(one, {name: moment(bound) for name, bound in body.items() if name != "key"}) for one in times)


def within(value: Any, bounds: dict[str, Any]) -> bool:
    tests = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
    return all(tests[name](value, bound) for name, bound in bounds.items())


VALUES: list[Any] = [
    *(0, 1, 2.5, -3, 1e300, True, False, "1", "a", "b", "", "ж", "a'b\"", "true"),
    *("2026-01-01", "2026-01-01T12:00:00Z", "2026-01-01T12:00:00.25+03:00", "2026-01-02T00:00:00", "2026-13-45", "1 day"),
    *([], [1, "a"], ["b", "2026-01-03"], [True, 2.5]),
]
KEYS = ["n", "kind", 'odd "key" $[*]', "at"]
TIMES = ["2026-01-01T00:00:00Z", "2026-01-01T12:00:00Z", "2026-01-02T00:00:00Z", "2026-01-01T09:00:00.250Z"]


def some_filter(chance: random.Random, depth: int = 3) -> dict[str, Any]:
    key = chance.choice(KEYS)
    kinds = ["equals", "one_of", "range", "time_range", "exists"]
    kind = chance.choice([*kinds, "all_of", "any_of", "none_of"] if depth else kinds)
    scalars = [one for one in VALUES if not isinstance(one, list)]
    bounds = chance.sample(["gt", "gte", "lt", "lte"], chance.choice([1, 1, 2]))
    match kind:
        case "equals":
            return {kind: {"key": key, "value": chance.choice(scalars)}}
        case "one_of":
            return {kind: {"key": key, "values": chance.sample(scalars, 3)}}
        case "range":
            return {kind: {"key": key} | {name: chance.choice([-3, 0, 1, 2, 2.5, 1e301]) for name in bounds}}
        case "time_range":
            return {kind: {"key": key} | {name: chance.choice(TIMES) for name in bounds}}
        case "exists":
            return {kind: {"key": key}}
        case _:
            return {kind: {"filters": [some_filter(chance, depth - 1) for _ in range(chance.choice([1, 2, 3]))]}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def facts(suite: Retrieval) -> dict[str, dict[str, Any]]:
    """Sixty documents that say the same, each with facts of its own."""
    await suite.create("facts-filtered")
    chance = random.Random(7)  # noqa: S311 - no secret
    known: dict[str, dict[str, Any]] = {
        f"d{number}": {key: chance.choice(VALUES) for key in chance.sample(KEYS, chance.randrange(len(KEYS) + 1))}
        for number in range(60)
    }
    documents = [{"document": name, "text": WHALES, "metadata": metadata} for name, metadata in known.items()]
    await suite.add(*documents, collection="facts-filtered")
    return known


@pytest.mark.parametrize("mode", [HYBRID, DENSE, SPARSE])
async def test_filters_mean_what_they_say(
    suite: Retrieval, facts: dict[str, dict[str, Any]], mode: search_pb2.SearchMode.ValueType
) -> None:
    chance = random.Random(mode)  # noqa: S311 - no secret
    sizes = set()
    for _ in range(60):
        condition = some_filter(chance)
        expected = {name for name, metadata in facts.items() if holds(condition, metadata)}
        found = await suite.found("whales", "facts-filtered", mode=mode, top_k=100, filter=filter_of(condition))
        assert set(found) == expected, condition
        assert len(found) == len(expected)
        sizes.add(len(expected))
    assert min(sizes) == 0
    assert max(sizes) > len(facts) / 2


async def test_no_recall_is_lost_to_documents_that_do_not_fit(suite: Retrieval) -> None:
    """The only document that fits would rank last of 400."""
    await suite.create("many-filtered")
    better = [{"document": f"d{number}", "text": "whales " * 5, "metadata": {"shelf": 1}} for number in range(399)]
    last = {"document": "last", "text": f"Whales. {'Something else altogether. ' * 20}", "metadata": {"shelf": 2}}
    for start in range(0, 399, 100):
        await suite.add(*better[start : start + 100], collection="many-filtered")
    await suite.add(last, collection="many-filtered")
    wanted = filter_of({"equals": {"key": "shelf", "value": 2}})
    for mode in (HYBRID, DENSE, SPARSE):
        for fields in ({}, {"explain": True}, {"fusion": search_pb2.Fusion(dbsf=search_pb2.DbsfFusion())}):
            assert await suite.found("whales", "many-filtered", mode=mode, filter=wanted, top_k=3, **fields) == ["last"]
    others = filter_of({"none_of": {"filters": [{"equals": {"key": "shelf", "value": 2}}]}})
    assert "last" not in await suite.found("something else", "many-filtered", filter=others, top_k=100)


async def test_a_change_of_facts_is_effective_at_once(suite: Retrieval) -> None:
    await suite.create("changing")
    ours, theirs = (filter_of({"equals": {"key": "owner", "value": owner}}) for owner in ("us", "them"))
    for owner, found in (("us", [["d"], []]), ("them", [[], ["d"]])):
        await suite.add({"document": "d", "text": WHALES, "metadata": {"owner": owner}}, collection="changing")
        assert [await suite.found("whales", "changing", filter=one) for one in (ours, theirs)] == found


@pytest.mark.parametrize("mode", [HYBRID, DENSE, SPARSE])
async def test_explained_or_not_the_ranking_is_the_same(suite: Retrieval, mode: search_pb2.SearchMode.ValueType) -> None:
    await animals(suite)
    for k in (2, 60):
        fusion = search_pb2.Fusion(rrf=search_pb2.RrfFusion(k=k))
        plain = (await suite.search("which whale sings at night", "animals", mode=mode, fusion=fusion, top_k=8)).hits
        told = (
            await suite.search("which whale sings at night", "animals", mode=mode, fusion=fusion, top_k=8, explain=True)
        ).hits
        assert [hit.score for hit in plain] == pytest.approx([hit.score for hit in told], rel=1e-5)
        assert {hit.chunk for hit in plain} == {hit.chunk for hit in told}
        assert not any(hit.HasField("explanation") for hit in plain)
        assert all(hit.HasField("explanation") for hit in told)


async def animals(suite: Retrieval) -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    words = ["whale", "whales", "sings", "song", "night", "day", "dives", "sleeps", "moon", "sea", "deep", "alone", "loudly"]
    documents = [{"document": f"a{number}", "text": " ".join(chance.choices(words, k=12)) + "."} for number in range(30)]
    await suite.create("animals", request_id="animals")
    await suite.add(*documents, collection="animals")


def fused(hit: search_pb2.Hit, dense: float = 1.0, sparse: float = 1.0) -> float:
    return hit.explanation.dense.normalized_score * dense + hit.explanation.sparse.normalized_score * sparse


async def test_explanations_add_up(suite: Retrieval) -> None:
    await animals(suite)
    weighted = search_pb2.WeightedFusion()
    heavy = search_pb2.WeightedFusion(dense=1, sparse=3)
    for fusion, weights in (
        (search_pb2.Fusion(rrf=search_pb2.RrfFusion()), (1.0, 1.0)),
        (search_pb2.Fusion(dbsf=search_pb2.DbsfFusion()), (1.0, 1.0)),
        (search_pb2.Fusion(weighted=weighted), (0.7, 0.3)),
        (search_pb2.Fusion(weighted=heavy), (0.25, 0.75)),
    ):
        hits = (await suite.search("Which WHALE sings?", "animals", fusion=fusion, explain=True, top_k=10)).hits
        assert len(hits) == 10
        assert [hit.score for hit in hits] == pytest.approx([fused(hit, *weights) for hit in hits])
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        best = min(hits, key=lambda hit: hit.explanation.sparse.rank or 1000).explanation
        assert list(best.matched_terms) == ["whale", "sings"]
        assert 0 < best.coverage < 1
        unexplained = (await suite.search("Which WHALE sings?", "animals", fusion=fusion, top_k=10)).hits
        assert [hit.score for hit in unexplained] == pytest.approx([hit.score for hit in hits], rel=1e-5)


async def test_legs_are_those_of_the_modes(suite: Retrieval) -> None:
    await animals(suite)
    both = (await suite.search("whale song", "animals", explain=True, top_k=30)).hits
    legs: list[tuple[search_pb2.SearchMode.ValueType, Literal["dense", "sparse"]]] = [(DENSE, "dense"), (SPARSE, "sparse")]
    for mode, leg in legs:
        alone = (await suite.search("whale song", "animals", mode=mode, top_k=30)).hits
        scores = {hit.chunk: hit.score for hit in alone}
        for hit in both:
            if hit.explanation.HasField(leg):
                place = getattr(hit.explanation, leg)
                assert scores[hit.chunk] == pytest.approx(place.score, rel=1e-5)
        ranks = sorted(getattr(hit.explanation, leg).rank for hit in both if hit.explanation.HasField(leg))
        assert ranks == list(range(1, len(ranks) + 1))


async def test_a_threshold_looks_beyond_the_first_places(suite: Retrieval) -> None:
    await animals(suite)
    hits = (await suite.search("whale sings", "animals", top_k=30)).hits
    threshold = sorted(hit.relevance for hit in hits)[len(hits) // 2]
    above = [hit.chunk for hit in hits if hit.relevance >= threshold]
    found = await suite.search("whale sings", "animals", top_k=5, min_relevance=threshold - 1e-9)
    assert [hit.chunk for hit in found.hits] == above[:5]
    assert not (await suite.search("whale sings", "animals", min_relevance=1.0)).hits or threshold == 1.0


async def test_diversity_puts_copies_behind(suite: Retrieval) -> None:
    await suite.create("copies")
    copies = [{"document": f"copy{number}", "text": "Whales sing at night."} for number in range(5)]
    await suite.add(*copies, {"document": "other", "text": "Some whales sing by day in warm seas."}, collection="copies")
    for mode in (HYBRID, DENSE, SPARSE):
        plain = await suite.found("whales sing at night", "copies", mode=mode, top_k=2)
        assert all(document.startswith("copy") for document in plain)
        first, second = await suite.found("whales sing at night", "copies", mode=mode, top_k=2, mmr_lambda=0.3)
        assert (first[:4], second) == ("copy", "other")
        kept = await suite.search("whales sing at night", "copies", mode=mode, top_k=6, mmr_lambda=1)
        scores = [hit.score for hit in kept.hits]
        assert scores == sorted(scores, reverse=True)


async def test_neighbors_widen_the_passage(suite: Retrieval) -> None:
    await suite.create("wide")
    text = " ".join(
        f"Sentence {number} speaks of topic{number} at some length, so that chunks fill up." for number in range(200)
    )
    await suite.add({"document": "long", "text": text}, {"document": "short", "text": "topic7 alone."}, collection="wide")
    (narrow,) = (await suite.search("topic100", "wide", mode=SPARSE, top_k=1)).hits
    (wide,) = (await suite.search("topic100", "wide", mode=SPARSE, top_k=1, neighbors=1)).hits
    assert wide.chunk == narrow.chunk
    assert (wide.start, wide.end) != (narrow.start, narrow.end)
    assert wide.start < narrow.start < narrow.end < wide.end
    assert wide.text == text[wide.start : wide.end]
    assert len(wide.text) > 2 * len(narrow.text)
    (edge,) = (await suite.search("topic0", "wide", mode=SPARSE, top_k=1, neighbors=5)).hits
    assert (edge.start, edge.text) == (0, text[: edge.end])
    hits = (await suite.search("topic7 alone", "wide", mode=SPARSE, top_k=1, neighbors=2)).hits
    assert [hit.text for hit in hits] == ["topic7 alone."]


async def test_options_hold_for_several_collections(suite: Retrieval) -> None:
    for name in ("left", "right"):
        await suite.create(name)
        await suite.add({"document": f"{name}1", "text": WHALES, "metadata": {"side": name}}, collection=name)
        await suite.add({"document": f"{name}2", "text": WHALES, "metadata": {"side": "none"}}, collection=name)
    wanted = filter_of({"one_of": {"key": "side", "values": ["left", "right"]}})
    hits = (await suite.search("whales", "left", "right", filter=wanted, explain=True, neighbors=1, mmr_lambda=0.5)).hits
    assert {hit.document for hit in hits} == {"left1", "right1"}


async def test_traditional_and_simplified_chinese_find_each_other(suite: Retrieval) -> None:
    await suite.create("scripts")
    texts = {"traditional": "電腦網絡連接圖書館。", "simplified": "電影院在中山路。".translate(str.maketrans("電", "电"))}
    await suite.add(*({"document": name, "text": text} for name, text in texts.items()), collection="scripts")
    for query, document in (("电脑网络", "traditional"), ("電影院", "simplified")):
        (hit,) = (await suite.search(query, "scripts", explain=True)).hits
        assert (hit.document, hit.text) == (document, texts[document])
        assert hit.text == texts[document][hit.start : hit.end]
        assert hit.explanation.matched_terms[0] == query[:2]


async def test_what_is_refused(suite: Retrieval) -> None:
    await animals(suite)
    nothing = search_pb2.Filter(range=search_pb2.FilterRange(key="n"))
    for fields, field in (
        ({"filter": nothing}, "filter.range"),
        ({"filter": search_pb2.Filter()}, "filter.condition"),
        ({"filter": search_pb2.Filter(exists=search_pb2.FilterExists())}, "filter.exists.key"),
        ({"mmr_lambda": 1.5}, "mmr_lambda"),
        ({"min_relevance": -0.1}, "min_relevance"),
        ({"neighbors": 6}, "neighbors"),
        ({"fusion": search_pb2.Fusion(rrf=search_pb2.RrfFusion(k=0))}, "fusion.rrf.k"),
        ({"fusion": search_pb2.Fusion(weighted=search_pb2.WeightedFusion(dense=0, sparse=0))}, "fusion.weighted"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await suite.search("whales", "animals", **fields)
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert info_of(caught.value).metadata["field"] == field


async def test_bounds_of_times_may_be_anything(suite: Retrieval, facts: dict[str, dict[str, Any]]) -> None:
    del facts
    first, last = timestamp_pb2.Timestamp(), timestamp_pb2.Timestamp()
    first.FromJsonString("0001-01-01T00:00:00Z")
    last.FromJsonString("9999-12-31T23:59:59.999999999Z")
    wanted = search_pb2.Filter(time_range=search_pb2.FilterTimeRange(key="at", gte=first, lte=last))
    found = await suite.search("whales", "facts-filtered", filter=wanted, top_k=100)
    assert found.hits
