"""What engines behind HTTP make of servers that break, stall, refuse and lie. A truncated text never looks complete."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, End, FinishReason, Generation, Message, Role, UsageSource
from services.inference.engines.anthropic import AnthropicEngine
from services.inference.engines.ollama import OllamaEngine
from services.inference.engines.openai import OpenAIEngine
from services.inference.engines.remote import Limits
from tests.contract.engines.scripted import Exchange, ScriptedServer, scripted_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.inference.engine import Engine, Event

LIMITS = Limits(connect=1.0, first_token=0.4, inter_token=0.3)


@dataclass(frozen=True)
class Wire:
    """How one kind of server writes a text in pieces, its end, and an error in the midst of it."""

    engine: str
    content_type: str

    def text(self, text: str) -> bytes:
        if self.engine == "openai":
            return _event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
        if self.engine == "anthropic":
            return _event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
        return _line({"message": {"role": "assistant", "content": text}, "done": False})

    def end(self, reason: str = "stop") -> bytes:
        if self.engine == "openai":
            finish = _event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
            usage = _event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}})
            return finish + usage + b"data: [DONE]\n\n"
        if self.engine == "anthropic":
            told = {"stop": "end_turn", "length": "max_tokens"}[reason]
            start = _event({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}})
            delta = _event({"type": "message_delta", "delta": {"stop_reason": told}, "usage": {"output_tokens": 4}})
            return start + delta + _event({"type": "message_stop"})
        counts = {"prompt_eval_count": 9, "eval_count": 4}
        return _line({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason, **counts})

    def error(self, message: str) -> bytes:
        if self.engine == "openai":
            return _event({"error": {"message": message, "type": "server_error", "code": 500}})
        if self.engine == "anthropic":
            return _event({"type": "error", "error": {"type": "api_error", "message": message}})
        return _line({"error": message})

    def garbage(self) -> bytes:
        return b'{"message": {"content"\n' if self.engine == "ollama" else b'data: {"choices": [{"delta"\n\n'

    def bare_end(self) -> bytes:
        """The stream's last word that is missing where it matters: no finish reason, no `done`."""
        return {"openai": b"data: [DONE]\n\n", "anthropic": _event({"type": "message_stop"}), "ollama": b"\n"}[self.engine]


