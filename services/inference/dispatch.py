"""Asks one backend after another until one has said something: from then on the request is that one's."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from services.chassis.errors import Failure, Reason
from services.inference.admission import Priority
from services.inference.answers import held
from services.inference.engine import End, FinishReason
from services.inference.requirements import check, missing
from services.inference.resilience import Attempt, Outcome, Patience, Verdict, verdict_on
from services.inference.routing import left_alone

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from services.inference.backends import Backend, Lease
    from services.inference.engine import Embeddings, Event, Generation
    from services.inference.routing import Route, Router

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer that has begun. Whoever holds it closes `events` and ends the lease.

    Attributes:
        lease: The request at its backend.
        first: The first event.
        events: The events after it.
    """

    lease: Lease
    first: Event
    events: AsyncGenerator[Event, None]


@dataclass(slots=True)
class Dispatch:
    """One request's way to an answer.

    Attributes:
        router: Picks the backends.
        patience: How long and how often to try.
        first_token: Seconds that one backend may take to its first content.
        deadline: On the clock of `time.monotonic`, when the request must be over; None for never.
        priority: Who goes first at an engine that has only so much room.
        queued: Seconds waited for such room.
        attempts: Those that have failed so far.
        last: The backend asked last; None before the first.
        route: Where the request may go; None before it is known.
    """

    router: Router
    patience: Patience
    first_token: float
    deadline: float | None
    priority: Priority = Priority.DEFAULT
    queued: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    last: Backend | None = None
    route: Route | None = None

    async def open(self, route: Route, generation: Generation) -> Opened:
        """Gets the first event of an answer.

        Raises:
            Failure: What the last attempt failed with; its metadata tell the attempts where there were several.
        """
        self.route = route
        failure: Failure | None = None
        for number, replicas in enumerate(route.steps, 1):
            try:
                opened = await self._try_model(replicas, route.affinity, lambda backend: self._ask(backend, generation))
            except Failure as caught:
                # That a fallback is left alone says less than what happened to the model that was asked for.
                failure = caught if failure is None or self.attempts else failure
                if verdict_on(caught) is Verdict.NOWHERE or len(self.attempts) >= self.patience.total:
                    break
                continue
            if number < len(route.steps) and _is_withheld(opened.first):
                await opened.events.aclose()
                opened.lease.answered()
                failure = _withheld(opened.lease.backend)
                self._note(opened.lease, failure)
                continue
            return opened
        assert failure is not None, "a route has at least one step"  # noqa: S101 - for the type checker
        if len(self.attempts) > 1:
            failure.metadata["attempts"] = ", ".join(f"{one.backend} {one.model} {one.reason}" for one in self.attempts)
        raise failure

    async def embed(self, replicas: Sequence[Backend], inputs: Sequence[str]) -> Embeddings:
        """Embeds the inputs, all or none, at one of the servers of one model. Raises Failure as the engine does."""
        return await self._try_model(replicas, "", lambda backend: self._embed_at(backend, inputs))

    async def _try_model(self, replicas: Sequence[Backend], affinity: str, ask: Callable[[Backend], Awaitable[_T]]) -> _T:
        fresh = list(replicas)
        failed: list[Backend] = []
        tries = 0
        while True:
            backend = self.router.choose(fresh, affinity) if fresh else None
            if backend is None:
                raise left_alone(replicas)
            tries += 1
            began = time.monotonic()
            try:
                return await ask(backend)
            except Failure as failure:
                is_spent = tries >= self.patience.tries or len(self.attempts) >= self.patience.total
                if is_spent or verdict_on(failure) is not Verdict.AGAIN:
                    raise
                fresh.remove(backend)
                pause = self.patience.pause(tries, failure.retry_after)
                if pause is not None and time.monotonic() - began <= self.patience.seconds:
                    failed.append(backend)
                if any(one.breaker.lets_through() for one in fresh):
                    continue
                fresh, failed = [one for one in failed if one.breaker.lets_through()], []
                if not fresh or pause is None or not self._allows(pause):
                    raise
                await asyncio.sleep(pause)

    async def _embed_at(self, backend: Backend, inputs: Sequence[str]) -> Embeddings:
        self.last = backend
        lease = backend.enter()
        try:
            embeddings = await backend.found.engine.embed(backend.found.model.name, inputs)
        except Failure as failure:
            self._failed(lease, failure)
            raise
        except BaseException:
            lease.left()
            raise
        lease.answered()
        return embeddings

    async def _ask(self, backend: Backend, generation: Generation) -> Opened:
        self.last = backend
        model = backend.found.model
        if missing(model, generation) is not None:
            check(model, generation, (one.model for one in self.router.models.listed()))
        generation = replace(generation, model=model.name)
        permit = None
        if backend.admission is not None:
            permit = await backend.admission.enter(self.priority, most_seconds=self.left())
            self.queued += permit.queued
        lease = backend.enter(permit)
        try:
            events = backend.found.engine.generate(generation)
            if generation.form.output is not None:
                events = held(generation, events)
            first = await self._first(events, backend)
        except Failure as failure:
            self._failed(lease, failure)
            raise
        except BaseException:
            lease.left()
            raise
        return Opened(lease, first, events)

    async def _first(self, events: AsyncGenerator[Event, None], backend: Backend) -> Event:
        left = self.left()
        is_engines = left is None or self.first_token < left
        try:
            async with asyncio.timeout(self.first_token if is_engines else left):
                return await anext(events)
        except StopAsyncIteration:
            raise unended() from None
        except TimeoutError:
            if not is_engines:
                raise Failure(Reason.DEADLINE_EXCEEDED, "the time allowed for this generation has passed") from None
            engine = backend.found.engine.name
            message = (
                f"engine {engine} is not available: it gave no text within {self.first_token:g} s; try again, or choose another"
            )
            raise Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"engine": engine}) from None

    def _failed(self, lease: Lease, failure: Failure) -> None:
        lease.failed(failure)
        self._note(lease, failure)
        if failure.reason is Reason.ENGINE_UNAVAILABLE:
            self.router.models.suspect(lease.backend.found.engine)

    def _note(self, lease: Lease, failure: Failure) -> None:
        self.attempts.append(attempt_of(lease, Outcome.FAILED, failure.reason))

    def left(self) -> float | None:
        """Seconds until the deadline, never below 0; None where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _allows(self, pause: float) -> bool:
        left = self.left()
        return left is None or pause < left


def attempt_of(lease: Lease, outcome: Outcome, reason: Reason | None = None, output_tokens: int = 0) -> Attempt:
    """How one attempt stands."""
    model = lease.backend.found.model
    return Attempt(lease.backend.name, model.engine, model.name, outcome, reason, output_tokens, lease.seconds())


def unended() -> Failure:
    """GENERATION_FAILED: an engine broke its protocol."""
    return Failure(Reason.GENERATION_FAILED, "the engine ended without saying so")


def _is_withheld(event: Event) -> bool:
    return isinstance(event, End) and event.finish_reason is FinishReason.CONTENT_FILTER


def _withheld(backend: Backend) -> Failure:
    model = backend.found.model
    message = f"model {model.name!r}: its content policy holds back the whole answer"
    return Failure(Reason.CONTENT_POLICY, message, metadata={"engine": model.engine, "model": model.name})
