"""Two workers and the process they borrow models from, behind a real Envoy, over an engine that counts what reaches it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from penstock.inference.v1 import (
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    policy_pb2,
    policy_service_pb2,
    policy_service_pb2_grpc,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.engines import tiny_llama
from tests.faults import slow_engine
from tests.integration.gateway.launched import Gateway, environment, running
from tests.integration.inference.processes import Service, reason_of, status_of, wait_until
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.slow_engine import SlowEngine

# Of 8 permits two are kept for interactive requests, so that 6 are there for what has the default priority.
ROOM, OPEN_ROOM, TENANT_ROOM = 8, 6, 3


@dataclass
class Workers:
    lender: Service
    workers: list[Service]
    metrics: list[str]
    gateway: Gateway
    engine: SlowEngine
    folder: Path
    settings: dict[str, str]

    def restarted(self, number: int) -> None:
        """A new process takes the place of a killed one, at its address."""
        self.workers[number] = Service(
            self.folder, address=self.workers[number].address, **self.settings, WORKER=str(number + 1)
        )

    def generate(self, **fields: Any) -> httpx.Response:
        body = {"model": "brief", "prompt": "x", **fields}
        return self.gateway.http.post("/v1/generate", json=body)

    def burst(self, number: int, **fields: Any) -> list[int]:
        with ThreadPoolExecutor(number) as pool:
            return list(pool.map(lambda _: self.generate(**fields).status_code, range(number)))

    def waiting(self) -> float:
        """How many requests wait at both, by their own metrics."""
        return sum(_sum(address, "penstock_inference_queue_depth") for address in self.metrics)

    def answered(self) -> list[float]:
        """How many generations each worker has ended, by its own metrics."""
        return [_sum(address, "penstock_inference_requests_total") for address in self.metrics]


def _sum(address: str, name: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"http://{address}/metrics").text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("workers")
    tiny_llama.build(folder / "models", "tiny")
    metrics = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with ExitStack() as stack:
        engine = stack.enter_context(slow_engine.running())
        shared = {"OPENAI_BASE_URL": f"{engine.url}/v1", "AUTO_MODEL": "extractive", "WORKERS": "2", "CACHE_BYTES": "0"}
        shared |= {"MAX_CONCURRENCY": str(ROOM), "TENANT_CONCURRENCY": str(TENANT_ROOM), "INTER_TOKEN_SECONDS": "30"}
        lender = Service(folder, **shared, WORKER="0")
        settings = {**shared, "ENGINES_ADDRESS": lender.address}
        with ThreadPoolExecutor(2) as pool:
            workers = list(
                pool.map(
                    lambda number: Service(folder, **settings, WORKER=str(number + 1), METRICS_ADDRESS=metrics[number]),
                    range(2),
                )
            )
        addresses = ",".join(worker.address for worker in workers)
        ports = {"inference": 1, "retrieval": free_port(), "experiments": free_port()}
        given = environment(folder, ports, INFERENCE_ADDRESS=addresses)
        gateway = stack.enter_context(running(given))
        house = Workers(lender, workers, metrics, gateway, engine, folder, settings)
        wait_until(lambda: house.generate(model="extractive").status_code == 200, 20)
        yield house
        assert [one.stop() for one in (*house.workers, house.lender)] == [0, 0, 0]


def test_both_work_and_no_more_than_the_room_reaches_the_engine(house: Workers) -> None:
    before = house.answered()
    house.engine.peak = 0
    assert set(house.burst(30)) == {200}
    assert house.engine.peak == OPEN_ROOM
    assert all(after > least for after, least in zip(house.answered(), before, strict=True))


def test_a_tenant_has_its_share_over_both(house: Workers) -> None:
    house.engine.peak = 0
    assert set(house.burst(18, user="greedy")) == {200}
    assert house.engine.peak == TENANT_ROOM


def test_a_class_has_its_reserve_over_both(house: Workers) -> None:
    with streams(house, OPEN_ROOM), ThreadPoolExecutor(4) as pool:
        urgent = [pool.submit(house.generate, priority="PRIORITY_INTERACTIVE") for _ in range(4)]
        assert {one.result().status_code for one in urgent} == {200}


def test_a_full_queue_refuses_with_a_time_to_come_back_and_those_who_leave_make_room(house: Workers) -> None:
    # 64 requests of this class may wait, at both workers together.
    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/generate", json={"model": "brief", "prompt": "x", "priority": "PRIORITY_SYSTEM"})

    async def crowd() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=80)
        async with httpx.AsyncClient(base_url=house.gateway.http.base_url, timeout=20, limits=limits) as client:
            tasks = [asyncio.create_task(ask(client)) for _ in range(70)]
            deadline = time.monotonic() + 10
            while (house.waiting(), sum(task.done() for task in tasks)) != (64, 6):
                assert time.monotonic() < deadline, [house.waiting(), sum(task.done() for task in tasks)]
                await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            return [one for one in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(one, httpx.Response)]

    with streams(house, OPEN_ROOM):
        refused = asyncio.run(crowd())
        wait_until(lambda: house.waiting() == 0)
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert {"OVERLOADED"} == {detail["reason"] for detail in answer.json()["details"] if "reason" in detail}
        assert any("retry_delay" in detail for detail in answer.json()["details"])
    assert house.generate(priority="PRIORITY_SYSTEM").status_code == 200


def test_models_are_there_once_and_all_workers_see_the_same(house: Workers) -> None:
    with grpc.insecure_channel(house.workers[0].address) as one, grpc.insecure_channel(house.workers[1].address) as other:
        first, second = (model_service_pb2_grpc.ModelServiceStub(channel) for channel in (one, other))
        *_, loaded = first.LoadModel(model_service_pb2.LoadModelRequest(model="tiny"), timeout=20)
        assert loaded.finished.model.state == model_pb2.MODEL_STATE_READY
        listed = {model.model: model for model in second.ListModels(model_service_pb2.ListModelsRequest()).models}
        assert listed["tiny"].state == model_pb2.MODEL_STATE_READY
        assert listed["all-minilm-l6-v2"].state == model_pb2.MODEL_STATE_READY
        systems = [stub.GetSystem(model_service_pb2.GetSystemRequest()).system for stub in (first, second)]
        loaded_models = [[model.model for model in system.loaded_models] for system in systems]
        assert loaded_models[0] == loaded_models[1]
        assert "tiny" in loaded_models[0]
        generator = generation_service_pb2_grpc.GenerationServiceStub(other)
        request = generation_service_pb2.GenerateRequest(model="tiny", prompt="hello", max_tokens=5)
        assert generator.Generate(request, timeout=20).usage.output_tokens == 5
        second.UnloadModel(model_service_pb2.UnloadModelRequest(model="tiny"), timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            first.UnloadModel(model_service_pb2.UnloadModelRequest(model="tiny"), timeout=20)
        assert reason_of(status_of(caught.value)) == "MODEL_NOT_LOADED"


def test_both_embed_alike(house: Workers) -> None:
    vectors = []
    for worker in house.workers:
        with grpc.insecure_channel(worker.address) as channel:
            stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
            answer = stub.Embed(embedding_service_pb2.EmbedRequest(inputs=["a river", "a mountain"]), timeout=20)
            assert answer.usage.input_tokens > 4
            vectors.append([list(one.values) for one in answer.embeddings])
    assert vectors[0] == vectors[1]
    assert len(vectors[0][0]) == 384


def test_a_policy_given_to_one_is_the_others_too(house: Workers) -> None:
    with grpc.insecure_channel(house.workers[0].address) as one, grpc.insecure_channel(house.workers[1].address) as other:
        first, second = (policy_service_pb2_grpc.PolicyServiceStub(channel) for channel in (one, other))
        alias = policy_pb2.Alias(alias="quick", choices=[policy_pb2.WeightedModel(model="brief")])
        given = first.UpdatePolicy(policy_service_pb2.UpdatePolicyRequest(policy=policy_pb2.Policy(aliases=[alias])))
        wait_until(lambda: second.GetPolicy(policy_service_pb2.GetPolicyRequest()).revision == given.revision)
        assert set(house.burst(4, model="quick")) == {200}
        first.UpdatePolicy(policy_service_pb2.UpdatePolicyRequest(policy=policy_pb2.Policy()))
        wait_until(lambda: not second.GetPolicy(policy_service_pb2.GetPolicyRequest()).policy.aliases)


def test_a_killed_worker_harms_only_its_own_and_its_permits_return(house: Workers) -> None:
    with streams(house, OPEN_ROOM) as running:
        wait_until(lambda: house.engine.in_flight == OPEN_ROOM)
        house.workers[1].kill()
        wait_until(lambda: house.engine.in_flight < OPEN_ROOM)
        own = house.engine.in_flight
        assert 0 < own < OPEN_ROOM, "Envoy spreads streams over both"
        # Its permits are there again at once, though nobody has taken its place, and no request goes to it any more.
        assert [house.generate().status_code for _ in range(20)] == [200] * 20
        with streams(house, OPEN_ROOM - own):
            wait_until(lambda: house.engine.in_flight == OPEN_ROOM)
            time.sleep(0.3)
            assert house.engine.in_flight == OPEN_ROOM, "and no more than those"
        wait_until(lambda: sum(stream.is_over for stream in running) == OPEN_ROOM - own)
        assert all(stream.failed for stream in running if stream.is_over)
    house.restarted(1)
    house.engine.peak = 0
    assert set(house.burst(12)) == {200}
    assert house.engine.peak <= OPEN_ROOM


def test_the_models_come_back_with_their_process_and_the_rest_goes_on(house: Workers) -> None:
    house.lender.kill()
    assert set(house.burst(6)) == {200}
    house.lender = Service(house.folder, address=house.lender.address, **house.settings, WORKER="0")
    for worker in house.workers:
        with grpc.insecure_channel(worker.address) as channel:
            stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
            wait_until(lambda stub=stub: _embeds(stub), 4)


def _embeds(stub: Any) -> bool:
    try:
        stub.Embed(embedding_service_pb2.EmbedRequest(inputs=["a river"]), timeout=5)
    except grpc.RpcError as error:
        status: Any = error
        assert status.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}
        return False
    return True


class Stream(threading.Thread):
    """A client that reads an endless stream until it is told to leave."""

    def __init__(self, house: Workers) -> None:
        super().__init__()
        self.is_over = False
        self.failed = False
        self._left = threading.Event()
        self.opened = threading.Event()
        self._http = house.gateway.http

    def run(self) -> None:
        body = {"model": "slow", "prompt": "x"}
        try:
            with self._http.stream("POST", "/v1/generate:stream", json=body, headers={"accept": "text/event-stream"}) as answer:
                for line in answer.iter_lines():
                    self.opened.set()
                    if self._left.is_set():
                        return
                    if line.startswith("data:") and "finished" in json.loads(line[5:]):
                        break
        except httpx.TransportError:
            pass
        self.failed = True
        self.is_over = True

    def leave(self) -> None:
        self._left.set()
        self.join(10)


@contextmanager
def streams(house: Workers, number: int) -> Iterator[list[Stream]]:
    opened = [Stream(house) for _ in range(number)]
    for stream in opened:
        stream.start()
    for stream in opened:
        assert stream.opened.wait(10)
    try:
        yield opened
    finally:
        for stream in opened:
            stream.leave()
        wait_until(lambda: house.engine.in_flight <= 0 or not any(stream.is_alive() for stream in opened))
