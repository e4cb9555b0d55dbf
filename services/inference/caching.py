"""Answers again what has been answered: repeatable generations, and vectors.

What is asked for in the same words is found by its key; the same question in other words by the semantic cache, where
there is one.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from penstock.assignment import RequestType
from penstock.exposures import Execution

from services.chassis.call import current_call
from services.chassis.errors import Failure
from services.inference.admission import Priority
from services.inference.cache_keys import is_repeatable, response_key, scope_key
from services.inference.engine import Delta, FinishReason
from services.inference.flights import Flights
from services.inference.generation import CacheMode, Finished, Started, assignment_of
from services.inference.inference import executed
from services.inference.replays import Asked, Kept, joined, read, replayed, ridden, written
from services.inference.semantic.questions import marks_of, question_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from penstock.assignment import Treatment

    from services.chassis.cache.tiers import Tiers
    from services.inference.auto.decision import Decision
    from services.inference.engine import Generation
    from services.inference.generation import Embedded, Event, Request
    from services.inference.inference import Assigner
    from services.inference.routing import Route
    from services.inference.semantic.index import SemanticIndex, Sought
    from services.inference.serving import Streams


class Embeds(Protocol):
    """Embeds as `Inference` does."""

    async def embed(self, model: str, inputs: Sequence[str], priority: Priority = Priority.DEFAULT) -> Embedded:
        """Embeds the inputs, all or none."""


class CachedInference:
    """Inference behind a cache of answers.

    Args:
        inner: Generates what is not cached, and everything that is not repeatable.
        embeds: Embeds.
        plan: As `Inference.plan`.
        shape: As `Inference.shape`.
        assigner: The one of `inner`; None where there are no experiments.
        tiers: Where answers are kept.
        semantic: Finds answers to the same question in other words; None where none are wanted.
    """

    def __init__(
        self,
        inner: Streams,
        embeds: Embeds,
        *,
        plan: Callable[[Request, Generation], tuple[Route, Generation]],
        shape: Callable[[Request, Treatment | None], Generation],
        assigner: Assigner | None,
        tiers: Tiers,
        semantic: SemanticIndex | None = None,
    ) -> None:
        self._inner = inner
        self._embeds = embeds
        self._plan = plan
        self._shape = shape
        self._assigner = assigner
        self._tiers = tiers
        self._semantic = semantic
        self._flights = Flights()

    def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """As `Inference.stream`. Running usage is not told where the answer is cached."""
        if request.cache is CacheMode.BYPASS:
            self._tiers.lookups.bypassed += 1
            return self._inner.stream(request)
        asked = self._repeatable(request)
        if isinstance(asked, Asked):
            return self._shared(asked)
        # What is not repeatable passes by: the experiments are evaluated where they always were. What was decided stays so.
        return self._inner.stream(request if asked is None else replace(request, decision=asked))

    async def embed(self, model: str, inputs: Sequence[str], priority: Priority = Priority.DEFAULT) -> Embedded:
        """As `Inference.embed`."""
        return await self._embeds.embed(model, inputs, priority)

    def _repeatable(self, request: Request) -> Asked | Decision | None:
        """The request, if it may be answered again; else what was decided for it meanwhile."""
        treatment = None
        if self._assigner is not None and request.assignment is None:
            treatment = self._assigner.assign(
                RequestType.GENERATE,
                user=request.user,
                conversation=request.conversation,
                request_id=request.request_id,
                attributes=request.attributes,
            )
        try:
            generation = self._shape(request, treatment)
            route, planned = self._plan(request, generation)
        except Failure:
            # Told by the one who is asked next.
            return None
        model = route.steps[0][0].found.model
        if not is_repeatable(planned, model):
            return route.decision
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
            decision=route.decision,
            prompt=None,
            rendered=generation.prompt,
        )
        key = response_key(planned, model, assignment, scope)
        question = question_of(planned, model) if self._semantic is not None and request.cache is CacheMode.USE else ""
        of_question = scope_key(planned, model, assignment, scope, marks_of(question)) if question else b""
        return Asked(shaped, treatment, model, key, route.alias, route.decision, question, of_question)

    async def _shared(self, asked: Asked) -> AsyncGenerator[Event, None]:
        started: Started | None = None
        finished: Finished | None = None
        try:
            async with aclosing(self._answer(asked)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        started = event
                    elif isinstance(event, Finished):
                        finished = event
                    yield event
        finally:
            # A cached answer is met like any other, and an aborted one too: see `Inference.stream`.
            self._expose(asked, started, finished)

    def _expose(self, asked: Asked, started: Started | None, finished: Finished | None) -> None:
        if self._assigner is None or asked.treatment is None:
            return
        planned = asked.model
        model, engine = (started.model, started.engine) if started is not None else (planned.name, planned.engine)
        attempts = finished.attempts if finished is not None else started.attempts if started is not None else ()
        # Only the planned model's weights are known here.
        digest = planned.fingerprint if (model, engine) == (planned.name, planned.engine) else ""
        cached = started is not None and started.cached
        execution = Execution(digest, cached=cached, attempts=() if cached else executed(attempts))
        self._assigner.expose(
            asked.treatment, request_id=asked.request.request_id, model=model, engine=engine, execution=execution
        )

    async def _answer(self, asked: Asked) -> AsyncGenerator[Event, None]:
        arrived = time.monotonic()
        request, lookups = asked.request, self._tiers.lookups
        # The class of priority is no part of the answer, but of how long it takes: nobody rides with a slower class.
        boarding = (asked.key, request.priority, request.cache)
        sought: Sought | None = None
        if request.cache in {CacheMode.USE, CacheMode.EXACT}:
            kept = None if self._flights.under_way(boarding) else read(await self._tiers.get(asked.key))
            similarity: float | None = None
            if kept is None and self._flights.under_way(boarding) is None:
                sought = await self._sought(asked)
                kept, similarity = await self._alike(sought)
            if kept is not None:
                for event in replayed(kept, asked, arrived, similarity):
                    yield event
                return
            # Another one may have departed meanwhile.
            flight = self._flights.under_way(boarding)
            if flight is not None:
                lookups.joined += 1
                async with aclosing(ridden(flight.ride(), asked, arrived)) as events:
                    async for event in events:
                        yield event
                return
        else:
            lookups.bypassed += 1
        own = self._flights.depart(boarding, self._inner.stream(request), partial(self._keep, asked, sought))
        async with aclosing(own.ride()) as events:
            async for event in events:
                yield event

    async def _sought(self, asked: Asked) -> Sought | None:
        if self._semantic is None or not asked.question:
            return None
        return await self._semantic.seek(asked.scope, asked.question)

    async def _alike(self, sought: Sought | None) -> tuple[Kept | None, float | None]:
        """The answer to the same question in other words, and how alike the two are."""
        if self._semantic is None or sought is None or (match := self._semantic.match(sought)) is None:
            return None, None
        kept = read(await self._tiers.get(match.key))
        if kept is None:
            # It has become too old, or has made room for others.
            self._semantic.looks.missed += 1
            return None, None
        self._semantic.looks.found += 1
        return kept, match.similarity

    def _keep(self, asked: Asked, sought: Sought | None, events: Sequence[Event]) -> None:
        """Keeps a whole answer, unless another model than the one that the key stands for has given it."""
        started, finished = events[0], events[-1]
        if not isinstance(started, Started) or not isinstance(finished, Finished) or finished.finish_reason is None:
            return
        if (started.model, started.engine) != (asked.model.name, asked.model.engine):
            return
        deltas = tuple(joined(event for event in events if isinstance(event, Delta)))
        reason, reasons, usage = finished.finish_reason, finished.finish_reasons, finished.usage
        self._tiers.put({asked.key: written(Kept(started.model, started.engine, deltas, reason, reasons, usage))})
        if self._semantic is not None and sought is not None and reason is FinishReason.STOP:
            self._semantic.add(sought, asked.key)
