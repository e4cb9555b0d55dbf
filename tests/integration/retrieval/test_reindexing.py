"""A collection gets a new index under another embedder while it serves."""

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from penstock.retrieval.v1 import collection_service_pb2, reindexing_pb2, reindexing_service_pb2_grpc, search_pb2
from penstock.retrieval.v1 import reindexing_service_pb2 as messages

from tests.support.hashing_embedder import DIMENSIONS, NAME, NARROW, NARROW_DIMENSIONS
from tests.support.retrieval import Retrieval, reason_of, retrieval

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.postgres import Postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATE = reindexing_pb2
BY_MEANING = search_pb2.SEARCH_MODE_DENSE
WORDS = ["valve", "pump", "boiler", "gauge", "flange", "rotor", "shaft", "nozzle"]
WORDS += ["gasket", "piston", "lever", "spring", "bolt", "washer", "bearing", "coupling"]


def texts(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Documents with a sentence of their own each."""
    return [
        {
            "document": f"d{number}",
            "text": f"Part {number} is a {WORDS[number % 16]} beside the {WORDS[number // 16 % 16]} number{number} and it "
            f"must be oiled by the engineer every week{number} without fail.",
        }
        for number in range(first, first + count)
    ]


class Work:
    """Calls about reindexings."""

    def __init__(self, suite: Retrieval) -> None:
        self.suite = suite
        self.stub: Any = reindexing_service_pb2_grpc.ReindexingServiceStub(suite.service.channel)

    async def start(self, collection: str, **fields: Any) -> reindexing_pb2.Reindexing:
        request = messages.ReindexRequest(collection=collection, **fields)
        return (await self.stub.Reindex(request, timeout=20)).reindexing  # type: ignore[no-any-return]  # stubs are Any

    async def get(self, reindexing: str) -> reindexing_pb2.Reindexing:
        request = messages.GetReindexingRequest(reindexing=reindexing)
        return (await self.stub.GetReindexing(request, timeout=20)).reindexing  # type: ignore[no-any-return]  # as above

    async def becomes(
        self, reindexing: str, *states: reindexing_pb2.ReindexingState.ValueType, seconds: float = 40
    ) -> reindexing_pb2.Reindexing:
        async with asyncio.timeout(seconds):
            while (now := await self.get(reindexing)).state not in states:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.1)
        return now

    async def dimensions(self, collection: str) -> tuple[str, int]:
        request = collection_service_pb2.GetCollectionRequest(collection=collection)
        found = (await self.suite.collections.GetCollection(request, timeout=20)).collection
        return found.embedder, found.dimensions


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def work(suite: Retrieval) -> Work:
    return Work(suite)


@pytest_asyncio.fixture(loop_scope="module")
async def fragile(postgres: "Postgres", tmp_path: "Path") -> "AsyncIterator[Work]":
    """On a suite of its own, for what is killed."""
    async with retrieval(tmp_path, postgres) as running:
        yield Work(running)


async def test_the_embedder_changes_while_queries_and_documents_come(suite: Retrieval, work: Work) -> None:
    await suite.create("live")
    await suite.add(*texts(60), collection="live")
    suite.embedder.delay = 0.05
    ended = asyncio.Event()
    failures: list[str] = []

    async def ask() -> int:
        asked = 0
        while not ended.is_set():
            found = await suite.found("boiler number18 oiled week18", "live", mode=BY_MEANING)
            if found[:1] != ["d18"]:
                failures.append(str(found))
            asked += 1
        return asked

    asking = asyncio.create_task(ask())
    started = await work.start("live", embedder=NARROW, keep={"seconds": 60})
    assert (started.state, started.embedder, started.dimensions) == (STATE.REINDEXING_STATE_BUILDING, NARROW, NARROW_DIMENSIONS)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work.start("live")
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "REINDEX_STATE")
    await suite.add(*texts(4, 60), collection="live")
    await suite.delete("d3", "live")
    suite.embedder.delay = 0.0
    watching = work.stub.WatchReindexing(messages.WatchReindexingRequest(reindexing=started.reindexing), timeout=60)
    seen = [response.reindexing async for response in watching]
    assert [one.done_count for one in seen] == sorted(one.done_count for one in seen)
    done = await work.becomes(started.reindexing, STATE.REINDEXING_STATE_SERVING)
    assert done.gate.passed
    assert not done.gate.judged
    assert done.gate.query_count > 30
    assert done.gate.new.mean > 0.8
    assert await work.dimensions("live") == (NARROW, NARROW_DIMENSIONS)
    for number in (0, 18, 59, 60, 63):
        query = f"{WORDS[number % 16]} number{number} week{number}"
        assert (await suite.found(query, "live", mode=BY_MEANING))[0] == f"d{number}"
    assert "d3" not in await suite.found("gauge number3 week3", "live")
    ended.set()
    assert await asking > 3
    assert failures == []

    await suite.add(*texts(1, 70), collection="live")
    await suite.delete("d4", "live")
    back = await work.stub.RollBackReindexing(messages.RollBackReindexingRequest(reindexing=started.reindexing), timeout=30)
    assert back.reindexing.state == STATE.REINDEXING_STATE_ROLLED_BACK
    assert await work.dimensions("live") == (NAME, DIMENSIONS)
    assert (await suite.found("shaft number70 week70", "live", mode=BY_MEANING))[0] == "d70"
    assert "d4" not in await suite.found("flange number4 week4", "live")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work.stub.RollBackReindexing(messages.RollBackReindexingRequest(reindexing=started.reindexing), timeout=30)
    assert reason_of(caught.value) == "REINDEX_STATE"


async def test_a_worse_index_does_not_serve(suite: Retrieval, work: Work) -> None:
    await suite.create("gated")
    await suite.add(*texts(20), collection="gated")
    # What is asked for cannot be reached: the gate must say no, and nothing changes.
    suite.embedder.muddled = True
    try:
        started = await work.start("gated", embedder=NARROW)
        ended = await work.becomes(started.reindexing, STATE.REINDEXING_STATE_FAILED)
    finally:
        suite.embedder.muddled = False
    assert not ended.gate.passed
    assert ended.gate.difference.mean < -0.02
    assert "finds less" in ended.note
    assert await work.dimensions("gated") == (NAME, DIMENSIONS)
    assert (await suite.found("gauge number3 week3", "gated", mode=BY_MEANING))[0] == "d3"


async def test_a_call_decides_and_may_cancel(suite: Retrieval, work: Work) -> None:
    await suite.create("manual")
    await suite.add(*texts(5), collection="manual")
    first = await work.start("manual", embedder=NARROW, manual=True, chunking={"target_tokens": 64})
    ready = await work.becomes(first.reindexing, STATE.REINDEXING_STATE_READY)
    assert ready.gate.query_count == 5
    assert (await work.dimensions("manual"))[0] == NAME
    for _ in range(2):
        request = messages.CancelReindexingRequest(reindexing=first.reindexing)
        cancelled = (await work.stub.CancelReindexing(request, timeout=20)).reindexing
        assert cancelled.state == STATE.REINDEXING_STATE_CANCELLED
    second = await work.start("manual", embedder=NARROW, manual=True, gate={"skip": True}, chunking={"target_tokens": 64})
    await work.becomes(second.reindexing, STATE.REINDEXING_STATE_READY)
    switch = messages.SwitchReindexingRequest(reindexing=second.reindexing)
    assert (await work.stub.SwitchReindexing(switch, timeout=20)).reindexing.state == STATE.REINDEXING_STATE_SERVING
    got = await suite.collections.GetCollection(collection_service_pb2.GetCollectionRequest(collection="manual"), timeout=20)
    assert (got.collection.embedder, got.collection.chunking.target_tokens) == (NARROW, 64)
    listed = await work.stub.ListReindexings(messages.ListReindexingsRequest(collection="manual"), timeout=20)
    assert [one.reindexing for one in listed.reindexings] == [second.reindexing, first.reindexing]


async def test_other_tenants_see_none_of_it(suite: Retrieval, work: Work) -> None:
    await suite.create("secret")
    started = await work.start("secret", manual=True)
    foreign = (("x-penstock-tenant", "other"),)
    for uid in (started.reindexing, str(uuid.uuid4())):
        for method, request in (
            (work.stub.GetReindexing, messages.GetReindexingRequest(reindexing=uid)),
            (work.stub.CancelReindexing, messages.CancelReindexingRequest(reindexing=uid)),
            (work.stub.SwitchReindexing, messages.SwitchReindexingRequest(reindexing=uid)),
            (work.stub.RollBackReindexing, messages.RollBackReindexingRequest(reindexing=uid)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(request, timeout=20, metadata=foreign)
            assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.NOT_FOUND, "REINDEX_NOT_FOUND")


async def test_a_kill_loses_nothing(fragile: Work) -> None:
    suite = fragile.suite
    await suite.create()
    await suite.add(*texts(40))
    suite.embedder.delay = 0.1
    started = await fragile.start("docs", embedder=NARROW)
    async with asyncio.timeout(20):
        while (now := await fragile.get(started.reindexing)).done_count < 5:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    assert now.state == STATE.REINDEXING_STATE_BUILDING
    await suite.service.kill()
    suite.embedder.delay = 0.0
    await suite.service.start()
    assert (await fragile.get(started.reindexing)).done_count >= now.done_count
    await fragile.becomes(started.reindexing, STATE.REINDEXING_STATE_SERVING, seconds=60)
    for number in (0, 20, 39):
        query = f"{WORDS[number % 16]} number{number} week{number}"
        assert (await suite.found(query, mode=BY_MEANING))[0] == f"d{number}"
