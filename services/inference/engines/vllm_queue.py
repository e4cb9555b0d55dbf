"""How many requests wait at vLLM servers, and how full their KV caches are, by their own /metrics.

For balancing, the requests of other clients count as well; and a server whose KV cache is nearly full has its next request
wait, or interrupts another one for it, however short its queue is.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.chassis.errors import Failure
from services.inference.engines.remote import RemoteServer
from services.inference.repetition import repeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from services.inference.engine import Engine
    from services.inference.engines.remote import Limits

# One series a model; with several engine processes one for each of them.
NAME: Final = "vllm"
_NUMBER: Final = rb"(?:\{[^}]*\})?\s+(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*$"
# From 0 to 1; older releases call it after the GPU.
_KV: Final = re.compile(rb"^vllm:(?:gpu|kv)_cache_usage_perc" + _NUMBER, re.MULTILINE)
# From this part of the cache on a server counts as busier, and when it is full by as many requests as this.
_TIGHT: Final = 0.9
_FULL_COUNTS: Final = 8.0
_WAITING: Final = re.compile(rb"^vllm:num_requests_waiting" + _NUMBER, re.MULTILINE)


class VllmQueues:
    """Asks servers now and then how they stand. One that has no such metrics counts as having no queue and an empty cache.

    Args:
        servers: Engines with the base URLs of their servers.
        limits: How long a server may take.
        seconds: How often to ask.
    """

    def __init__(self, servers: Iterable[tuple[Engine, str]], limits: Limits, seconds: float = 1.0) -> None:
        self._servers = {id(engine): RemoteServer(engine.name, _root(url), limits=limits) for engine, url in servers}
        self._seconds = seconds
        self._waiting: dict[int, float] = {}
        self._kv: dict[int, float] = {}
        self._order = list(self._servers)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begins to ask."""
        self._tasks = [
            asyncio.create_task(repeat("asking vLLM for its queue", partial(self._ask, key, server), self._seconds))
            for key, server in self._servers.items()
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops asking, and closes the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers.values():
            await server.close()

    def waiting(self, engine: Engine) -> float:
        """How many requests wait at the engine's server, as of a moment ago; more where its KV cache is nearly full."""
        kv = self._kv.get(id(engine), 0.0)
        tight = max(0.0, kv - _TIGHT) / (1 - _TIGHT)
        return self._waiting.get(id(engine), 0.0) + _FULL_COUNTS * tight

    def standing(self) -> list[tuple[str, float, float]]:
        """Of each server, called as backends are: its queue, and how full its KV cache is, from 0 to 1."""
        return [
            (NAME if place == 1 else f"{NAME}#{place}", self._waiting.get(key, 0.0), self._kv.get(key, 0.0))
            for place, key in enumerate(self._order, 1)
        ]

    async def _ask(self, key: int, server: RemoteServer) -> None:
        waiting = kv = 0.0
        # An answer that does not come tells nothing here: probes find out whether the server is there.
        with suppress(Failure, TimeoutError):
            async with asyncio.timeout(self._seconds * 2):
                told = await server.get("/metrics")
                waiting, kv = waiting_in(told), kv_in(told)
        self._waiting[key], self._kv[key] = waiting, kv
        await asyncio.sleep(self._seconds)


def waiting_in(metrics: bytes) -> float:
    """How many requests wait, by vLLM's metrics. What is no number there counts as none."""
    return sum(float(number) for number in _WAITING.findall(metrics))


def kv_in(metrics: bytes) -> float:
    """How full the KV cache is, from 0 to 1: that of the fullest engine process."""
    return min(1.0, max((float(number) for number in _KV.findall(metrics)), default=0.0))


class VllmGauges(Collector):
    """Tells Prometheus how the servers stand; registers itself."""

    def __init__(self, queues: VllmQueues, registry: CollectorRegistry = REGISTRY) -> None:
        self._queues = queues
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus gets."""
        waiting = GaugeMetricFamily(
            "penstock_inference_engine_waiting", "Requests that wait at a vLLM server, whoever sent them.", labels=("backend",)
        )
        kv = GaugeMetricFamily(
            "penstock_inference_engine_kv_cache_usage", "How full a vLLM server's KV cache is, 0 to 1.", labels=("backend",)
        )
        for backend, queue, usage in self._queues.standing():
            waiting.add_metric((backend,), queue)
            kv.add_metric((backend,), usage)
        yield waiting
        yield kv


def _root(url: str) -> str:
    """The server's address without the API's version."""
    return re.sub(r"/v\d+/?$", "", url.rstrip("/"))
