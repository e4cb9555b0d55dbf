"""Ollama's models as its docs/api.md describes them: they are pulled, loaded, unloaded and deleted, in memory only."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.contract.engines.fixture_ollama import CHAT, EMBEDDER, WrittenOllama

LARGE = "large:7b"
LAYERS = {"sha256:aa": 3_000, "sha256:bb": 500}


class OllamaStore(WrittenOllama):
    """A server whose models change as it is told; it remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.names = [CHAT, EMBEDDER]
        self.loaded: dict[str, int] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.status_asked = 0
        self.pull_ends = asyncio.Event()
        self.pull_ends.set()
        self.pull_cancelled = asyncio.Event()

    def application(self) -> web.Application:
        application = super().application()
        application.router.add_get("/api/ps", self.running)
        application.router.add_post("/api/generate", self.generate)
        application.router.add_post("/api/pull", self.pull)
        application.router.add_post("/api/create", self.create)
        application.router.add_delete("/api/delete", self.delete)
        return application

    async def tags(self, _request: web.Request) -> web.Response:
        details = {"format": "gguf", "family": "llama", "parameter_size": "1B", "quantization_level": "Q4_K_M"}
        listed = [
            {
                "name": name,
                "model": name,
                "modified_at": "2026-11-20T12:00:00.123456789+02:00",
                "size": 42,
                "digest": f"d-{name}",
                "details": details,
            }
            for name in self.names
        ]
        return web.json_response({"models": listed})

    async def show(self, request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        return web.json_response({"capabilities": ["embedding" if name == EMBEDDER else "completion"], "model_info": {}})

    async def running(self, _request: web.Request) -> web.Response:
        self.status_asked += 1
        models = [{"name": name, "model": name, "size": 100, "size_vram": vram} for name, vram in self.loaded.items()]
        return web.json_response({"models": models})

    async def generate(self, request: web.Request) -> web.Response:
        """Without a prompt it only loads, or unloads where keep_alive is 0."""
        body = await request.json()
        return self._touched("generate", body)

    async def embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["input"]:
            return await super().embed(request)
        return self._touched("embed", body)

    async def pull(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(("pull", body))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await _say(response, status="pulling manifest")
        if body["model"] != LARGE:
            await _say(response, error="pull model manifest: file does not exist")
            return response
        try:
            for digest, total in LAYERS.items():
                for completed in (0, total // 2, total):
                    await _say(response, status=f"pulling {digest[7:]}", digest=digest, total=total, completed=completed)
                    await asyncio.sleep(0.005)
            await self.pull_ends.wait()
        except (ConnectionError, asyncio.CancelledError):
            self.pull_cancelled.set()
            raise
        await _say(response, status="verifying sha256 digest")
        await asyncio.sleep(0.005)
        await _say(response, status="writing manifest")
        self.names.append(LARGE)
        await _say(response, status="success")
        return response

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(("create", body))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        if body["from"] not in self.names:
            await _say(response, status="pulling manifest")
            await _say(response, error="pull model manifest: file does not exist")
            return response
        await _say(response, status="reading model metadata")
        if body.get("quantize") == "q9_9":
            await _say(response, error="quantization is only supported for F16, F32, and BF16 models")
            return response
        if body.get("quantize"):
            for completed in (0, 50, 100):
                await _say(response, status="quantizing F16 model to Q4_K_M", digest="0", total=100, completed=completed)
                await asyncio.sleep(0.005)
        try:
            await self.pull_ends.wait()
        except (ConnectionError, asyncio.CancelledError):
            self.pull_cancelled.set()
            raise
        await _say(response, status="creating system layer")
        await _say(response, status="writing manifest")
        self.names.append(f"{body['model']}:latest")
        await _say(response, status="success")
        return response

    async def delete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(("delete", body))
        if body["model"] not in self.names:
            return web.json_response({"error": f"model '{body['model']}' not found"}, status=404)
        self.names.remove(body["model"])
        self.loaded.pop(body["model"], None)
        return web.Response()

    def _touched(self, how: str, body: dict[str, Any]) -> web.Response:
        self.asked.append((how, body))
        name = body["model"]
        if name not in self.names:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        if body.get("keep_alive") == 0:
            self.loaded.pop(name, None)
            return web.json_response({"model": name, "response": "", "done": True, "done_reason": "unload"})
        self.loaded[name] = 0
        return web.json_response({"model": name, "response": "", "done": True, "done_reason": "load"})


async def _say(response: web.StreamResponse, **line: Any) -> None:
    await response.write(json.dumps(line).encode() + b"\n")
