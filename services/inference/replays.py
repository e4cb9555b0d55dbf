"""Answers that are kept, and how they are told again as a stream."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec

from services.inference.engine import Delta, FinishReason, Usage
from services.inference.generation import Finished, Started
from services.inference.progress import Timings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

    from penstock.assignment import Treatment

    from services.inference.auto.decision import Decision
    from services.inference.engine import Model
    from services.inference.generation import Event, Request

# Deltas shorter than this many characters are kept joined: a replay is a stream still, but not one message a token.
_PIECE: Final = 32


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole answer, as it is kept."""

    model: str
    engine: str
    deltas: tuple[Delta, ...]
    finish_reason: FinishReason
    finish_reasons: tuple[FinishReason, ...]
    usage: Usage


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Kept).decode


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may be answered again: what it is kept by, and what its variant makes of it."""

    request: Request
    treatment: Treatment | None
    model: Model
    key: bytes
    alias: str
    decision: Decision | None
    question: str = ""
    scope: bytes = b""


def written(kept: Kept) -> bytes:
    """What is kept."""
    return _encode(kept)


def read(value: bytes | None) -> Kept | None:
    """What was kept; None where it is nothing that this version can read."""
    if value is None:
        return None
    try:
        return _decode(value)
    except msgspec.DecodeError:
        return None


def replayed(kept: Kept, asked: Asked, arrived: float, similarity: float | None) -> Iterator[Event]:
    """The events of an answer that was kept, told as the asker's own."""
    request = asked.request
    yield Started(
        kept.model,
        kept.engine,
        request.assignment,
        request.request_id,
        alias=asked.alias,
        cached=True,
        decision=asked.decision,
        prompt=request.rendered,
        similarity=similarity,
    )
    first = time.monotonic() - arrived if kept.deltas else None
    yield from kept.deltas
    yield kept.usage
    timings = Timings(first, time.monotonic() - arrived)
    yield Finished(kept.finish_reason, kept.usage, timings, finish_reasons=kept.finish_reasons)


async def ridden(events: AsyncGenerator[Event, None], asked: Asked, arrived: float) -> AsyncGenerator[Event, None]:
    """The events of someone else's generation, told as the rider's own."""
    first: float | None = None
    request = asked.request
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Started):
                yield Started(
                    event.model,
                    event.engine,
                    request.assignment,
                    request.request_id,
                    attempts=event.attempts,
                    alias=asked.alias,
                    cached=True,
                    decision=asked.decision,
                    prompt=request.rendered,
                )
            elif isinstance(event, Finished):
                yield replace(event, timings=Timings(first, time.monotonic() - arrived))
            else:
                if first is None and isinstance(event, Delta):
                    first = time.monotonic() - arrived
                yield event


def joined(deltas: Iterable[Delta]) -> Iterator[Delta]:
    """The deltas, with short ones made one."""
    texts: list[str] = []
    last: Delta | None = None
    tokens = length = 0
    for delta in deltas:
        is_plain = not delta.tool_calls and not delta.logprobs
        if last is not None and (not is_plain or delta.alternative != last.alternative or length >= _PIECE):
            yield replace(last, text="".join(texts), tokens=tokens)
            last = None
        if not is_plain:
            yield delta
            continue
        if last is None:
            last, texts, tokens, length = delta, [], 0, 0
        texts.append(delta.text)
        tokens += delta.tokens
        length += len(delta.text)
    if last is not None:
        yield replace(last, text="".join(texts), tokens=tokens)
