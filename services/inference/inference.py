"""Serves one request: finds its model, applies the experiment that it takes part in, and streams what the engine says."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from penstock.assignment import RequestType

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, Generation, Message, Role, Sampling, Usage, UsageSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from penstock.assignment import Treatment

    from services.inference.engine import Embeddings, FinishReason, Model, Passage
    from services.inference.models import Found, Models

# Seconds between running counts in a stream: often enough to bill an abort by, too seldom to cost anything.
_USAGE_EVERY: Final = 1.0


class Assigner(Protocol):
    """What inference needs of the experiments: both are in process and wait for nothing."""

    def assign(
        self, request_type: RequestType, *, user: str = "", conversation: str = "", request_id: str = ""
    ) -> Treatment | None:
        """What the request's unit gets; None where no experiment matches."""

    def expose(self, treatment: Treatment, *, request_id: str, model: str = "", engine: str = "") -> None:
        """Records that the unit met its variant."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which variant of which experiment shapes the response; `key` is what outcomes name."""

    key: str
    experiment: str
    variant: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for.

    Attributes:
        request_id: As in logs.
        model: Name, `auto`, or empty for `auto`.
        messages: Oldest first, at least one.
        passages: What to answer from.
        sampling: How tokens are chosen.
        max_tokens: Most tokens to generate; None leaves the engine's limit.
        stop: Sequences that end the text.
        user: The end user's id, or empty.
        conversation: The conversation's id, or empty.
        assignment: Made already by the calling service, which has recorded the exposure too; nothing is evaluated then.
    """

    request_id: str
    model: str
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    user: str = ""
    conversation: str = ""
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The first event, sent once the engine has said something: what was decided."""

    model: str
    engine: str
    assignment: Assignment | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the arrival of the request; `first_token` is None when there was none."""

    first_token: float | None
    total: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. With `failure` the text is incomplete, and `finish_reason` is None."""

    finish_reason: FinishReason | None
    usage: Usage
    timings: Timings
    failure: Failure | None = None


Event: TypeAlias = Started | Delta | Usage | Finished


@dataclass(frozen=True, slots=True)
class Completed:
    """A whole generation."""

    started: Started
    text: str
    finished: Finished


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, and the model that made them."""

    model: Model
    embeddings: Embeddings


class Inference:
    """Generates and embeds with whatever models there are.

    Args:
        models: The models.
        assigner: Evaluates experiments; None where there are none.
    """

    def __init__(self, models: Models, assigner: Assigner | None) -> None:
        self._models = models
        self._assigner = assigner

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Streams Started, deltas and running usage, and exactly one Finished.

        Closing it stops the engine. A failure before the first event is raised; a later one is told in Finished, then raised.
        """
        run = _Run(request.request_id)
        treatment = self._evaluate(request)
        generation = _treated(request, treatment)
        assignment = request.assignment or _assignment_of(treatment)
        found: Found | None = None
        try:
            found = self._models.writer(generation.model)
            generation = replace(generation, model=found.model.name)
            started = Started(found.model.name, found.model.engine, assignment, request.request_id)
            async with aclosing(found.engine.generate(generation)) as events:
                async for event in events:
                    if not run.has_begun:
                        run.has_begun = True
                        yield started
                    if isinstance(event, Delta):
                        run.count(event)
                        yield event
                        if run.usage_is_due():
                            yield run.usage()
                    else:
                        usage = run.completed(event.usage)
                        yield usage
                        yield Finished(event.finish_reason, usage, run.timings())
                        return
            # An engine that keeps its protocol never gets here.
            raise Failure(Reason.GENERATION_FAILED, "the engine ended without saying so")  # noqa: TRY301 - ends as all others
        except Failure as failure:
            if found is not None and failure.reason is Reason.ENGINE_UNAVAILABLE:
                self._models.suspect(found.engine)
            if run.has_begun:
                yield Finished(None, run.usage(), run.timings(), failure)
            raise
        finally:
            # Also when the variant failed or was aborted: an exposure that depends on the outcome would bias the comparison.
            self._expose(treatment, request, found)

    async def complete(self, request: Request) -> Completed:
        """Generates all of the text at once; raises Failure if it does not come to its end."""
        texts: list[str] = []
        started: Started | None = None
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    texts.append(event.text)
                elif isinstance(event, Started):
                    started = event
                elif isinstance(event, Finished) and event.failure is None and started is not None:
                    return Completed(started, "".join(texts), event)
        raise Failure(Reason.GENERATION_FAILED, "the generation ended without saying so")

    async def embed(self, model: str, inputs: Sequence[str]) -> Embedded:
        """Embeds the inputs, all or none. Raises Failure as `Models.embedder` and the engine do."""
        found = self._models.embedder(model)
        try:
            embeddings = await found.engine.embed(found.model.name, inputs)
        except Failure as failure:
            if failure.reason is Reason.ENGINE_UNAVAILABLE:
                self._models.suspect(found.engine)
            raise
        return Embedded(found.model, embeddings)

    def _evaluate(self, request: Request) -> Treatment | None:
        if self._assigner is None or request.assignment is not None:
            return None
        return self._assigner.assign(
            RequestType.GENERATE, user=request.user, conversation=request.conversation, request_id=request.request_id
        )

    def _expose(self, treatment: Treatment | None, request: Request, found: Found | None) -> None:
        if self._assigner is None or treatment is None:
            return
        model, engine = (found.model.name, found.model.engine) if found else ("", "")
        self._assigner.expose(treatment, request_id=request.request_id, model=model, engine=engine)


