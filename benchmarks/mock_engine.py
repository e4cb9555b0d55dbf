"""An OpenAI-compatible engine that answers at once, so that what is measured in front of it is not the engine.

`python -m benchmarks.mock_engine [--port PORT]` prints `listening on PORT` and serves until it is ended. It offers the model
`mock`. A message may hold `tokens=N` (default 20), `period_ms=P` (default 0: all tokens at once), `write=W` (tokens a write
where there is no period; default all) and `stream_id=N`. Each token holds one `~`, so that a client can count them. /gone tells
by `stream_id` when a stream's client was found to have left before its end, in seconds on the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from functools import lru_cache
from typing import Final, cast

import msgspec
import uvloop

_TOKENS: Final = re.compile(rb"tokens=(\d+)")
_PERIOD: Final = re.compile(rb"period_ms=([\d.]+)")
_WRITE: Final = re.compile(rb"write=(\d+)")
_ID: Final = re.compile(rb"stream_id=(\d+)")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_HEAD: Final = {"id": "chatcmpl-mock", "created": 1_700_000_000, "model": "mock"}
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MODELS: Final = {"object": "list", "data": [{"id": "mock", "object": "model", "owned_by": "mock", "max_model_len": 32768}]}


class _Request(msgspec.Struct):
    stream: bool = False


# When the clients left of streams that were told a number.
_gone: Final[dict[str, float]] = {}

_decode = msgspec.json.Decoder(_Request).decode


class Engine(asyncio.Protocol):
    """One connection: HTTP/1.1 with keep-alive, one request after the other, bodies with a content-length."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._input = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.Handle | None = None
        self._stream_id = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        # uvloop's transport has the methods, but not the base class.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Ends what is being streamed."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            if self._stream_id:
                _gone[self._stream_id] = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Answers as soon as a request is whole."""
        self._input += data
        self._next()

    def _next(self) -> None:
        while self._timer is None and (end := self._input.find(b"\r\n\r\n")) >= 0:
            head = self._input[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._input) < whole:
                return
            body, self._input = self._input[end + 4 : whole], self._input[whole:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/models"):
            self._write(_document(_MODELS))
        elif path.endswith(b"/chat/completions"):
            self._complete(body)
        elif path.endswith(b"/gone"):
            self._write(_document(_gone))
        elif path.startswith(b"/health"):
            # Routers want to know before they send anything.
            self._write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        else:
            self._write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def _complete(self, body: bytes) -> None:
        tokens, period, at_once = (
            int(_told(_TOKENS, body, b"20")),
            float(_told(_PERIOD, body, b"0")) / 1000,
            _WRITE.search(body),
        )
        self._stream_id = _told(_ID, body, b"").decode()
        if not _decode(body).stream:
            if period:
                # As long as a stream takes, whose end comes a period after its last token.
                self._timer = self._loop.call_later(period * (tokens + 1), self._after, _completion(tokens))
            else:
                self._write(_completion(tokens))
        elif period:
            self._write(_STREAM_HEAD + _event("", role="assistant"))
            self._token_after(period, time.monotonic(), 0, tokens)
        elif at_once is None:
            self._write(_whole_stream(tokens))
        else:
            self._write(_STREAM_HEAD + _event("", role="assistant"))
            self._some(int(at_once[1]), 0, tokens)

    def _after(self, data: bytes) -> None:
        self._timer = None
        self._write(data)
        self._next()

    def _some(self, at_once: int, sent: int, tokens: int) -> None:
        """As fast as the event loop turns, so that each write reaches the socket on its own."""
        now = min(at_once, tokens - sent)
        if now:
            self._write(_event(" t~ken") * now)
            self._timer = self._loop.call_soon(self._some, at_once, sent + now, tokens)
        else:
            self._after(_stream_tail(tokens))

    def _token_after(self, period: float, began: float, sent: int, tokens: int) -> None:
        """Paces by the start of the stream, so that a late token does not delay those after it."""
        delay = began + (sent + 1) * period - time.monotonic()
        self._timer = self._loop.call_later(max(0.0, delay), self._token, period, began, sent, tokens)

    def _token(self, period: float, began: float, sent: int, tokens: int) -> None:
        self._timer = None
        if sent < tokens:
            self._write(_event(" t~ken"))
            self._token_after(period, began, sent + 1, tokens)
        else:
            self._write(_stream_tail(tokens))
            self._next()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _told(what: re.Pattern[bytes], body: bytes, otherwise: bytes) -> bytes:
    found = what.search(body)
    return found[1] if found else otherwise


def _document(document: object) -> bytes:
    body = msgspec.json.encode(document)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 12, "completion_tokens": tokens, "total_tokens": tokens + 12}


@lru_cache
def _completion(tokens: int) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": " t~ken" * tokens}, "finish_reason": "stop"}
    return _document({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _usage(tokens)})


@lru_cache
def _whole_stream(tokens: int) -> bytes:
    return b"".join((_STREAM_HEAD, _event("", role="assistant"), _event(" t~ken") * tokens, _stream_tail(tokens)))


@lru_cache
def _event(text: str, role: str | None = None) -> bytes:
    delta = {"content": text} | ({"role": role} if role else {})
    return _chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


@lru_cache
def _stream_tail(tokens: int) -> bytes:
    end = _chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return end + _chunk({"choices": [], "usage": _usage(tokens)}) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _chunk(fields: dict[str, object]) -> bytes:
    document = {**_HEAD, "object": "chat.completion.chunk", **fields}
    return _framed(b"data: %b\n\n" % msgspec.json.encode(document))


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int) -> None:
    """Serves until cancelled; port 0 takes a free one."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port, backlog=4096)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible engine that answers at once.")
    parser.add_argument("--port", type=int, default=0, help="port of the loopback address; 0 takes a free one")
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
