"""How many requests wait at a vLLM server, by its own metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.inference.engines.openai import OpenAIEngine
from services.inference.engines.remote import Limits
from services.inference.engines.vllm_queue import VllmQueues
from tests.contract.engines.scripted import scripted_server
from tests.unit.inference.test_models import until

if TYPE_CHECKING:
    from tests.contract.engines.scripted import Exchange

METRICS = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 8.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 1.5e1
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.2
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.95
"""


async def test_queues_are_read_and_forgotten_when_nobody_tells_them() -> None:
    async def tell(exchange: Exchange) -> None:
        asked.append(exchange.head.split()[1])
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(METRICS)}\r\n\r\n"
        await exchange.send(head.encode() + METRICS)

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(404, {"error": "no such page"})

    asked: list[str] = []
    async with scripted_server() as (server, url):
        server.script = tell
        engine = OpenAIEngine(f"{url}/v1", limits=Limits(connect=1))
        async with VllmQueues([(engine, f"{url}/v1/")], Limits(connect=1), seconds=0.02) as queues:
            assert queues.waiting(engine) == 0
            await until(lambda: queues.waiting(engine) == pytest.approx(18 + 4))
            assert queues.standing() == [("vllm", 18.0, 0.95)]
            assert asked[0] == "/metrics"
            server.script = refuse
            await until(lambda: queues.waiting(engine) == 0)
        await engine.close()
