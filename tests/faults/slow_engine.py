"""An OpenAI-compatible engine that streams slowly and counts what becomes of its streams.

It is a server of its own, so that what it sees is what a real engine would see: connections that close. The model `slow` sends
a token every 20 ms without end; `cut` closes the connection after three tokens; `quiet` sends nothing after its headers;
`stalls` sends three tokens and then nothing. Others refuse: `down` with 503; `flaky` with 503 twice of three times; `busy` with
429 and Retry-After: 0 every other time, else it answers like `brief`, with three tokens and a proper end; `narrow` says that
the prompt is too long, `prim` that its content policy forbids it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = ("slow", "cut", "quiet", "stalls", "down", "flaky", "busy", "brief", "narrow", "prim")
PERIOD = 0.02


class SlowEngine:
    """What the engine has seen; times are on the clock of `time.monotonic`."""

    def __init__(self) -> None:
        self.url = ""
        self.started = 0
        self.peak = 0
        self.asked: Counter[str] = Counter()
        self.closed_at: list[float] = []
        self._loop = asyncio.new_event_loop()

    @property
    def in_flight(self) -> int:
        return self.started - len(self.closed_at)

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        self.asked[model] += 1
        refused = self._refusal(model)
        if refused is not None:
            return refused
        self.started += 1
        self.peak = max(self.peak, self.in_flight)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._stream(model, request, response)
        finally:
            self.closed_at.append(time.monotonic())
        return response

    def _refusal(self, model: str) -> web.Response | None:
        turn = self.asked[model]
        if model == "down" or (model == "flaky" and turn % 3):
            return web.Response(status=503)
        if model == "busy" and turn % 2:
            return web.json_response({"error": {"message": "busy"}}, status=429, headers={"retry-after": "0"})
        if model == "narrow":
            error = {"message": "maximum context length is 8 tokens", "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        if model == "prim":
            error = {"message": "not in this house", "code": "content_policy_violation"}
            return web.json_response({"error": error}, status=400)
        return None

    async def _stream(self, model: str, request: web.Request, response: web.StreamResponse) -> None:
        number = 0
        while model != "quiet":
            chunk = {"id": "c", "model": model, "choices": [{"index": 0, "delta": {"content": f"t{number} "}}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            number += 1
            if number == 3 and model in {"brief", "flaky", "busy"}:
                end = {"id": "c", "model": model, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
                await response.write(f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())
                return
            if number == 3 and model == "stalls":
                break
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