def _event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _line(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


@dataclass(frozen=True)
class Pair:
    engine: Engine
    server: ScriptedServer
    wire: Wire

    def generate(self) -> AsyncIterator[Event]:
        return self.engine.generate(Generation("m", (Message(Role.USER, "hello"),)))

    async def collect(self) -> list[Event]:
        async with asyncio.timeout(10):
            return [event async for event in self.generate()]

    async def fails(self) -> tuple[str, Failure]:
        """The text that came before the failure, and the failure."""
        texts: list[str] = []
        with pytest.raises(Failure) as caught:  # noqa: PT012 - what comes before the failure is of interest
            async for event in self.generate():
                assert isinstance(event, Delta), "an end that is none"
                texts.append(event.text)
        return "".join(texts), caught.value


ENGINES: dict[str, Callable[[str], Engine]] = {
    "openai": lambda address: OpenAIEngine(address, limits=LIMITS),
    "ollama": lambda address: OllamaEngine(address, limits=LIMITS),
    "anthropic": lambda address: AnthropicEngine(address, api_key="none", limits=LIMITS),
}


@pytest.fixture(params=ENGINES)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with scripted_server() as (server, address):
        kind = request.param
        engine = ENGINES[kind](address)
        content_type = "application/x-ndjson" if kind == "ollama" else "text/event-stream"
        try:
            yield Pair(engine, server, Wire(kind, content_type))
        finally:
            await engine.close()


async def test_what_arrives_together_travels_together(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(b"".join(pair.wire.text(f"w{number} ") for number in range(50)))
        await asyncio.sleep(0.05)
        await exchange.piece(pair.wire.text("last") + pair.wire.end())
        await exchange.end()

    pair.server.script = script
    events = await pair.collect()
    assert [type(event) for event in events] == [Delta, Delta, End]
    first, last, end = events
    assert isinstance(first, Delta)
    assert first.tokens == 50
    assert first.text.split() == [f"w{number}" for number in range(50)]
    assert last == Delta("last", 1)
    assert isinstance(end, End)
    assert (end.usage.input_tokens, end.usage.output_tokens, end.usage.source) == (9, 4, UsageSource.REPORTED)


async def test_pieces_may_break_anywhere(pair: Pair) -> None:
    """Even within a character: one byte at a time."""
    whole = pair.wire.text("Вода ") + pair.wire.text("水") + pair.wire.end("length")

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for place in range(len(whole)):
            await exchange.piece(whole[place : place + 1])
            if place % 16 == 0:
                await asyncio.sleep(0)
        await exchange.end()

    pair.server.script = script
    *deltas, end = await pair.collect()
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == "Вода 水"
    assert isinstance(end, End)
    assert end.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("manner", ["cut", "clean"])
async def test_a_stream_without_its_end_has_failed(pair: Pair, manner: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(pair.wire.text("half of"))
        await asyncio.sleep(0.02)
        if manner == "cut":
            exchange.cut()
        else:
            await exchange.end()

    pair.server.script = script
    text, failure = await pair.fails()
    assert text == "half of"
    assert failure.reason is Reason.GENERATION_FAILED


async def test_an_end_without_a_finish_reason_has_failed(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(pair.wire.text("some") + pair.wire.bare_end())
        await exchange.end()

    pair.server.script = script
    text, failure = await pair.fails()
    assert text == "some"
    assert failure.reason is Reason.GENERATION_FAILED


async def test_a_finish_reason_without_done_has_failed(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(pair.wire.text("some") + pair.wire.end().removesuffix(pair.wire.bare_end()))
        await exchange.end()

    if pair.wire.engine == "ollama":
        pytest.skip("Ollama tells the reason and the end in one line")
    pair.server.script = script
    assert (await pair.fails())[1].reason is Reason.GENERATION_FAILED


async def test_a_malformed_chunk_fails_after_what_was_right(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(pair.wire.text("right ") + pair.wire.garbage() + pair.wire.text("never") + pair.wire.end())
        await exchange.end()

    pair.server.script = script
    text, failure = await pair.fails()
    assert text == "right "
    assert failure.reason is Reason.GENERATION_FAILED


async def test_a_chunk_nested_too_deep_fails_as_a_malformed_one(pair: Pair) -> None:
    deep = b"[" * 100_000

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        line = b'{"message": %b\n' if pair.wire.engine == "ollama" else b'data: {"error": %b\n\n'
        await exchange.piece(pair.wire.text("right ") + line % deep)
        await exchange.end()

    pair.server.script = script
    text, failure = await pair.fails()
    assert text == "right "
    assert failure.reason is Reason.GENERATION_FAILED


async def test_an_error_within_the_stream_is_told_without_paths_and_addresses(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(
            pair.wire.text("so far ") + pair.wire.error("CUDA lost at http://10.0.0.7:8000 in /opt/vllm/engine.py")
        )
        await exchange.end()

    pair.server.script = script
    text, failure = await pair.fails()
    assert text == "so far "
    assert failure.reason is Reason.GENERATION_FAILED
    assert "CUDA lost" in failure.message
    assert "10.0.0.7" not in failure.message
    assert "/opt" not in failure.message


@pytest.mark.parametrize(
    ("status", "document", "reason"),
    [
        (401, {"error": {"message": "Incorrect API key provided: sk-abc***def"}}, Reason.ENGINE_REFUSED_CREDENTIALS),
        (403, {}, Reason.ENGINE_REFUSED_CREDENTIALS),
        (404, {"error": "model 'm' not found"}, Reason.MODEL_NOT_FOUND),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, Reason.CONTEXT_TOO_LONG),
        (400, {"object": "error", "message": "This model's maximum context length is 2048 tokens."}, Reason.CONTEXT_TOO_LONG),
        (400, {"error": {"message": "request exceeds", "type": "exceed_context_size_error"}}, Reason.CONTEXT_TOO_LONG),
        (422, {"detail": "temperature must be a number"}, Reason.INVALID_FIELD),
        (500, {"error": "out of memory"}, Reason.GENERATION_FAILED),
        (501, {"error": "no"}, Reason.MODEL_CAPABILITY_MISSING),
        (502, {}, Reason.ENGINE_UNAVAILABLE),
        (503, {}, Reason.ENGINE_UNAVAILABLE),
        (302, {}, Reason.ENGINE_UNAVAILABLE),
    ],
)
async def test_a_status_becomes_its_reason(pair: Pair, status: int, document: Any, reason: Reason) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, document)

    pair.server.script = script
    text, failure = await pair.fails()
    assert (text, failure.reason) == ("", reason)
    assert "sk-abc" not in failure.message


@pytest.mark.parametrize(("header", "seconds"), [("Retry-After: 7", 7.0), ("X-Other: 1", 1.0)])
async def test_overload_says_when_to_come_back(pair: Pair, header: str, seconds: float) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(429, {"error": "busy"}, header)

    pair.server.script = script
    _, failure = await pair.fails()
    assert failure.reason is Reason.ENGINE_OVERLOADED
    assert failure.retry_after == seconds


@pytest.mark.parametrize("stage", ["silent", "headers", "pings"])
async def test_no_first_token_in_time_is_unavailable(pair: Pair, stage: str) -> None:
    async def script(exchange: Exchange) -> None:
        if stage != "silent":
            await exchange.begin()
        while True:
            await asyncio.sleep(0.05)
            if stage == "pings":
                await exchange.piece(b"\n" if pair.wire.engine == "ollama" else b": still working\n\n")

    pair.server.script = script
    started = time.monotonic()
    _, failure = await pair.fails()
    assert failure.reason is Reason.ENGINE_UNAVAILABLE
    assert 0.35 < time.monotonic() - started < 3
    await asyncio.wait_for(pair.server.client_gone.wait(), 1)


async def test_a_stall_between_tokens_fails(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(pair.wire.text("one "))
        await asyncio.sleep(30)

    pair.server.script = script
    text, failure = await pair.fails()
    assert text == "one "
    assert failure.reason is Reason.GENERATION_FAILED
    await asyncio.wait_for(pair.server.client_gone.wait(), 1)


async def test_a_slow_stream_that_keeps_coming_is_fine(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for _ in range(5):
            await asyncio.sleep(0.15)
            await exchange.piece(pair.wire.text("w "))
        await exchange.piece(pair.wire.end())
        await exchange.end()

    pair.server.script = script
    events = await pair.collect()
    assert len(events) == 6
    assert isinstance(events[-1], End)


@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
async def test_cancelling_closes_the_socket_within_100_ms_in_every_state(pair: Pair, stage: str) -> None:
    reached = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if stage != "queued":
            await exchange.begin()
        if stage == "decode":
            await exchange.piece(pair.wire.text("one "))
        reached.set()
        await asyncio.sleep(30)

    pair.server.script = script

    async def consume() -> None:
        async with aclosing(pair.engine.generate(Generation("m", (Message(Role.USER, "hello"),)))) as events:
            async for _ in events:
                pass

    task = asyncio.create_task(consume())
    await asyncio.wait_for(reached.wait(), 5)
    await asyncio.sleep(0.02)
    cancelled = time.monotonic()
    task.cancel()
    await asyncio.wait_for(pair.server.client_gone.wait(), 5)
    assert pair.server.gone_at - cancelled < 0.1
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_connection_that_was_closed_while_idle_is_replaced_unseen(pair: Pair) -> None:
    """The server closes right after its answer, without saying so: the next request may still go out on that connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(pair.wire.text("fine") + pair.wire.end())
        await exchange.end()
        exchange.cut()

    pair.server.script = script
    for _ in range(20):
        events = await pair.collect()
        assert isinstance(events[-1], End)


async def test_a_list_of_models_in_another_format_is_no_list(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, ["a", "b"])

    pair.server.script = script
    with pytest.raises(Failure) as caught:
        await pair.engine.models()
    assert caught.value.reason is Reason.ENGINE_UNAVAILABLE


async def test_too_few_embeddings_are_a_failure(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, {"data": [{"embedding": [1.0], "index": 0}], "embeddings": [[1.0]]})

    if pair.wire.engine == "anthropic":
        pytest.skip("it never embeds")
    pair.server.script = script
    with pytest.raises(Failure) as caught:
        await pair.engine.embed("m", ["one", "two"])
    assert caught.value.reason is Reason.GENERATION_FAILED


async def test_answers_nested_too_deep_are_none(pair: Pair) -> None:
    async def script(exchange: Exchange) -> None:
        deep = b'{"data": ' + b"[" * 100_000
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(deep) + deep)

    pair.server.script = script
    with pytest.raises(Failure) as caught:
        await pair.engine.models()
    assert caught.value.reason is Reason.ENGINE_UNAVAILABLE


@pytest.mark.parametrize("kind", ["overloaded_error", "rate_limit_error"])
async def test_anthropics_overload_is_overload_before_and_within_the_stream(kind: str) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(529, {"type": "error", "error": {"type": kind, "message": "Overloaded"}})

    async def begin_and_refuse(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(_event({"type": "error", "error": {"type": kind, "message": "Overloaded"}}))
        await exchange.end()

    async with scripted_server() as (server, address):
        engine = AnthropicEngine(address, api_key="none", limits=LIMITS)
        try:
            for script in (refuse, begin_and_refuse):
                server.script = script
                _, failure = await Pair(engine, server, Wire("anthropic", "")).fails()
                assert failure.reason is Reason.ENGINE_OVERLOADED
                assert failure.retry_after is not None
        finally:
            await engine.close()