class _Run:
    """What one generation has taken so far."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.has_begun = False
        self._arrived = time.monotonic()
        self._first_token: float | None = None
        self._tokens = 0
        self._usage_told = self._arrived

    def count(self, delta: Delta) -> None:
        if self._first_token is None:
            self._first_token = time.monotonic() - self._arrived
        self._tokens += delta.tokens

    def usage_is_due(self) -> bool:
        now = time.monotonic()
        if now - self._usage_told < _USAGE_EVERY:
            return False
        self._usage_told = now
        return True

    def usage(self) -> Usage:
        """Counts so far: the engine tells its own only at the end."""
        return Usage(input_tokens=None, output_tokens=self._tokens, source=UsageSource.COUNTED)

    def completed(self, usage: Usage) -> Usage:
        """The engine's own counts, or ours where it has none."""
        return usage if usage.output_tokens is not None else replace(self.usage(), input_tokens=usage.input_tokens)

    def timings(self) -> Timings:
        return Timings(self._first_token, time.monotonic() - self._arrived)


def _assignment_of(treatment: Treatment | None) -> Assignment | None:
    return Assignment(treatment.assignment, treatment.experiment, treatment.variant) if treatment else None


def _treated(request: Request, treatment: Treatment | None) -> Generation:
    """What to generate from, with the variant's settings in place of the request's."""
    generation = Generation(
        request.model, request.messages, request.passages, request.sampling, request.max_tokens, request.stop
    )
    if treatment is None:
        return generation
    messages = generation.messages
    if treatment.prompt is not None:
        rest = tuple(message for message in messages if message.role is not Role.SYSTEM)
        messages = (Message(Role.SYSTEM, treatment.prompt), *rest) if treatment.prompt else rest
    sampling = replace(
        generation.sampling,
        temperature=generation.sampling.temperature if treatment.temperature is None else treatment.temperature,
        top_p=generation.sampling.top_p if treatment.top_p is None else treatment.top_p,
    )
    return replace(
        generation,
        model=generation.model if treatment.model is None else treatment.model,
        messages=messages,
        sampling=sampling,
        max_tokens=generation.max_tokens if treatment.max_tokens is None else treatment.max_tokens,
    )
