"""Holds many paced streams open at once and prints one line of JSON: gaps between tokens, and streams that were not whole.

    python -m benchmarks.streams URL --body '{"model": "mock", "prompt": "tokens=200 period_ms=20"}' --streams 256 --tokens 200

Each stream has a connection of its own; they begin one after the other within `--ramp` seconds. A gap is the time between two
arrivals: tokens that arrive together make one gap, not several of which most are nothing. Only gaps after the last stream has
begun count, when all of them are open.

With `--leave-after N` each client goes away after N tokens. Its stream's number stands for `#` in the body, and `left` says
when each of them went, in seconds on the machine's monotonic clock: the engine's /gone tells when it noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.load import percentile, processor_seconds, request_of

_OK: Final = b"HTTP/1.1 200"
_PATIENCE_S: Final = 30.0
# Bytes of an answer's end that tell whether it is whole.
_TAIL: Final = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. Times are in seconds."""

    url: str
    body: str
    streams: int
    tokens: int
    ramp: float
    expect: bytes
    token: bytes
    leave_after: int


@dataclass(slots=True)
class Tally:
    """What came of it; times are in seconds."""

    gaps: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    left: dict[int, float] = field(default_factory=dict)
    tokens: int = 0
    whole: int = 0
    errors: int = 0
    error: str = ""

    def fail(self, why: str) -> None:
        """Counts an error and keeps the first one's reason."""
        self.errors += 1
        self.error = self.error or why


class Stream(asyncio.Protocol):
    """One connection with one stream."""

    def __init__(self, plan: Plan, tally: Tally, number: int, steady: float, done: asyncio.Future[None]) -> None:
        self._plan, self._tally, self._number, self._steady, self._done = plan, tally, number, steady, done
        self._transport: asyncio.Transport | None = None
        self._sent = self._last = 0.0
        self._tokens = 0
        self._tail = b""
        self._is_good = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the request."""
        # uvloop's transport has the methods, but not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._sent = time.monotonic()
        body = self._plan.body.replace("#", str(self._number))
        self._transport.write(request_of(self._plan.url, body, "text/event-stream"))

    def data_received(self, data: bytes) -> None:
        """Counts the tokens of a piece."""
        now = time.monotonic()
        if not self._is_good:
            if not data.startswith(_OK):
                self._end(data[:400].decode(errors="replace"))
                return
            self._is_good = True
        self._tail = (self._tail + data)[-_TAIL:]
        tokens = data.count(self._plan.token)
        if tokens:
            self._count(tokens, now)
        if self._plan.leave_after and self._tokens >= self._plan.leave_after:
            self._tally.left[self._number] = time.monotonic()
            self._end()
        elif self._tokens >= self._plan.tokens and self._plan.expect in self._tail:
            self._tally.whole += 1
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """A stream that is cut is an error."""
        self._end(f"the server closed the connection after {self._tokens} tokens: {exc}")

    def _count(self, tokens: int, now: float) -> None:
        if not self._last:
            self._tally.first_token.append(now - self._sent)
        elif self._last >= self._steady:
            self._tally.gaps.append(now - self._last)
        self._last = now
        self._tokens += tokens
        self._tally.tokens += tokens

    def _end(self, why: str = "") -> None:
        if self._done.done():
            return
        if why:
            self._tally.fail(why)
        self._done.set_result(None)
        if self._transport is not None:
            self._transport.abort()


async def drive(plan: Plan) -> Tally:
    """Carries the plan out."""
    loop = asyncio.get_running_loop()
    target = urlsplit(plan.url)
    tally = Tally()
    waits: list[asyncio.Future[None]] = []
    began = time.monotonic()
    for number in range(plan.streams):
        await asyncio.sleep(began + plan.ramp * number / plan.streams - time.monotonic())
        waits.append(loop.create_future())
        make = partial(Stream, plan, tally, number, began + plan.ramp, waits[-1])
        await loop.create_connection(make, target.hostname or "127.0.0.1", target.port or 80)
    late: set[asyncio.Future[None]] = set(waits)
    known = -1
    # As long as tokens come there is no reason to give up.
    while late and tally.tokens != known:
        known = tally.tokens
        _, late = await asyncio.wait(late, timeout=_PATIENCE_S)
    for _ in late:
        tally.fail(f"no token for {_PATIENCE_S:g} s")
    return tally


def summary(tally: Tally) -> dict[str, object]:
    """The figures of a run."""
    figures: dict[str, object] = {
        "whole": tally.whole,
        "errors": tally.errors,
        "error": tally.error,
        "tokens": tally.tokens,
        "client_cpu_s": processor_seconds(),
    }
    for name, values in (("gap", tally.gaps), ("first_token", tally.first_token)):
        ordered = sorted(values)
        for percent in (50, 99, 100):
            figures[f"{name}_p{percent}_ms"] = round(percentile(ordered, percent) * 1000, 3)
    if tally.left:
        figures["left"] = tally.left
    return figures


def main() -> None:
    """Reads the arguments, drives, and prints."""
    parser = argparse.ArgumentParser(description="Many paced streams at once.")
    parser.add_argument("url")
    parser.add_argument("--body", required=True, help="JSON to POST; # stands for the stream's number")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100, help="how many a whole stream has")
    parser.add_argument("--ramp", type=float, default=1.0)
    parser.add_argument("--expect", default="[DONE]", help="what a whole stream ends with")
    parser.add_argument("--token", default="~", help="a character that each token holds once")
    parser.add_argument("--leave-after", type=int, default=0, help="tokens after which each client leaves; 0 for never")
    given = parser.parse_args()
    plan = Plan(
        url=given.url,
        body=given.body,
        streams=given.streams,
        tokens=given.tokens,
        ramp=given.ramp,
        expect=given.expect.encode(),
        token=given.token.encode(),
        leave_after=given.leave_after,
    )
    print(json.dumps(summary(uvloop.run(drive(plan)))))


if __name__ == "__main__":
    main()
