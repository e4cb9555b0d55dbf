"""The shared cache in a real Valkey, which is killed and halted meanwhile: only speed may be lost."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from penstock.inference.v1 import (
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
)

from services.chassis.cache.redis_cache import RedisCache
from services.chassis.cache.tiers import Tiers
from tests.integration.inference.processes import Service
from tests.support.valkey import Valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    server = Valkey(tmp_path)
    await server.start()
    yield server
    server.kill()


@pytest.fixture
async def cache(valkey: Valkey) -> AsyncIterator[RedisCache]:
    # The machine that runs tests may be busier than one that serves.
    cache = RedisCache(valkey.url, timeout=1.0)
    yield cache
    await cache.close()


async def kept(cache: RedisCache, key: bytes, value: bytes, seconds: float = 60) -> None:
    """Puts a value in, and returns once it is there."""
    async with asyncio.timeout(20):
        while await cache.get([key]) != [value]:
            cache.put({key: value}, seconds)
            await asyncio.sleep(0.02)


async def test_processes_share_what_one_of_them_keeps(cache: RedisCache, valkey: Valkey) -> None:
    Tiers("responses", 1_000_000, 60, cache).put({b"\xff\x00": b"\x00value"})
    other = RedisCache(valkey.url, timeout=1.0)
    async with asyncio.timeout(10):
        # It is written in the background.
        while (await Tiers("responses", 1_000_000, 60, other).get_all([b"none", b"\xff\x00"])) != [None, b"\x00value"]:
            pass
    await other.close()


async def test_what_is_old_leaves_the_server_by_itself(cache: RedisCache) -> None:
    await kept(cache, b"k", b"v", seconds=0.3)
    async with asyncio.timeout(10):
        while await cache.get([b"k"]) == [b"v"]:
            pass


async def test_a_killed_server_costs_nobody_time_and_is_used_again_when_it_is_back(cache: RedisCache, valkey: Valkey) -> None:
    tiers = Tiers("responses", 1_000_000, 60, cache)
    await kept(cache, b"k", b"v")
    valkey.kill()
    tiers.put({b"mine": b"value"})
    started = time.monotonic()
    for _ in range(100):
        assert await tiers.get(b"mine") == b"value"
        assert await cache.get([b"k"]) == [None]
    assert time.monotonic() - started < 1.0
    assert cache.is_resting
    await valkey.start()
    await kept(cache, b"k", b"again")


async def test_a_server_that_hangs_is_waited_for_once_and_not_for_long(valkey: Valkey) -> None:
    cache = RedisCache(valkey.url)
    await kept(cache, b"k", b"v")
    valkey.send(signal.SIGSTOP)
    try:
        started = time.monotonic()
        for _ in range(20):
            assert await cache.get([b"k"]) == [None]
        # 50 ms once, not twenty times: the rest of the allowance is for a busy machine.
        assert time.monotonic() - started < 0.5
    finally:
        valkey.send(signal.SIGCONT)
    await kept(cache, b"k", b"v")
    await cache.close()


async def test_a_request_that_is_cancelled_while_it_looks_mixes_up_no_replies(cache: RedisCache) -> None:
    for number in range(50):
        await kept(cache, b"%d" % number, b"value %d" % number)
        looking = asyncio.create_task(cache.get([b"0"]))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        assert await cache.get([b"%d" % number]) == [b"value %d" % number]


async def test_two_services_share_answers_and_vectors_until_the_server_dies(valkey: Valkey, tmp_path: Path) -> None:
    services = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        services.append(Service(tmp_path / name, REDIS_URL=valkey.url))
    try:
        async with grpc.aio.insecure_channel(services[0].address) as one, grpc.aio.insecure_channel(services[1].address) as two:
            request = generation_service_pb2.GenerateRequest(
                prompt="How long is the penstock?", passages=[generation_pb2.Passage(text="The penstock is 412 metres long.")]
            )
            first, second = (generation_service_pb2_grpc.GenerationServiceStub(channel) for channel in (one, two))
            made: Any = await first.Generate(request)
            assert not made.cached
            async with asyncio.timeout(10):
                while not (shared := await second.Generate(request)).cached:
                    # It was written a moment too late, or the machine was too busy to look: the next one is another question.
                    request.prompt += "?"
                    made = await first.Generate(request)
                    await asyncio.sleep(0.2)
            assert (shared.text, shared.model, shared.usage) == (made.text, made.model, made.usage)
            valkey.kill()
            again: Any = await second.Generate(request)
            assert (again.text, again.cached) == (made.text, True)
            request.prompt = "How long is it?"
            assert not (await second.Generate(request)).cached
            embeddings: Any = embedding_service_pb2_grpc.EmbeddingServiceStub(two)
            texts = embedding_service_pb2.EmbedRequest(inputs=["water", "steel", "water"])
            vectors = [await embeddings.Embed(texts) for _ in range(2)]
            assert [list(one.values) for one in vectors[0].embeddings] == [list(one.values) for one in vectors[1].embeddings]
    finally:
        for service in services:
            assert service.stop() == 0
