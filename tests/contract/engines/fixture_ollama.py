"""The `ollama` engine: no registry carries Ollama's server, so it meets one written from the documented wire format.

A real one joins in where OLLAMA_BASE_URL names it.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from services.inference.engine import Capability
from services.inference.engines.ollama import OllamaEngine
from tests.contract.engines.fixture_openai import NOWHERE
from tests.contract.engines.subject import Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CHAT, EMBEDDER = "words:latest", "dots:latest"
_TIME = "2026-11-20T12:00:00Z"


class WrittenOllama:
    """Ollama's API as docs/api.md of Ollama describes it, over a model that counts in words."""

    def __init__(self) -> None:
        self.version = "0.13.0"
        self.busy = 0

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/api/tags", self.tags)
        application.router.add_get("/api/version", self.tell_version)
        application.router.add_post("/api/show", self.show)
        application.router.add_post("/api/chat", self.chat)
        application.router.add_post("/api/embed", self.embed)
        return application

    async def tell_version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def tags(self, _request: web.Request) -> web.Response:
        details = {"format": "gguf", "family": "llama", "parameter_size": "1B", "quantization_level": "Q4_K_M"}
        models = [
            {"name": name, "model": name, "modified_at": _TIME, "size": 42, "digest": f"d-{name}", "details": details}
            for name in (CHAT, EMBEDDER)
        ]
        return web.json_response({"models": models})

    async def show(self, request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        if name not in {CHAT, EMBEDDER}:
            return _missing(name)
        info = {"general.architecture": "llama", "llama.context_length": 2048, "llama.embedding_length": 3}
        capabilities = ["completion", "tools", "vision"] if name == CHAT else ["embedding"]
        return web.json_response({"capabilities": capabilities, "model_info": info})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["model"] != CHAT:
            return _missing(body["model"])
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        self.busy += 1
        try:
            options = body.get("options", {})
            if await _answered_by_form(body, response):
                return response
            spoken_words = words(options.get("num_predict", 1000), options.get("stop", []))
            for spoken, (word, reason) in enumerate(spoken_words):
                if reason:
                    counts = {"prompt_eval_count": 7, "eval_count": spoken, "total_duration": 1, "eval_duration": 1}
                    await response.write(_line(body, "", done=True, done_reason=reason, **counts))
                    break
                await response.write(_line(body, word, **_logprobs(body, word)))
                await asyncio.sleep(0.002)
        finally:
            # A write to a gone client raises, as it ends the generation in Ollama.
            self.busy -= 1
        return response

    async def embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["model"] != EMBEDDER:
            return _missing(body["model"])
        vectors = [[float(len(text)), float(text.count("e")), 1.0] for text in body["input"]]
        return web.json_response({"model": EMBEDDER, "embeddings": vectors, "prompt_eval_count": 5})


def _logprobs(body: dict[str, Any], word: str) -> dict[str, Any]:
    if not body.get("logprobs"):
        return {}
    likely = [{"token": token, "logprob": logprob} for token, logprob in ((word, -0.5), ("other ", -1.5), ("third ", -2.5))]
    return {"logprobs": [{**likely[0], "top_logprobs": likely[: body.get("top_logprobs", 0)]}]}


async def _answered_by_form(body: dict[str, Any], response: web.StreamResponse) -> bool:
    """A call of each tool, whole and without an id; or JSON in two pieces, where a format is asked for."""
    tools, form = body.get("tools"), body.get("format")
    counts = {"prompt_eval_count": 7, "eval_count": 4}
    images = [image for message in body["messages"] for image in message.get("images", ())]
    if images:
        await response.write(_line(body, " ".join(str(len(base64.b64decode(image, validate=True))) for image in images)))
    elif tools and body["messages"][-1]["role"] != "tool":
        calls = [{"function": {"name": tool["function"]["name"], "arguments": {"city": "Kirkwall"}}} for tool in tools]
        await response.write(_line(body, "", tool_calls=calls))
    elif form is not None:
        assert form == "json" or form["type"] == "object"
        await response.write(_line(body, '{"city": '))
        await response.write(_line(body, '"Kirkwall", "n": 4}'))
    else:
        return False
    await response.write(_line(body, "", done=True, done_reason="stop", **counts))
    return True


def _missing(name: str) -> web.Response:
    return web.json_response({"error": f'model "{name}" not found, try pulling it first'}, status=404)


def _line(body: dict[str, Any], text: str, *, done: bool = False, tool_calls: Any = None, **more: Any) -> bytes:
    message = {"role": "assistant", "content": text, **({"tool_calls": tool_calls} if tool_calls else {})}
    piece = {"model": body["model"], "created_at": _TIME, "message": message, "done": done, **more}
    return json.dumps(piece).encode() + b"\n"


def words(most: int, stops: list[str]) -> Iterator[tuple[str, str]]:
    """Words, and at last an empty one with the reason to stop. Holds back nothing: a stop sequence lies inside one word."""
    for number in itertools.count(1):
        if number > most:
            yield "", "length"
            return
        word = f"word{number} "
        cut = min((word.find(stop) for stop in stops if stop in word), default=-1)
        if cut >= 0:
            if word[:cut]:
                yield word[:cut], ""
            yield "", "stop"
            return
        yield word, ""


@asynccontextmanager
async def written_ollama(written: WrittenOllama | None = None) -> AsyncIterator[tuple[WrittenOllama, str]]:
    """Runs the written server; gives it and its address."""
    written = written or WrittenOllama()
    runner = web.AppRunner(written.application(), shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield written, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def open_written_server(folder: Path) -> AsyncIterator[Subject]:  # noqa: ARG001 - as all openers
    async with written_ollama() as (written, address):

        async def busy() -> int:
            return written.busy

        engine = OllamaEngine(address)
        try:
            yield Subject(engine, CHAT, EMBEDDER, OllamaEngine(NOWHERE), busy, viewer=CHAT, caller=CHAT)
        finally:
            await engine.close()


@asynccontextmanager
async def open_real_server(folder: Path) -> AsyncIterator[Subject]:  # noqa: ARG001 - as all openers
    address = os.environ["OLLAMA_BASE_URL"]
    engine = OllamaEngine(address)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{address.rstrip('/')}/api/version") as response:
            assert "version" in await response.json()
        models = await engine.models()
        chat = [model.name for model in models if Capability.GENERATION in model.capabilities]
        embedders = [model.name for model in models if Capability.EMBEDDING in model.capabilities]
        yield Subject(engine, chat[0] if chat else "", embedders[0] if embedders else "", OllamaEngine(NOWHERE))
    finally:
        await engine.close()
