"""An OpenAI-compatible engine that streams slowly and counts what becomes of its streams.

It is a server of its own, so that what it sees is what a real engine would see: connections that close. The model `slow` sends
a token every 20 ms without end; `cut` closes the connection after three tokens; `quiet` sends nothing after its headers.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = ("slow", "cut", "quiet")
PERIOD = 0.02


class SlowEngine:
    """What the engine has seen; times are on the clock of `time.monotonic`."""

    def __init__(self) -> None:
        self.url = ""
        self.started = 0
        self.closed_at: list[float] = []
        self._loop = asyncio.new_event_loop()

    @property
    def in_flight(self) -> int:
        return self.started - len(self.closed_at)

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        self.started += 1
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._stream(model, request, response)
        finally:
            self.closed_at.append(time.monotonic())
        return response

    async def _stream(self, model: str, request: web.Request, response: web.StreamResponse) -> None:
        number = 0
        while model != "quiet":
            chunk = {"id": "c", "model": model, "choices": [{"index": 0, "delta": {"content": f"t{number} "}}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            number += 1
            if model == "cut" and number == 3:
                assert request.transport is not None
                request.transport.abort()
                return
            await asyncio.sleep(PERIOD)
        await asyncio.sleep(3600)

    def serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        application = web.Application()
        application.router.add_get("/v1/models", self.models)
        application.router.add_post("/v1/chat/completions", self.chat)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def running() -> Iterator[SlowEngine]:
    """Runs the engine in a thread of its own."""
    engine, ready = SlowEngine(), threading.Event()
    thread = threading.Thread(target=engine.serve, args=(ready,))
    thread.start()
    ready.wait(10)
    try:
        yield engine
    finally:
        engine.stop()
        thread.join(10)
