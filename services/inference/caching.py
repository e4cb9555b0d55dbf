"""Answers again what has been answered: repeatable generations, and vectors.

Only exact repetition counts; there is no guessing here which questions mean the same.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from penstock.assignment import RequestType

from services.chassis.call import current_call
from services.chassis.errors import Failure
from services.inference.cache_keys import is_repeatable, response_key
from services.inference.engine import Delta, FinishReason, Usage
from services.inference.flights import Flights
from services.inference.generation import CacheMode, Finished, Started, assignment_of, treated
from services.inference.progress import Timings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    from penstock.assignment import Treatment

    from services.inference.engine import Generation, Model
    from services.inference.generation import Embedded, Event, Request
    from services.inference.inference import Assigner
    from services.inference.routing import Route
    from services.inference.serving import Streams
    from services.chassis.cache.tiers import Tiers

# Deltas shorter than this many characters are kept joined: a replay is a stream still, but not one message a token.
_PIECE: Final = 32


class Embeds(Protocol):
    """Embeds as `Inference` does."""

    async def embed(self, model: str, inputs: Sequence[str]) -> Embedded:
        """Embeds the inputs, all or none."""


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
class _Asked:
    """A request that may be answered again: what it is kept by, and what its variant makes of it."""

    request: Request
    treatment: Treatment | None
    model: Model
    key: bytes
    alias: str


class CachedInference:
    """Inference behind a cache of answers.

    Args:
        inner: Generates what is not cached, and everything that is not repeatable.
        embeds: Embeds.
        plan: As `Inference.plan`.
        assigner: The one of `inner`; None where there are no experiments.
        tiers: Where answers are kept.
    """

    def __init__(
        self,
        inner: Streams,
        embeds: Embeds,
        plan: Callable[[Request, Generation], tuple[Route, Generation]],
        assigner: Assigner | None,
        tiers: Tiers,
    ) -> None:
        self._inner = inner
        self._embeds = embeds
        self._plan = plan
        self._assigner = assigner
        self._tiers = tiers
        self._flights = Flights()

    def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """As `Inference.stream`. Running usage is not told where the answer is cached."""
        if request.cache is CacheMode.BYPASS:
            self._tiers.lookups.bypassed += 1
            return self._inner.stream(request)
        asked = self._repeatable(request)
        # What is not repeatable passes by at no cost: the experiments are then evaluated where they always were.
        return self._inner.stream(request) if asked is None else self._shared(asked)

    async def embed(self, model: str, inputs: Sequence[str]) -> Embedded:
        """As `Inference.embed`."""
        return await self._embeds.embed(model, inputs)

    def _repeatable(self, request: Request) -> _Asked | None:
        treatment = None
        if self._assigner is not None and request.assignment is None:
            treatment = self._assigner.assign(
                RequestType.GENERATE, user=request.user, conversation=request.conversation, request_id=request.request_id
            )
        generation = treated(request, treatment)
        try:
            route, planned = self._plan(request, generation)
        except Failure:
            # Told by the one who is asked next.
            return None
        model = route.steps[0][0].found.model
        if not is_repeatable(planned, model):
            return None
        assignment = request.assignment or assignment_of(treatment)
        scope = current_call().tenant or request.user
        # What the variant makes of the request goes on with it, so that nobody evaluates the experiments again.
        shaped = replace(
            request,
            assignment=assignment,
            model=generation.model,
            messages=generation.messages,
            sampling=generation.sampling,
            max_tokens=generation.max_tokens,
        )
        return _Asked(shaped, treatment, model, response_key(planned, model, assignment, scope), route.alias)

    async def _shared(self, asked: _Asked) -> AsyncGenerator[Event, None]:
        answering = (asked.model.name, asked.model.engine)
        try:
            async with aclosing(self._answer(asked)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        answering = (event.model, event.engine)
                    yield event
        finally:
            # A cached answer is met like any other, and an aborted one too: see `Inference.stream`.
            if self._assigner is not None and asked.treatment is not None:
                model, engine = answering
                self._assigner.expose(asked.treatment, request_id=asked.request.request_id, model=model, engine=engine)

    async def _answer(self, asked: _Asked) -> AsyncGenerator[Event, None]:
        arrived = time.monotonic()
        request, lookups = asked.request, self._tiers.lookups
        # The class of priority is no part of the answer, but of how long it takes: nobody rides with a slower class.
        boarding = (asked.key, request.priority, request.cache)
        if request.cache is CacheMode.USE:
            kept = None if self._flights.under_way(boarding) else _read(await self._tiers.get(asked.key))
            # Another one may have departed meanwhile.
            flight = self._flights.under_way(boarding) if kept is None else None
            if kept is not None:
                for event in _replayed(kept, asked, arrived):
                    yield event
                return
            if flight is not None:
                lookups.joined += 1
                async with aclosing(_riders(flight.ride(), asked, arrived)) as events:
                    async for event in events:
                        yield event
                return
        else:
            lookups.bypassed += 1
        own = self._flights.depart(boarding, self._inner.stream(request), partial(self._keep, asked))
        async with aclosing(own.ride()) as events:
            async for event in events:
                yield event

    def _keep(self, asked: _Asked, events: Sequence[Event]) -> None:
        """Keeps a whole answer, unless another model than the one that the key stands for has given it."""
        started, finished = events[0], events[-1]
        if not isinstance(started, Started) or not isinstance(finished, Finished) or finished.finish_reason is None:
            return
        if (started.model, started.engine) != (asked.model.name, asked.model.engine):
            return
        deltas = tuple(_joined(event for event in events if isinstance(event, Delta)))
        reason, reasons, usage = finished.finish_reason, finished.finish_reasons, finished.usage
        self._tiers.put({asked.key: _encode(Kept(started.model, started.engine, deltas, reason, reasons, usage))})


def _read(value: bytes | None) -> Kept | None:
    if value is None:
        return None
    try:
        return _decode(value)
    except msgspec.DecodeError:
        # Kept by another version of this service.
        return None


def _replayed(kept: Kept, asked: _Asked, arrived: float) -> Iterator[Event]:
    request = asked.request
    yield Started(kept.model, kept.engine, request.assignment, request.request_id, alias=asked.alias, cached=True)
    first = time.monotonic() - arrived if kept.deltas else None
    yield from kept.deltas
    yield kept.usage
    timings = Timings(first, time.monotonic() - arrived)
    yield Finished(kept.finish_reason, kept.usage, timings, finish_reasons=kept.finish_reasons)


async def _riders(events: AsyncGenerator[Event, None], asked: _Asked, arrived: float) -> AsyncGenerator[Event, None]:
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
                )
            elif isinstance(event, Finished):
                yield replace(event, timings=Timings(first, time.monotonic() - arrived))
            else:
                if first is None and isinstance(event, Delta):
                    first = time.monotonic() - arrived
                yield event


def _joined(deltas: Iterable[Delta]) -> Iterator[Delta]:
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
