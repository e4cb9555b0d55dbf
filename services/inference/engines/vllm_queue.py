"""How many requests wait at vLLM servers, by their own /metrics: for balancing, those of other clients count as well."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from services.chassis.errors import Failure
from services.inference.engines.remote import RemoteServer
from services.inference.repetition import repeat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.inference.engine import Engine
    from services.inference.engines.remote import Limits

# One series a model; with several engine processes one for each of them.
_WAITING: Final = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}]*\})?\s+(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*$", re.MULTILINE)


class VllmQueues:
    """Asks servers now and then how many requests wait there. One that has no such metric counts as having no queue.

    Args:
        servers: Engines with the base URLs of their servers.
        limits: How long a server may take.
        seconds: How often to ask.
    """

    def __init__(self, servers: Iterable[tuple[Engine, str]], limits: Limits, seconds: float = 1.0) -> None:
        self._servers = {id(engine): RemoteServer(engine.name, _root(url), limits=limits) for engine, url in servers}
        self._seconds = seconds
        self._waiting: dict[int, float] = {}
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
        """How many requests wait at the engine's server, as of a moment ago."""
        return self._waiting.get(id(engine), 0.0)

    async def _ask(self, key: int, server: RemoteServer) -> None:
        waiting = 0.0
        # An answer that does not come tells nothing here: probes find out whether the server is there.
        with suppress(Failure, TimeoutError):
            async with asyncio.timeout(self._seconds * 2):
                waiting = waiting_in(await server.get("/metrics"))
        self._waiting[key] = waiting
        await asyncio.sleep(self._seconds)


def waiting_in(metrics: bytes) -> float:
    """How many requests wait, by vLLM's metrics. What is no number there counts as none."""
    return sum(float(number) for number in _WAITING.findall(metrics))


def _root(url: str) -> str:
    """The server's address without the API's version."""
    return re.sub(r"/v\d+/?$", "", url.rstrip("/"))
