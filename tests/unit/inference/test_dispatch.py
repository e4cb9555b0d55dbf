"""Retries, fallbacks and limits as a request meets them: through Inference, over engines that fail as they are told."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.admission import Admission, Class, Priority
from services.inference.engine import Delta, End, FinishReason, Message, Role, Usage, UsageSource
from services.inference.generation import Event, Finished, Request, Started, TimeLimits
from services.inference.inference import Inference
from services.inference.models import Models
from services.inference.resilience import BreakerLimits, BreakerState, Outcome, Patience
from services.inference.routing import Router
from tests.unit.inference.scripted_engine import ScriptedEngine, embedder, extractor, writer
from tests.unit.inference.test_models import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.engine import Embeddings, Generation
    from services.inference.engine import Event as EngineEvent

QUICK = Patience(first_pause=0.001)


class FlakyEngine(ScriptedEngine):
    """Fails with each of `failures` in turn before it says anything, then answers; hangs where `hangs_after` says so."""

    def __init__(self, name: str, *models: object) -> None:
        super().__init__(name, *models)  # type: ignore[arg-type]  # models, as there
        self.failures: list[Failure] = []
        self.hangs_after: int | None = None
        self.withholds = False
        self.open = 0

    async def generate(self, generation: Generation) -> AsyncGenerator[EngineEvent, None]:
        self.asked.append(generation)
        self.open += 1
        try:
            if self.failures:
                raise self.failures.pop(0)
            if self.withholds:
                yield End(FinishReason.CONTENT_FILTER, Usage(3, 0, UsageSource.REPORTED))
                return
            for number, text in enumerate(self.texts):
                if number == self.hangs_after:
                    await asyncio.sleep(60)
                yield Delta(text)
            if self.failure is not None:
                raise self.failure
            yield End(FinishReason.STOP, self.usage)
        finally:
            self.open -= 1


@pytest.fixture
def first() -> FlakyEngine:
    return FlakyEngine("openai", writer("model", "openai"))


@pytest.fixture
def second() -> FlakyEngine:
    return FlakyEngine("openai", writer("model", "openai"))


@pytest.fixture
def third() -> FlakyEngine:
    return FlakyEngine("ollama", writer("small", "ollama"))


def asked(model: str = "model", **fields: object) -> Request:
    return Request("r1", model, (Message(Role.USER, "Hello"),), **fields)  # type: ignore[arg-type]  # tests give the fields their types


async def outcome(inference: Inference, request: Request, pause: float = 0) -> tuple[list[Event], Failure | None]:
    """What a stream says, and how it fails, to a client that makes a pause after each event."""
    seen: list[Event] = []
    try:
        async for event in inference.stream(request):
            seen.append(event)
            if pause:
                await asyncio.sleep(pause)
    except Failure as failure:
        return seen, failure
    return seen, None


def _session_of(models: Models, engine: ScriptedEngine) -> str:
    """A session that is at home at this engine."""
    router = Router(models)
    for number in range(100):
        chosen = router.choose(router.route("model").steps[0], f"s{number}")
        if chosen is not None and chosen.found.engine is engine:
            return f"s{number}"
    raise AssertionError("no session is at home there")


def unavailable() -> Failure:
    return Failure(Reason.ENGINE_UNAVAILABLE, "gone")


async def test_a_failure_before_the_first_content_is_tried_again_and_told(first: FlakyEngine) -> None:
    first.failures = [unavailable(), Failure(Reason.GENERATION_FAILED, "cut")]
    async with Models([first], probe_seconds=60) as models:
        seen, failure = await outcome(Inference(models, None, patience=QUICK), asked())
    assert failure is None
    started, finished = seen[0], seen[-1]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert [(one.outcome, one.reason) for one in started.attempts] == [
        (Outcome.FAILED, Reason.ENGINE_UNAVAILABLE),
        (Outcome.FAILED, Reason.GENERATION_FAILED),
        (Outcome.ANSWERED, None),
    ]
    assert [one.output_tokens for one in finished.attempts] == [0, 0, 2]
    assert finished.usage.output_tokens == 2
    assert first.open == 0


async def test_another_server_of_the_model_is_asked_without_a_pause(first: FlakyEngine, second: FlakyEngine) -> None:
    first.failures = [unavailable()]
    patient = Patience(first_pause=100, longest_pause=100)
    async with Models([first, second], probe_seconds=60) as models:
        inference = Inference(models, None, patience=patient)
        completed = await asyncio.wait_for(inference.complete(asked(session=_session_of(models, first))), 1)
    assert [one.backend for one in completed.finished.attempts] == ["openai", "openai#2"]


async def test_auto_goes_on_to_the_next_engine_and_names_who_answered(first: FlakyEngine, third: FlakyEngine) -> None:
    first.failures = [unavailable()] * 3
    extractive = ScriptedEngine("extractive", extractor())
    async with Models([first, third, extractive], probe_seconds=60) as models:
        completed = await Inference(models, None, patience=QUICK).complete(asked("auto"))
    assert (completed.started.model, completed.started.engine) == ("small", "ollama")
    assert [one.model for one in completed.finished.attempts] == ["model"] * 3 + ["small"]
    assert third.asked[0].model == "small"
    assert not extractive.asked


async def test_a_named_model_is_never_silently_another(first: FlakyEngine, third: FlakyEngine) -> None:
    first.failures = [unavailable() for _ in range(3)]
    last = first.failures[-1]
    async with Models([first, third], probe_seconds=60) as models:
        seen, failure = await outcome(Inference(models, None, patience=QUICK), asked())
    assert seen == []
    assert failure is last
    assert failure.metadata["attempts"] == ", ".join(["openai model ENGINE_UNAVAILABLE"] * 3)
    assert not third.asked


@pytest.mark.parametrize("reason", [Reason.CONTEXT_TOO_LONG, Reason.CONTENT_POLICY])
async def test_what_the_model_refuses_is_not_tried_at_it_again(
    first: FlakyEngine, second: FlakyEngine, third: FlakyEngine, reason: Reason
) -> None:
    first.failures, second.failures = [Failure(reason, "no")], [Failure(reason, "no")]
    async with Models([first, second, third], probe_seconds=60) as models:
        completed = await Inference(models, None, patience=QUICK).complete(asked("auto"))
    assert [one.reason for one in completed.finished.attempts] == [reason, None]
    assert completed.started.model == "small"


async def test_an_answer_that_is_withheld_whole_goes_to_the_next_model(first: FlakyEngine, third: FlakyEngine) -> None:
    first.withholds = True
    async with Models([first, third], probe_seconds=60) as models:
        inference = Inference(models, None, patience=QUICK)
        completed = await inference.complete(asked("auto"))
        assert [one.reason for one in completed.finished.attempts] == [Reason.CONTENT_POLICY, None]
        alone = await inference.complete(asked("model"))
    assert alone.finished.finish_reason is FinishReason.CONTENT_FILTER
    assert first.open == 0


async def test_what_is_wrong_with_the_request_is_tried_once(first: FlakyEngine, third: FlakyEngine) -> None:
    first.failures = [Failure(Reason.INVALID_FIELD, "no")]
    async with Models([first, third], probe_seconds=60) as models:
        _, failure = await outcome(Inference(models, None, patience=QUICK), asked("auto"))
    assert failure is not None
    assert failure.reason is Reason.INVALID_FIELD
    assert (len(first.asked), len(third.asked)) == (1, 0)


async def test_embedding_is_tried_again_at_another_server_of_the_model() -> None:
    ill, well = (FlakyEngine("openai", embedder("vectors", "openai")) for _ in range(2))
    other = FlakyEngine("ollama", replace(embedder("vectors", "ollama"), fingerprint="another"))
    ill.failure = unavailable()
    async with Models([ill, well, other], probe_seconds=60) as models:
        router = Router(models)
        inference = Inference(models, None, router=router, patience=QUICK)
        assert [one.name for one in router.embedding("vectors")] == ["openai", "openai#2"]
        for _ in range(20):
            assert (await inference.embed("vectors", ["four"])).embeddings.vectors == [[4.0, 1.0]]
        states = [one.breaker.state for one in router.backends()]
        assert states == [BreakerState.OPEN, BreakerState.CLOSED]
        well.failure = Failure(Reason.MODEL_CAPABILITY_MISSING, "no")
        with pytest.raises(Failure, match="no"):
            await inference.embed("vectors", ["four"])
    assert sum(one.in_flight for one in router.backends()) == 0


async def test_a_short_retry_after_is_waited_for_and_a_long_one_is_not(first: FlakyEngine) -> None:
    async with Models([first], probe_seconds=60) as models:
        inference = Inference(models, None, patience=QUICK)
        first.failures = [Failure(Reason.ENGINE_OVERLOADED, "busy", retry_after=0.15)]
        began = time.monotonic()
        await inference.complete(asked())
        assert time.monotonic() - began >= 0.15
        long = Failure(Reason.ENGINE_OVERLOADED, "busy", retry_after=30)
        first.failures = [long]
        _, failure = await outcome(inference, asked())
    assert failure is long
    assert len(first.asked) == 3


async def test_after_the_first_content_nothing_is_tried_again(first: FlakyEngine, second: FlakyEngine) -> None:
    first.failure = second.failure = Failure(Reason.GENERATION_FAILED, "cut")
    async with Models([first, second], probe_seconds=60) as models:
        seen, failure = await outcome(Inference(models, None, patience=QUICK), asked())
    assert failure is first.failure
    finished = seen[-1]
    assert isinstance(finished, Finished)
    assert [(one.outcome, one.reason, one.output_tokens) for one in finished.attempts] == [
        (Outcome.BROKEN, Reason.GENERATION_FAILED, 2)
    ]
    assert len(first.asked) + len(second.asked) == 1


async def test_a_backend_that_fails_again_and_again_is_left_alone_until_a_probe(first: FlakyEngine) -> None:
    first.failures = [unavailable() for _ in range(4)]
    async with Models([first], probe_seconds=60) as models:
        router = Router(models, breaker_limits=BreakerLimits(in_a_row=4, pause=0.1))
        inference = Inference(models, None, router=router, patience=Patience(tries=2, first_pause=0.001))
        for _ in range(2):
            await outcome(inference, asked())
        (backend,) = router.backends()
        assert not backend.breaker.lets_through()
        seen, failure = await outcome(inference, asked())
        assert (seen, len(first.asked)) == ([], 4)
        assert failure is not None
        assert failure.reason is Reason.ENGINE_UNAVAILABLE
        assert failure.retry_after is not None
        await asyncio.sleep(0.11)
        await inference.complete(asked())
    assert backend.breaker.state is BreakerState.CLOSED
    assert backend.in_flight == 0


@pytest.mark.parametrize("hangs_after", [0, 1])
async def test_an_engine_that_hangs_is_left(first: FlakyEngine, hangs_after: int) -> None:
    first.hangs_after = hangs_after
    limits = TimeLimits(first_token=0.1, inter_token=0.1)
    async with Models([first], probe_seconds=60) as models:
        inference = Inference(models, None, limits=limits, patience=Patience(tries=1))
        seen, failure = await outcome(inference, asked())
    assert failure is not None
    assert failure.reason is (Reason.GENERATION_FAILED if hangs_after else Reason.ENGINE_UNAVAILABLE)
    assert bool(seen) is bool(hangs_after)
    assert first.open == 0


@pytest.mark.parametrize("hangs_after", [0, 1])
async def test_the_total_limit_holds_before_and_within_the_text(first: FlakyEngine, hangs_after: int) -> None:
    first.hangs_after = hangs_after
    async with Models([first], probe_seconds=60) as models:
        _, failure = await outcome(Inference(models, None, limits=TimeLimits(total=0.15)), asked())
    assert failure is not None
    assert failure.reason is Reason.DEADLINE_EXCEEDED


async def test_the_total_limit_holds_for_a_slow_client_of_a_quick_engine(first: FlakyEngine) -> None:
    first.texts = ["x "] * 100
    async with Models([first], probe_seconds=60) as models:
        seen, failure = await outcome(Inference(models, None, limits=TimeLimits(total=0.15)), asked(), pause=0.02)
    assert failure is not None
    assert failure.reason is Reason.DEADLINE_EXCEEDED
    assert len(seen) < 20


async def test_a_client_that_reads_slowly_is_no_fault_of_the_engine(first: FlakyEngine) -> None:
    async with Models([first], probe_seconds=60) as models:
        seen, _ = await outcome(Inference(models, None, limits=TimeLimits(inter_token=0.1)), asked(), pause=0.15)
    finished = seen[-1]
    assert isinstance(finished, Finished)
    assert finished.failure is None


async def test_cancelling_a_stream_in_any_state_gives_everything_back(first: FlakyEngine) -> None:
    classes = {priority: Class(0, 9, 50.0, 5.0) for priority in Priority}
    admission = Admission(1, classes)
    first.hangs_after = 1
    async with Models([first], probe_seconds=60) as models:
        router = Router(models)
        inference = Inference(models, None, router=router, admission=admission)
        streaming = asyncio.create_task(outcome(inference, asked()))
        queued = asyncio.create_task(outcome(inference, asked()))
        await until(lambda: first.open == 1)
        assert admission.load()[Priority.DEFAULT].waiting == 1
        queued.cancel()
        await asyncio.wait([queued])
        assert admission.load()[Priority.DEFAULT].waiting == 0
        streaming.cancel()
        await asyncio.wait([streaming])
        assert (admission.free, first.open) == (1, 0)
        async with aclosing(inference.stream(asked())) as events:
            await anext(events)
            assert admission.free == 0
        assert (admission.free, first.open) == (1, 0)
        (backend,) = router.backends()
    assert backend.in_flight == 0


async def test_an_engine_with_little_room_serves_by_class_and_is_not_taken_for_ill(first: FlakyEngine) -> None:
    first.room = 1  # type: ignore[attr-defined]  # what makes an engine a roomy one
    first.hangs_after = 1
    async with Models([first], probe_seconds=60) as models:
        router = Router(models)
        inference = Inference(models, None, router=router, limits=TimeLimits(first_token=0.1, inter_token=60))
        running = asyncio.create_task(outcome(inference, asked()))
        await until(lambda: first.open == 1)
        first.hangs_after = None
        bulk = asyncio.create_task(inference.complete(asked(priority=Priority.BULK)))
        await asyncio.sleep(0)
        person = asyncio.create_task(inference.complete(asked(priority=Priority.INTERACTIVE)))
        # Longer than an engine may take to its first content.
        await asyncio.sleep(0.15)
        (backend,) = router.backends()
        assert (len(first.asked), backend.load(), backend.in_flight) == (1, 3, 1)
        running.cancel()
        done, _ = await asyncio.wait([bulk, person], return_when=asyncio.FIRST_COMPLETED)
        assert person in done
        answers = [await person, await bulk]
    assert all(one.finished.timings.queued >= 0.14 for one in answers)
    assert [len(one.finished.attempts) for one in answers] == [1, 1]
    assert (backend.load(), backend.admission and backend.admission.free) == (0, 1)


async def test_requests_beyond_the_room_wait_and_say_for_how_long(first: FlakyEngine) -> None:
    admission = Admission(1, {priority: Class(0, 1, 50.0, 5.0) for priority in Priority})
    async with Models([first], probe_seconds=60) as models:
        inference = Inference(models, None, admission=admission)
        permit = await admission.enter(Priority.BULK)
        waiting = asyncio.create_task(inference.complete(asked()))
        await asyncio.sleep(0.1)
        _, failure = await outcome(inference, asked())
        assert failure is not None
        assert failure.reason is Reason.OVERLOADED
        permit.release()
        completed = await waiting
    assert completed.finished.timings.queued >= 0.09
    assert completed.finished.timings.total >= completed.finished.timings.queued
    assert len(first.asked) == 1


async def test_embedding_has_room_of_its_own_and_a_queue_with_an_end() -> None:
    class SlowEmbedder(FlakyEngine):
        async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
            await gate.wait()
            return await super().embed(model, inputs)

    gate = asyncio.Event()
    async with Models([SlowEmbedder("minilm", embedder("vectors"))], probe_seconds=60) as models:
        inference = Inference(models, None)
        # Of the room for 64 as many are left as no other class has reserved.
        calls = [asyncio.create_task(inference.embed("vectors", ["x"])) for _ in range(44 + 512)]
        await asyncio.sleep(0)
        with pytest.raises(Failure) as caught:
            await inference.embed("vectors", ["x"])
        assert caught.value.reason is Reason.OVERLOADED
        gate.set()
        assert len(await asyncio.gather(*calls)) == 556
