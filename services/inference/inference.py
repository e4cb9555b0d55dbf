"""Serves one request: finds its model, applies the experiment that it takes part in, and streams what the engine says."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from penstock.assignment import RequestType
from penstock.exposures import ExecutedAttempt, Execution

from services.chassis.call import current_call
from services.chassis.errors import Failure, Reason
from services.inference.admission import Admission, Permit, Priority, classes_for
from services.inference.answers import Gathering
from services.inference.auto.decision import Decision, Why
from services.inference.auto.outcomes import told_by
from services.inference.dispatch import Dispatch, Opened, attempt_of, unended
from services.inference.engine import Delta, End
from services.inference.generation import Completed, Embedded, Finished, Started, TimeLimits, assignment_of, treated
from services.inference.models import AUTO
from services.inference.progress import Progress
from services.inference.resilience import Attempt, Outcome, Patience
from services.inference.routing import Router, affinity_of
from services.inference.watch import StreamWatch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from penstock.assignment import Treatment

    from services.chassis.call import Call
    from services.inference.auto.records import Record
    from services.inference.engine import FinishReason, Generation
    from services.inference.generation import Event, Renders, Request
    from services.inference.models import Found, Models
    from services.inference.prompts.use import PromptReference
    from services.inference.routing import Route

_ROOM: Final = 512
# Attempts that an exposure keeps, the last ones.
_KEPT: Final = 32
EMBEDDING_ROOM: Final = (64, classes_for(64))


class Assigner(Protocol):
    """What inference needs of the experiments: both are in process and wait for nothing."""

    def assign(
        self,
        request_type: RequestType,
        *,
        user: str = "",
        conversation: str = "",
        request_id: str = "",
        attributes: Mapping[str, str] = ...,
    ) -> Treatment | None:
        """What the request's unit gets; None where no experiment matches."""

    def expose(
        self, treatment: Treatment, *, request_id: str, model: str = "", engine: str = "", execution: Execution = ...
    ) -> None:
        """Records that the unit met its variant, and what was really executed."""


