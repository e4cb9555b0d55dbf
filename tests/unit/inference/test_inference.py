from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from penstock.assignment import RequestType, Treatment
from penstock.exposures import Execution

from services.chassis.errors import Failure, Reason
from services.inference.admission import Admission, Permit, Priority
from services.inference.engine import Delta, FinishReason, Message, Passage, Role, Sampling, Usage, UsageSource
from services.inference.generation import Assignment, Event, Finished, Request, Started
from services.inference.inference import EMBEDDING_ROOM, Inference
from services.inference.models import Models
from tests.unit.inference.scripted_engine import ScriptedEngine, embedder, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

TREATMENT = Treatment("key-1", "e1", "b", "user-1", model="other", prompt="Be brief.", temperature=0.5, max_tokens=9)


PLAIN = Execution()


class FixedAssigner:
    """Gives everyone the same treatment, and keeps the exposures."""

    def __init__(self, treatment: Treatment | None) -> None:
        self.treatment = treatment
        self.asked: list[tuple[RequestType, str, str, str]] = []
        self.executions: list[Execution] = []
        self.exposed: list[tuple[str, str, str, str]] = []

    def assign(
        self,
        request_type: RequestType,
        *,
        user: str = "",
        conversation: str = "",
        request_id: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> Treatment | None:
        self.attributes = attributes
        self.asked.append((request_type, user, conversation, request_id))
        return self.treatment

    def expose(
        self,
        treatment: Treatment,
        *,
        request_id: str,
        model: str = "",
        engine: str = "",
        execution: Execution = PLAIN,
    ) -> None:
        self.exposed.append((treatment.variant, request_id, model, engine))
        self.executions.append(execution)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine("openai", writer("model", "openai"), writer("other", "openai"), embedder("vectors", "openai"))


@pytest.fixture
async def models(engine: ScriptedEngine) -> AsyncIterator[Models]:
    async with Models([engine], probe_seconds=60) as models:
        yield models


def request(**fields: object) -> Request:
    base = {"request_id": "r1", "model": "auto", "messages": (Message(Role.USER, "Hello"),)}
    return Request(**{**base, **fields})  # type: ignore[arg-type]  # tests give the fields their types


async def events_of(inference: Inference, asked: Request) -> list[Event]:
    return [event async for event in inference.stream(asked)]


async def failing(inference: Inference) -> tuple[list[Event], Failure | None]:
    """What a stream says before it fails, and how it fails."""
    seen: list[Event] = []
    try:
        async for event in inference.stream(request()):
            seen.append(event)  # noqa: PERF401 - a comprehension would lose what came before the failure
    except Failure as failure:
        return seen, failure
    return seen, None


async def test_a_stream_starts_with_what_was_decided_and_ends_once(models: Models) -> None:
    started, first, second, usage, finished = await events_of(Inference(models, None), request())
    assert isinstance(started, Started)
    assert (started.model, started.engine, started.assignment, started.request_id) == ("model", "openai", None, "r1")
    assert (first, second) == (Delta("Water "), Delta("flows."))
    assert usage == Usage(7, 2, UsageSource.REPORTED)
    assert isinstance(finished, Finished)
    assert finished.finish_reason is FinishReason.STOP
    assert finished.usage == usage
    assert finished.timings.first_token is not None
    assert 0 <= finished.timings.first_token <= finished.timings.total


async def test_an_empty_generation_still_starts_and_ends(models: Models, engine: ScriptedEngine) -> None:
    engine.texts = ()
    started, _, finished = await events_of(Inference(models, None), request())
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert finished.timings.first_token is None


async def test_a_failure_before_the_first_content_is_an_error_and_nothing_else(models: Models, engine: ScriptedEngine) -> None:
    engine.texts, engine.failure = (), Failure(Reason.ENGINE_OVERLOADED, "busy", retry_after=3)
    seen, failure = await failing(Inference(models, None))
    assert seen == []
    assert failure is engine.failure


async def test_a_failure_after_the_first_content_is_told_in_the_stream_and_raised(
    models: Models, engine: ScriptedEngine
) -> None:
    engine.failure = Failure(Reason.GENERATION_FAILED, "cut")
    seen, failure = await failing(Inference(models, None))
    assert failure is engine.failure
    finished = seen[-1]
    assert isinstance(finished, Finished)
    assert finished.failure is engine.failure
    assert finished.finish_reason is None
    assert finished.usage == Usage(None, 2, UsageSource.COUNTED)
    assert sum(isinstance(event, Finished) for event in seen) == 1


async def test_complete_joins_the_stream_and_fails_as_it_does(models: Models, engine: ScriptedEngine) -> None:
    inference = Inference(models, None)
    completed = await inference.complete(request())
    assert completed.answers[0].text == "Water flows."
    assert completed.finished.usage.output_tokens == 2
    engine.failure = Failure(Reason.GENERATION_FAILED, "cut")
    with pytest.raises(Failure, match="cut"):
        await inference.complete(request())


async def test_counts_of_our_own_stand_in_for_those_the_engine_lacks(models: Models, engine: ScriptedEngine) -> None:
    engine.usage = Usage(None, None, UsageSource.REPORTED)
    assert (await Inference(models, None).complete(request())).finished.usage == Usage(None, 2, UsageSource.COUNTED)


async def test_leaving_the_stream_closes_the_engine(models: Models, engine: ScriptedEngine) -> None:
    async with aclosing(Inference(models, None).stream(request())) as events:
        await anext(events)
        await anext(events)
    assert engine.is_closed_early


async def test_the_request_reaches_the_engine_as_it_is(models: Models, engine: ScriptedEngine) -> None:
    passages = (Passage("p", "t"),)
    await Inference(models, None).complete(request(passages=passages, sampling=Sampling(top_k=3), max_tokens=4, stop=("x",)))
    asked = engine.asked[0]
    assert (asked.model, asked.passages, asked.sampling.top_k, asked.max_tokens, asked.stop) == (
        "model",
        passages,
        3,
        4,
        ("x",),
    )


async def test_a_treatment_overrides_the_request_and_is_named_and_exposed(models: Models, engine: ScriptedEngine) -> None:
    assigner = FixedAssigner(TREATMENT)
    messages = (Message(Role.SYSTEM, "Old prompt."), Message(Role.USER, "Hello"))
    asked = request(
        messages=messages,
        sampling=Sampling(temperature=1.0, top_p=0.9, seed=1),
        max_tokens=100,
        user="user-1",
        conversation="c1",
    )
    completed = await Inference(models, assigner).complete(asked)
    sent = engine.asked[0]
    assert sent.model == "other"
    assert sent.messages == (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Hello"))
    assert sent.sampling == Sampling(temperature=0.5, top_p=0.9, seed=1)
    assert sent.max_tokens == 9
    assert completed.started.assignment == Assignment("key-1", "e1", "b")
    assert assigner.asked == [(RequestType.GENERATE, "user-1", "c1", "r1")]
    assert assigner.exposed == [("b", "r1", "other", "openai")]
    [execution] = assigner.executions
    assert [(one.model, one.outcome) for one in execution.attempts] == [("other", "ANSWERED")]
    assert not execution.fell_back


async def test_a_request_that_carries_an_assignment_is_neither_evaluated_nor_exposed(models: Models) -> None:
    assigner = FixedAssigner(TREATMENT)
    made = Assignment("key-9", "e9", "a")
    completed = await Inference(models, assigner).complete(request(assignment=made))
    assert completed.started.assignment == made
    assert completed.started.model == "model"
    assert (assigner.asked, assigner.exposed) == ([], [])


async def test_a_variant_that_fails_is_exposed_all_the_same(models: Models, engine: ScriptedEngine) -> None:
    assigner = FixedAssigner(TREATMENT)
    engine.texts, engine.failure = (), Failure(Reason.GENERATION_FAILED, "cut")
    with pytest.raises(Failure):
        await Inference(models, assigner).complete(request())
    assert assigner.exposed == [("b", "r1", "other", "openai")]


async def test_a_variant_that_names_no_model_in_reach_is_exposed_and_not_found(models: Models) -> None:
    assigner = FixedAssigner(Treatment("k", "e", "v", "u", model="gone"))
    with pytest.raises(Failure) as caught:
        await Inference(models, assigner).complete(request())
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert assigner.exposed == [("v", "r1", "", "")]
    assert assigner.executions == [PLAIN]


async def test_an_engine_that_is_gone_is_probed_at_once(models: Models, engine: ScriptedEngine) -> None:
    engine.texts, engine.failure = (), Failure(Reason.ENGINE_UNAVAILABLE, "gone")
    before = engine.probes
    with pytest.raises(Failure):
        await Inference(models, None).complete(request())
    from tests.unit.inference.test_models import until  # noqa: PLC0415 - shared by two modules only

    await until(lambda: engine.probes > before)


async def test_embedding_names_the_model_that_did_it(models: Models) -> None:
    embedded = await Inference(models, None).embed("auto", ["four"])
    assert embedded.model.name == "vectors"
    assert embedded.embeddings.vectors == [[4.0, 1.0]]


async def test_attributes_reach_the_experiments_and_promoted_settings_are_no_assignment(models: Models) -> None:
    assigner = FixedAssigner(Treatment("", "", "", "", temperature=0.25))
    started, *_ = await events_of(Inference(models, assigner), request(attributes={"lang": "ru"}))
    assert isinstance(started, Started)
    assert started.assignment is None
    assert assigner.attributes == {"lang": "ru"}


async def test_all_layers_are_told(models: Models) -> None:
    other = Treatment("key-2", "e2", "x", "user-1")
    assigner = FixedAssigner(Treatment("key-1", "e1", "b", "user-1", (other,)))
    started, *_ = await events_of(Inference(models, assigner), request())
    assert isinstance(started, Started)
    assert started.assignment == Assignment("key-1", "e1", "b", (Assignment("key-2", "e2", "x"),))


async def test_a_variant_that_breaks_is_exposed_as_broken(models: Models, engine: ScriptedEngine) -> None:
    engine.failure = Failure(Reason.GENERATION_FAILED, "cut")
    assigner = FixedAssigner(TREATMENT)
    with pytest.raises(Failure):
        await events_of(Inference(models, assigner), request())
    assert [one.outcome for one in assigner.executions[0].attempts] == ["BROKEN"]
    assert assigner.executions[0].fell_back


async def test_embedding_is_admitted_by_class() -> None:
    """Room that is reserved for a class is there for it while all else is taken."""
    engine = ScriptedEngine("openai", embedder("vectors", "openai"))
    entered: list[Priority] = []

    class Noting(Admission):
        async def enter(self, priority: Priority, tenant: str = "", most_seconds: float | None = None) -> Permit:
            entered.append(priority)
            return await super().enter(priority, tenant, most_seconds)

    async with Models([engine], probe_seconds=60) as models:
        room = Noting(*EMBEDDING_ROOM)
        inference = Inference(models, None, embedding=room)
        held = [await room.enter(Priority.DEFAULT) for _ in range(44)]
        asyncio.get_running_loop().call_later(0.05, held[0].release)
        await inference.embed("vectors", ["interactive"], Priority.INTERACTIVE)
        assert room.load()[Priority.DEFAULT].in_use == 44
        # The default class has to wait for one of its own, as bulk would.
        await inference.embed("vectors", ["default"])
        assert room.load()[Priority.DEFAULT].in_use == 43
        assert entered[-2:] == [Priority.INTERACTIVE, Priority.DEFAULT]
        for permit in held:
            permit.release()
