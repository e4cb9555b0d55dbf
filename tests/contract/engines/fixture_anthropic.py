"""The `anthropic` engine: nobody but Anthropic runs its server, so it meets one written from the documented wire format."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from services.inference.engines.anthropic import AnthropicEngine
from tests.contract.engines.fixture_ollama import words
from tests.contract.engines.fixture_openai import NOWHERE
from tests.contract.engines.subject import Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MODEL, KEY = "claude-written", "sk-written"


class WrittenAnthropic:
    """The Messages API as Anthropic's reference describes it, over a model that counts in words."""

    def __init__(self) -> None:
        self.busy = 0

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v1/models", self.models)
        application.router.add_post("/v1/messages", self.messages)
        application.router.add_post("/v1/messages/count_tokens", self.count)
        return application

    async def models(self, request: web.Request) -> web.Response:
        if request.headers.get("x-api-key") != KEY:
            return _error(401, "authentication_error", "invalid x-api-key")
        card = {"type": "model", "id": MODEL, "display_name": "Claude Written", "created_at": "2026-11-20T00:00:00Z"}
        return web.json_response({"data": [card], "has_more": False, "first_id": MODEL, "last_id": MODEL})

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        problem = _problem(request, body)
        if problem is not None:
            return problem
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.busy += 1
        try:
            await _answer(response, body)
        finally:
            # A write to a gone client raises, and the server stops.
            self.busy -= 1
        return response

    async def count(self, request: web.Request) -> web.Response:
        body = await request.json()
        spoken = sum(len(block["text"].split()) for message in body["messages"] for block in message["content"])
        return web.json_response({"input_tokens": 3 + spoken})


async def _answer(response: web.StreamResponse, body: dict[str, Any]) -> None:
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 1}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": MODEL, "usage": usage}
    await _send(response, "message_start", message={**head, "stop_reason": None, "stop_sequence": None})
    await _send(response, "ping")
    choice = body.get("tool_choice", {"type": "auto"})
    last = body["messages"][-1]["content"]
    images = [block["source"] for block in last if block["type"] == "image"]
    if images:
        told = " ".join(_seen(source) for source in images)
        await _block(response, 0, {"type": "text", "text": ""}, [{"type": "text_delta", "text": told}])
        spoken, reason = 1, "end_turn"
    elif "tools" in body and choice["type"] != "none" and not any(block["type"] == "tool_result" for block in last):
        spoken, reason = await _call(response, body["tools"], choice), "tool_use"
    elif "output_config" in body:
        spoken, reason = await _json(response, body["output_config"]), "end_turn"
    else:
        spoken, reason = await _count(response, body)
    delta = {"stop_reason": reason, "stop_sequence": None}
    await _send(response, "message_delta", delta=delta, usage={"output_tokens": spoken})
    await _send(response, "message_stop")


def _seen(source: dict[str, str]) -> str:
    if source["type"] == "url":
        return source["url"]
    assert source["media_type"] == "image/png"
    return str(len(base64.b64decode(source["data"], validate=True)))


async def _call(response: web.StreamResponse, tools: list[dict[str, Any]], choice: dict[str, Any]) -> int:
    """A word, then a call of the tool that is named or of all there are, their arguments in pieces."""
    await _block(response, 0, {"type": "text", "text": ""}, [{"type": "text_delta", "text": "So: "}])
    names = [tool["name"] for tool in tools if choice.get("name", tool["name"]) == tool["name"]]
    if choice.get("disable_parallel_tool_use"):
        names = names[:1]
    for index, name in enumerate(names, 1):
        block = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
        pieces = [{"type": "input_json_delta", "partial_json": text} for text in ("", '{"city": "Kirk', 'wall", "n": 4}')]
        await _block(response, index, block, pieces)
    return 4


async def _json(response: web.StreamResponse, config: dict[str, Any]) -> int:
    assert config["format"]["type"] == "json_schema"
    assert config["format"]["schema"]["type"] == "object"
    pieces = [{"type": "text_delta", "text": text} for text in ('{"city": ', '"Kirkwall", "n": 4}')]
    await _block(response, 0, {"type": "text", "text": ""}, pieces)
    return 2


async def _count(response: web.StreamResponse, body: dict[str, Any]) -> tuple[int, str]:
    await _send(response, "content_block_start", index=0, content_block={"type": "text", "text": ""})
    for spoken, (word, reason) in enumerate(words(body["max_tokens"], body.get("stop_sequences", []))):
        if reason:
            await _send(response, "content_block_stop", index=0)
            return spoken, {"length": "max_tokens", "stop": "stop_sequence"}[reason]
        await _send(response, "content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        await asyncio.sleep(0.002)
    raise AssertionError("words come to an end")


async def _block(response: web.StreamResponse, index: int, block: dict[str, Any], deltas: list[dict[str, Any]]) -> None:
    await _send(response, "content_block_start", index=index, content_block=block)
    for delta in deltas:
        await _send(response, "content_block_delta", index=index, delta=delta)
    await _send(response, "content_block_stop", index=index)


async def _send(response: web.StreamResponse, kind: str, **fields: Any) -> None:
    await response.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())


def _problem(request: web.Request, body: dict[str, Any]) -> web.Response | None:
    """What the API would refuse."""
    if request.headers.get("x-api-key") != KEY or request.headers.get("anthropic-version") != "2023-06-01":
        return _error(401, "authentication_error", "invalid x-api-key")
    if body["model"] != MODEL:
        return _error(404, "not_found_error", f"model: {body['model']}")
    roles = [message["role"] for message in body["messages"]]
    if "max_tokens" not in body or not roles or roles[0] != "user" or set(roles) - {"user", "assistant"}:
        return _error(400, "invalid_request_error", "messages: first message must use the user role")
    if sum(len(block.get("text", "")) for message in body["messages"] for block in message["content"]) > 2_000_000:
        return _error(400, "invalid_request_error", "prompt is too long: 500000 tokens > 200000 maximum")
    return None


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.json_response({"type": "error", "error": {"type": kind, "message": message}}, status=status)


@asynccontextmanager
async def open_written_server(folder: Path) -> AsyncIterator[Subject]:  # noqa: ARG001 - as all openers
    written = WrittenAnthropic()
    runner = web.AppRunner(written.application(), shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def busy() -> int:
        return written.busy

    engine = AnthropicEngine(f"http://127.0.0.1:{runner.addresses[0][1]}", api_key=KEY)
    absent = AnthropicEngine(NOWHERE, api_key=KEY)
    try:
        yield Subject(engine, MODEL, "", absent, busy, viewer=MODEL, caller=MODEL)
    finally:
        await engine.close()
        await runner.cleanup()