class Inference:
    """Generates and embeds with whatever models there are.

    Args:
        models: The models.
        assigner: Evaluates experiments; None where there are none.
        router: Finds and picks backends; one over `models` where not given.
        admission: Hands out room; one with room for 512 where not given.
        embedding: The same for requests to embed; one as `EMBEDDING_ROOM` says where not given.
        limits: How long a generation may take.
        patience: How often to try again.
        prompts: Renders the prompts that requests name; None where none are kept.
        record: Takes in what became of a request that was routed by what is recorded.
    """

    def __init__(
        self,
        models: Models,
        assigner: Assigner | None,
        *,
        router: Router | None = None,
        admission: Admission | None = None,
        embedding: Admission | None = None,
        limits: TimeLimits | None = None,
        patience: Patience | None = None,
        prompts: Renders | None = None,
        record: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._models = models
        self._record = record
        self._assigner = assigner
        self._router = router or Router(models)
        self._admission = admission or Admission(_ROOM)
        # Apart from generation, which holds its room for long.
        self._embedding = embedding or Admission(*EMBEDDING_ROOM)
        self._limits = limits or TimeLimits()
        self._patience = patience or Patience()
        self._prompts = prompts

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Streams Started, deltas and running usage, and exactly one Finished.

        Closing it stops the engine and gives its place up. A failure before the first event is raised; a later one is told in
        Finished, then raised.
        """
        progress = Progress()
        call = current_call()
        treatment = self._evaluate(request)
        generation = self.shape(request, treatment)
        dispatch = Dispatch(self._router, self._patience, self._limits.first_token, self._deadline(call), request.priority)
        permit: Permit | None = None
        opened: Opened | None = None
        end: FinishReason | Failure | None = None
        try:
            route, generation = self.plan(request, generation)
            permit = await self._admission.enter(request.priority, call.tenant or request.user, dispatch.left())
            opened = await dispatch.open(route, generation)
            progress.queued = permit.queued + dispatch.queued
            lease, event = opened.lease, opened.first
            yield _started(
                request, treatment, (*dispatch.attempts, attempt_of(lease, Outcome.ANSWERED)), route, generation.prompt
            )
            with StreamWatch(lease.backend.found.engine.name, self._limits.inter_token, dispatch.deadline) as watch:
                while not isinstance(event, End):
                    now = time.monotonic()
                    progress.count(event, now)
                    yield event
                    if progress.usage_is_due(now):
                        yield progress.usage()
                    watch.waits(time.monotonic())
                    following = await anext(opened.events, None)
                    watch.goes_on()
                    if following is None:
                        raise unended()
                    event = following
            # The engine is done, however long the client takes to read the end.
            await opened.events.aclose()
            lease.answered()
            end = event.finish_reason
            usage = progress.completed(event.usage)
            attempts = (*dispatch.attempts, attempt_of(lease, Outcome.ANSWERED, None, usage.output_tokens or 0))
            yield usage
            yield Finished(event.finish_reason, usage, progress.timings(), None, event.finish_reasons, attempts)
        except Failure as failure:
            end = failure
            if opened is not None:
                await opened.events.aclose()
                opened.lease.failed(failure)
                attempts = (*dispatch.attempts, attempt_of(opened.lease, Outcome.BROKEN, failure.reason, progress.tokens))
                yield Finished(None, progress.usage(), progress.timings(), failure, attempts=attempts)
            raise
        finally:
            self._tell(request, treatment, dispatch, call.tenant, (opened, progress.tokens, end))
            await _let_go(opened, permit)

    def shape(self, request: Request, treatment: Treatment | None) -> Generation:
        """What to generate from: the prompt rendered, the variant applied. Raises Failure as `Renders.render` does."""
        return treated(request, treatment, self._prompts)

    def plan(self, request: Request, generation: Generation) -> tuple[Route, Generation]:
        """Where the request goes, and the generation with what the policy adds. Raises Failure as `Router.route` does."""
        session = request.session or request.conversation
        key = session or request.user or request.request_id
        affinity = affinity_of(session, generation)
        decided = request.decision or _assigned(request, generation)
        route = self._router.route(generation.model, affinity, key, generation=generation, decided=decided)
        return route, generation if route.defaults is None else route.defaults.completed(generation)

    async def complete(self, request: Request) -> Completed:
        """Generates all of the text at once; raises Failure if it does not come to its end."""
        return await completed(self.stream(request), request.form.alternatives)

    async def embed(self, model: str, inputs: Sequence[str], priority: Priority = Priority.DEFAULT) -> Embedded:
        """Embeds the inputs, all or none. Raises Failure as `Models.embedder`, the engine and `Admission.enter` do."""
        replicas = self._router.embedding(model)
        call = current_call()
        dispatch = Dispatch(self._router, self._patience, self._limits.first_token, self._deadline(call), priority)
        with await self._embedding.enter(priority, call.tenant, dispatch.left()):
            return Embedded(replicas[0].found.model, await dispatch.embed(replicas, inputs))

    def _deadline(self, call: Call) -> float | None:
        own = time.monotonic() + self._limits.total if self._limits.total else None
        return own if call.deadline is None else call.deadline if own is None else min(own, call.deadline)

    def _evaluate(self, request: Request) -> Treatment | None:
        if self._assigner is None or request.assignment is not None:
            return None
        return self._assigner.assign(
            RequestType.GENERATE,
            user=request.user,
            conversation=request.conversation,
            request_id=request.request_id,
            attributes=request.attributes,
        )

    def _tell(
        self,
        request: Request,
        treatment: Treatment | None,
        dispatch: Dispatch,
        tenant: str,
        course: tuple[Opened | None, int, FinishReason | Failure | None],
    ) -> None:
        """Tells the experiments and the records what became of a request: what was opened, its tokens so far, and its end."""
        # Also when the variant failed or was aborted: an exposure that depends on the outcome would bias the comparison.
        opened, tokens, end = course
        attempts = list(dispatch.attempts)
        if opened is not None:
            attempts.append(attempt_of(opened.lease, Outcome.ANSWERED, None, tokens))
        self._expose(treatment, request, dispatch.last.found if dispatch.last else None, _ended(attempts, end))
        if dispatch.route is None or dispatch.route.decision is None:
            return
        for record in told_by(tenant, request.request_id, dispatch.route, attempts, end):
            self._record(record)

    def _expose(self, treatment: Treatment | None, request: Request, found: Found | None, attempts: Sequence[Attempt]) -> None:
        if self._assigner is None or treatment is None:
            return
        model, engine, digest = (found.model.name, found.model.engine, found.model.fingerprint) if found else ("", "", "")
        execution = Execution(digest, attempts=executed(attempts))
        self._assigner.expose(treatment, request_id=request.request_id, model=model, engine=engine, execution=execution)


def _ended(attempts: Sequence[Attempt], end: FinishReason | Failure | None) -> Sequence[Attempt]:
    """With the last one broken where it began to answer and then failed."""
    if not attempts or not isinstance(end, Failure) or attempts[-1].outcome is not Outcome.ANSWERED:
        return attempts
    return (*attempts[:-1], replace(attempts[-1], outcome=Outcome.BROKEN))


def executed(attempts: Sequence[Attempt]) -> tuple[ExecutedAttempt, ...]:
    """Attempts as an exposure keeps them."""
    return tuple(
        ExecutedAttempt(one.backend, one.model, one.outcome.name, one.output_tokens, one.seconds) for one in attempts[-_KEPT:]
    )


async def completed(events: AsyncGenerator[Event, None], alternatives: int) -> Completed:
    """Takes a whole stream in, and gives what it held; raises Failure if it does not come to its end."""
    gathering = Gathering()
    started: Started | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Delta):
                gathering.add(event)
            elif isinstance(event, Started):
                started = event
            elif isinstance(event, Finished) and event.failure is None and started is not None:
                return Completed(started, gathering.answers(alternatives), event)
    raise Failure(Reason.GENERATION_FAILED, "the generation ended without saying so")


async def _let_go(opened: Opened | None, permit: Permit | None) -> None:
    """Stops the engine, and only then gives the place up."""
    try:
        if opened is not None:
            await opened.events.aclose()
    finally:
        if opened is not None:
            opened.lease.left()
        if permit is not None:
            permit.release()


def _started(
    request: Request,
    treatment: Treatment | None,
    attempts: tuple[Attempt, ...],
    route: Route,
    prompt: PromptReference | None,
) -> Started:
    answering = attempts[-1]
    return Started(
        answering.model,
        answering.engine,
        request.assignment or assignment_of(treatment),
        request.request_id,
        attempts=attempts,
        alias=route.alias,
        decision=route.decision,
        prompt=prompt,
    )


def _assigned(request: Request, generation: Generation) -> Decision | None:
    """That a variant names the model: ours by another name than the request's, or one that the caller has applied."""
    is_named = generation.model not in {"", AUTO}
    if is_named and (generation.model != request.model or request.assignment is not None):
        return Decision(Why.ASSIGNED, generation.model)
    return None
