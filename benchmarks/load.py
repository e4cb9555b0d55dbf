"""Drives an HTTP/1.1 server in a closed loop and prints one line of JSON: rate, latencies in milliseconds, errors.

    python -m benchmarks.load http://127.0.0.1:8080/v1/generate --body '{"prompt": "hello"}' --connections 10 --seconds 5

Each of the connections sends its next request as soon as it has the whole answer to the last one. A request counts if it began
after the warm-up and ended in time. An answer counts as an error unless its status is 200 and it holds `--expect`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

_OK: Final = b"HTTP/1.1 200"
_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and for how long. Times are in seconds."""

    host: str
    port: int
    request: bytes
    expect: bytes
    token: bytes
    connections: int
    seconds: float
    warm_up: float


@dataclass(slots=True)
class Tally:
    """What came of it.

    Latencies are in seconds; `first_token` is the first piece of an answer that holds a token. `answers` counts all good ones,
    those of the warm-up too.
    """

    latencies: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    tokens: int = 0
    answers: int = 0
    errors: int = 0
    error: str = ""

    def fail(self, why: str) -> None:
        """Counts an error and keeps the first one's reason."""
        self.errors += 1
        self.error = self.error or why


class Chunks:
    """Finds the end of a chunked body."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0

    def end(self, data: bytes) -> bool:
        """Takes the next piece; true once the last chunk and its empty line are in."""
        data = self._rest + data if self._rest else data
        at = self._skip
        while at < len(data):
            line = data.find(b"\r\n", at)
            if line < 0:
                break
            size = int(data[at:line].partition(b";")[0], 16)
            if size == 0:
                if len(data) >= line + 4:
                    return True
                break
            at = line + 2 + size + 2
        self._skip = max(0, at - len(data))
        self._rest = data[at:]
        return False


@dataclass(slots=True)
class Answer:
    """An answer that is coming in. Times are those of a monotonic clock, in seconds."""

    sent: float
    first_byte: float | None = None
    first_token: float | None = None
    pieces: list[bytes] = field(default_factory=list)
    _missing: int | None = None
    _chunks: Chunks | None = None

    def take(self, data: bytes, now: float, token: bytes) -> bool:
        """Takes the next piece; true once the answer is whole."""
        if self.first_byte is None:
            self.first_byte = now
        if self.first_token is None and token in data:
            self.first_token = now
        self.pieces.append(data)
        if self._chunks is None and self._missing is None:
            head, end, data = b"".join(self.pieces).partition(b"\r\n\r\n")
            if not end:
                return False
            self._read_head(head)
        if self._missing is not None:
            self._missing -= len(data)
            return self._missing <= 0
        return self._chunks is not None and self._chunks.end(data)

    def _read_head(self, head: bytes) -> None:
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                self._missing = int(value)
                return
        self._chunks = Chunks()


class Connection(asyncio.Protocol):
    """One connection of the closed loop."""

    def __init__(self, plan: Plan, tally: Tally, begin: float, done: asyncio.Future[None]) -> None:
        self._plan = plan
        self._tally = tally
        self._begin, self._end = begin, begin + plan.seconds
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._answer = Answer(0.0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        # uvloop's transport has the methods, but not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that goes before the time is an error; this one is not replaced."""
        if not self._done.done():
            self._tally.fail(f"the server closed the connection: {exc}")
            self._done.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Takes in a piece of an answer; at its end the next request goes out."""
        now = time.perf_counter()
        if self._answer.take(data, now, self._plan.token):
            self._count(self._answer, now)
            self._send()

    def _send(self) -> None:
        self._answer = Answer(time.perf_counter())
        if self._transport is None:
            return
        if self._answer.sent < self._end:
            self._transport.write(self._plan.request)
        elif not self._done.done():
            self._done.set_result(None)
            self._transport.close()

    def _count(self, answer: Answer, now: float) -> None:
        text = b"".join(answer.pieces)
        if not text.startswith(_OK) or self._plan.expect not in text:
            self._tally.fail(text[:400].decode(errors="replace"))
            return
        self._tally.answers += 1
        if answer.sent >= self._begin and now <= self._end:
            tally = self._tally
            tally.latencies.append(now - answer.sent)
            if answer.first_byte is not None:
                tally.first_byte.append(answer.first_byte - answer.sent)
            if answer.first_token is not None:
                tally.first_token.append(answer.first_token - answer.sent)
                tally.tokens += text.count(self._plan.token)


async def drive(plan: Plan) -> Tally:
    """Carries the plan out."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    begin = time.perf_counter() + plan.warm_up
    waits: list[asyncio.Future[None]] = [loop.create_future() for _ in range(plan.connections)]
    for done in waits:
        await loop.create_connection(partial(Connection, plan, tally, begin, done), plan.host, plan.port)
    _, late = await asyncio.wait(waits, timeout=plan.warm_up + plan.seconds + _PATIENCE_S)
    for _ in late:
        tally.fail(f"no whole answer within {_PATIENCE_S:g} s of the end")
    return tally


def summary(tally: Tally, seconds: float) -> dict[str, float | int | str]:
    """The figures of a run that measured for `seconds`."""
    figures: dict[str, float | int | str] = {
        "requests": len(tally.latencies),
        "rate": round(len(tally.latencies) / seconds, 1),
        "tokens_per_s": round(tally.tokens / seconds, 1),
        "answers": tally.answers,
        "errors": tally.errors,
        "error": tally.error,
        "client_cpu_s": processor_seconds(),
    }
    for name, values in (("latency", tally.latencies), ("first_byte", tally.first_byte), ("first_token", tally.first_token)):
        ordered = sorted(values)
        for percent in (50, 95, 99):
            figures[f"{name}_p{percent}_ms"] = round(percentile(ordered, percent) * 1000, 4)
    return figures


def processor_seconds() -> float:
    """Processor time that this process has used: a client that is busy all the time measures itself."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round(used.ru_utime + used.ru_stime, 2)


def request_of(url: str, body: str, accept: str) -> bytes:
    """The bytes of a request: a POST of JSON, or a GET without a body."""
    target, data = urlsplit(url), body.encode()
    lines = (
        f"{'POST' if data else 'GET'} {target.path or '/'} HTTP/1.1",
        f"host: {target.netloc}",
        f"accept: {accept}",
        *((f"content-length: {len(data)}", "content-type: application/json") if data else ()),
    )
    return "\r\n".join((*lines, "", "")).encode() + data


def percentile(ordered: list[float], percent: float) -> float:
    """The value below which `percent` of the ordered values lie, by nearest rank; 0 where there are none."""
    return ordered[round(percent / 100 * (len(ordered) - 1))] if ordered else 0.0


def main() -> None:
    """Reads the arguments, drives, and prints."""
    parser = argparse.ArgumentParser(description="A closed loop of HTTP/1.1 requests.")
    parser.add_argument("url")
    parser.add_argument("--body", default="", help="JSON to POST; without it the request is a GET")
    parser.add_argument("--accept", default="application/json")
    parser.add_argument("--expect", default="", help="text that a good answer holds")
    parser.add_argument("--token", default="~", help="a character that each token holds once")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=0.5)
    given = parser.parse_args()
    target = urlsplit(given.url)
    plan = Plan(
        host=target.hostname or "127.0.0.1",
        port=target.port or 80,
        request=request_of(given.url, given.body, given.accept),
        expect=given.expect.encode(),
        token=given.token.encode(),
        connections=given.connections,
        seconds=given.seconds,
        warm_up=given.warm_up,
    )
    print(json.dumps(summary(uvloop.run(drive(plan)), plan.seconds)))


if __name__ == "__main__":
    main()
