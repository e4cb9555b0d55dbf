"""Limits of keys and tenants, over two gateways that share a Redis, and without it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from penstock.retrieval.v1 import search_service_pb2, search_service_pb2_grpc

from services.gateway.authorizer.keyring import Keyring, Limits, new_key, write_keyring
from services.gateway.authorizer.limits import WINDOW_SECONDS, OwnCounters, Party
from services.gateway.authorizer.redis_counters import RedisCounters
from services.gateway.authorizer.scopes import ALL
from tests.integration.gateway.launched import environment, running, wait_for
from tests.support.valkey import Valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.gateway.backends import Backends
    from tests.integration.gateway.launched import Gateway

SEARCH, BODY = "/v1/search", {"query": "q"}
STREAM = {"prompt": "p", "model": "endless"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    started = Valkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(started.start())
    yield started
    started.kill()


@pytest.fixture(scope="module")
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory, now: datetime) -> dict[str, str]:
    """Keys by their names, and under `file` where they are kept."""
    limits = {"few": Limits(3), "two": Limits(concurrency=2), "free": Limits(), "one": Limits(concurrency=1), "rpc": Limits(1)}
    made = {name: new_key(name, "acme", ALL, now=now, limits=limit) for name, limit in limits.items()}
    made |= {name: new_key(name, "small", ALL, now=now) for name in ("small-a", "small-b")}
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keyring(file, Keyring(tuple(key for key, _ in made.values()), {"small": Limits(4)}))
    return {"file": str(file), **{name: secret for name, (_, secret) in made.items()}}


@pytest.fixture(scope="module")
def pair(
    backends: Backends, redis: Valkey, secrets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Gateway]]:
    with ExitStack() as stack:
        told = {"API_KEYS_FILE": secrets["file"], "REDIS_URL": redis.url}
        folders = [tmp_path_factory.mktemp("limited") for _ in range(2)]
        gateways = [stack.enter_context(running(environment(folder, backends.ports, **told))) for folder in folders]
        for gateway in gateways:
            wait_for(lambda at=gateway: at.http.get("/healthz").status_code == 200)
        yield gateways


def ask(gateway: Gateway, secret: str) -> Any:
    return gateway.http.post(SEARCH, json=BODY, headers={"x-api-key": secret})


def test_requests_are_counted_over_all_gateways(pair: list[Gateway], secrets: dict[str, str]) -> None:
    answers = [ask(pair[number % 2], secrets["few"]) for number in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in answers] == ["2", "1", "0", "0"]
    refused = answers[-1]
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    info, retry, *_ = refused.json()["details"]
    assert (refused.json()["code"], info["reason"], retry["@type"].rpartition(".")[2]) == (8, "RATE_LIMITED", "RetryInfo")
    openai = pair[0].http.get("/openai/v1/models", headers={"authorization": f"Bearer {secrets['few']}"})
    assert (openai.status_code, openai.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(openai.headers["retry-after"]) >= 1
    assert ask(pair[0], secrets["free"]).status_code == 200


def test_grpc_is_told_when_to_come_back(pair: list[Gateway], secrets: dict[str, str]) -> None:
    metadata = (("x-api-key", secrets["rpc"]),)
    with grpc.insecure_channel(pair[0].address) as channel:
        stub = search_service_pb2_grpc.SearchServiceStub(channel)
        request = search_service_pb2.SearchRequest(query="q")
        stub.Search(request, timeout=5, metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Search(request, timeout=5, metadata=metadata)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict((*error.initial_metadata(), *error.trailing_metadata()))
    status, retry = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]), error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= WINDOW_SECONDS


def test_a_tenant_s_keys_share_its_limit(pair: list[Gateway], secrets: dict[str, str]) -> None:
    answers = [ask(pair[number % 2], secrets[f"small-{'ab'[number % 2]}"]) for number in range(5)]
    assert [one.status_code for one in answers] == [200] * 4 + [429]
    assert answers[-1].json()["details"][0]["metadata"]["of"] == "tenant"


def test_calls_under_way_count_until_they_end(pair: list[Gateway], secrets: dict[str, str]) -> None:
    headers = {"x-api-key": secrets["two"]}
    with ExitStack() as stack:
        for gateway in pair:
            stream = stack.enter_context(gateway.http.stream("POST", "/v1/generate:stream", json=STREAM, headers=headers))
            assert stream.status_code == 200
        refused = ask(pair[0], secrets["two"])
        assert (refused.status_code, refused.json()["details"][0]["metadata"]["limit"]) == (429, "concurrency")
    for gateway in pair:
        wait_for(lambda at=gateway: ask(at, secrets["two"]).status_code == 200, seconds=5)


def test_without_redis_each_gateway_counts_for_itself(pair: list[Gateway], redis: Valkey, secrets: dict[str, str]) -> None:
    redis.kill()
    try:
        headers = {"x-api-key": secrets["one"]}
        with ExitStack() as stack:
            for gateway in pair:
                stream = stack.enter_context(gateway.http.stream("POST", "/v1/generate:stream", json=STREAM, headers=headers))
                assert stream.status_code == 200
            assert {ask(gateway, secrets["one"]).status_code for gateway in pair} == {429}
        wait_for(lambda: ask(pair[0], secrets["one"]).status_code == 200, seconds=5)
    finally:
        asyncio.run(redis.start())


async def test_both_counters_count_alike(redis: Valkey) -> None:
    shared, own = RedisCounters(redis.url), OwnCounters()
    key, tenant = Party("key", "t", "k", Limits(5, 3)), Party("tenant", "t", "t", Limits(7))
    told = []
    for number in range(9):
        parties, lease = ((key, tenant) if number < 6 else (tenant,)), f"lease-{number}"
        both = [await shared.take(parties, lease), own.take_now(parties, lease, 1000.0)]
        told.append([(one.refused_by, one.is_busy, one.remaining) for one in both])
        if both[0].refused_by < 0:
            await shared.release(parties, lease)
            own.release_now(parties, lease)
    assert [one for one, _ in told] == [one for _, one in told]
    assert [one[0] for one, _ in told] == [-1] * 5 + [0, -1, -1, 0]
    await shared.close()
