from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from penstock.assignment import RequestType, Treatment
from penstock.exposures import Execution

from services.chassis.cache.tiers import Lookups, Tiers
from services.chassis.call import Call, enter_call
from services.chassis.errors import Failure, Reason
from services.inference.cache_keys import vector_key
from services.inference.cached_vectors import CachedVectors
from services.inference.caching import CachedInference
from services.inference.engine import Capability, Delta, Embeddings, Message, Model, Role, Sampling, Usage, UsageSource
from services.inference.generation import CacheMode, Finished, Request, Started
from services.inference.inference import Inference, completed
from services.inference.models import Models
from services.inference.resilience import Patience
from tests.unit.inference.scripted_engine import ScriptedEngine, embedder, writer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from services.inference.engine import Event as EngineEvent
    from services.inference.engine import Generation
    from services.inference.generation import Completed, Event

GREEDY = Sampling(temperature=0.0)


PLAIN = Execution()


class PatientEngine(ScriptedEngine):
    """Says its first text, and goes on once it may."""

    def __init__(self, *models: Model) -> None:
        super().__init__("openai", *models)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.running = 0
        self.embedded: list[list[str]] = []

    async def generate(self, generation: Generation) -> AsyncGenerator[EngineEvent, None]:
        self.running += 1
        try:
            async with aclosing(super().generate(generation)) as events:
                async for event in events:
                    yield event
                    await self.may_go_on.wait()
        finally:
            self.running -= 1

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        self.embedded.append(list(inputs))
        vectors = await super().embed(model, inputs)
        return Embeddings(vectors.vectors, 10 * len(inputs), UsageSource.REPORTED)


class Assigner:
    """Gives every user the variant of their name, and keeps the exposures."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.exposed: list[tuple[str, str, str, str]] = []

    def assign(
        self,
        request_type: RequestType,  # noqa: ARG002 - of the protocol, as the next
        *,
        user: str = "",
        conversation: str = "",  # noqa: ARG002 - as above
        request_id: str = "",
        attributes: Mapping[str, str] | None = None,  # noqa: ARG002 - as above
    ) -> Treatment | None:
        return Treatment(f"key of {request_id}", "e1", user, user, temperature=0.0) if user else None

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


class Bench:
    def __init__(self, engine: PatientEngine, models: Models) -> None:
        self.engine = engine
        self.assigner = Assigner()
        self.answers = Tiers("responses", 1_000_000, 60)
        self.vectors = Tiers("embeddings", 1_000_000, 60)
        inner = Inference(models, self.assigner, patience=Patience(total=1))
        vectors = CachedVectors(inner, models, self.vectors)
        self.cached = CachedInference(
            inner, vectors, plan=inner.plan, shape=inner.shape, assigner=self.assigner, tiers=self.answers
        )

    async def ask(self, text: str = "Hello", **fields: Any) -> Completed:
        asked = request(text, **fields)
        return await completed(self.cached.stream(asked), asked.form.alternatives)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    engine = PatientEngine(writer("model", "openai"), embedder("vectors", "openai"))
    async with Models([engine], probe_seconds=60) as models:
        yield Bench(engine, models)


def request(text: str = "Hello", **fields: Any) -> Request:
    base: dict[str, Any] = {"request_id": "r1", "model": "auto", "messages": (Message(Role.USER, text),), "sampling": GREEDY}
    return Request(**{**base, **fields})


async def taken(events: AsyncGenerator[Event, None]) -> list[Event]:
    return [event async for event in events]


async def test_an_equal_request_is_answered_from_the_cache_as_a_stream_and_says_so(bench: Bench) -> None:
    first = await taken(bench.cached.stream(request()))
    second = await taken(bench.cached.stream(request(request_id="r2")))
    assert len(bench.engine.asked) == 1
    started, *deltas, usage, finished = second
    assert isinstance(first[0], Started)
    assert not first[0].cached
    assert isinstance(started, Started)
    assert (started.model, started.engine, started.request_id, started.cached) == ("model", "openai", "r2", True)
    assert deltas == [Delta("Water flows.", 2)]
    assert usage == Usage(7, 2, UsageSource.REPORTED)
    assert isinstance(finished, Finished)
    assert isinstance(first[-1], Finished)
    assert (finished.finish_reason, finished.usage) == (first[-1].finish_reason, first[-1].usage)
    assert bench.answers.lookups == Lookups(memory=1, missed=1)


@pytest.mark.parametrize(
    "fields", [{"text": "Bye"}, {"sampling": Sampling(temperature=0.0, top_k=1)}, {"max_tokens": 3}, {"user": "someone"}]
)
async def test_another_request_is_not(bench: Bench, fields: dict[str, Any]) -> None:
    await bench.ask()
    assert not (await bench.ask(**fields)).started.cached
    assert len(bench.engine.asked) == 2


async def test_what_is_left_to_chance_is_generated_anew(bench: Bench) -> None:
    for _ in range(2):
        assert not (await bench.ask(sampling=Sampling(temperature=0.7))).started.cached
        assert not (await bench.ask(sampling=Sampling())).started.cached
    assert len(bench.engine.asked) == 4
    assert bench.answers.used_bytes == 0


async def test_an_engine_that_leaves_nothing_to_chance_is_cached_without_asking() -> None:
    engine = PatientEngine(Model("extractive", "openai", (Capability.EXTRACTION,)))
    async with Models([engine], probe_seconds=60) as models:
        bench = Bench(engine, models)
        await bench.ask(sampling=Sampling())
        assert (await bench.ask(sampling=Sampling())).started.cached


async def test_a_request_can_opt_out_or_have_it_made_anew(bench: Bench) -> None:
    await bench.ask()
    bench.engine.texts = ("New.",)
    assert [one.text for one in (await bench.ask(cache=CacheMode.BYPASS)).answers] == ["New."]
    assert (await bench.ask()).answers[0].text == "Water flows."
    refreshed = await bench.ask(cache=CacheMode.REFRESH)
    assert (refreshed.answers[0].text, refreshed.started.cached) == ("New.", False)
    again = await bench.ask()
    assert (again.answers[0].text, again.started.cached) == ("New.", True)


async def test_tenants_do_not_share(bench: Bench) -> None:
    for tenant, is_cached in (("a", False), ("b", False), ("a", True)):
        enter_call(Call("m", "r", None, tenant=tenant))
        assert (await bench.ask()).started.cached is is_cached
    enter_call(Call("", "", None))


async def test_equal_requests_under_way_share_one_generation(bench: Bench) -> None:
    bench.engine.may_go_on.clear()
    asking = [asyncio.create_task(bench.ask(request_id=f"r{number}")) for number in range(5)]
    await settled(lambda: bench.engine.running == 1 and bench.answers.lookups.joined == 4)
    bench.engine.may_go_on.set()
    answers = await asyncio.gather(*asking)
    assert len(bench.engine.asked) == 1
    assert {one.answers[0].text for one in answers} == {"Water flows."}
    assert [one.started.cached for one in answers] == [False, True, True, True, True]
    assert [one.started.request_id for one in answers] == ["r0", "r1", "r2", "r3", "r4"]


async def test_the_first_one_may_leave_without_taking_the_generation_away(bench: Bench) -> None:
    bench.engine.may_go_on.clear()
    first = asyncio.create_task(bench.ask())
    await settled(lambda: bench.engine.running == 1)
    second = asyncio.create_task(bench.ask(request_id="r2"))
    await settled(lambda: bench.answers.lookups.joined == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    bench.engine.may_go_on.set()
    assert (await second).answers[0].text == "Water flows."
    assert (await bench.ask()).started.cached
    assert len(bench.engine.asked) == 1


async def test_the_last_one_to_leave_stops_the_engine_and_nothing_is_kept(bench: Bench) -> None:
    bench.engine.may_go_on.clear()
    asking = [asyncio.create_task(bench.ask(request_id=f"r{number}")) for number in range(2)]
    await settled(lambda: bench.engine.running == 1 and bench.answers.lookups.joined == 1)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert bench.engine.running == 0
    assert bench.engine.is_closed_early
    bench.engine.may_go_on.set()
    assert not (await bench.ask()).started.cached


async def test_the_first_ones_deadline_is_its_own(bench: Bench) -> None:
    bench.engine.may_go_on.clear()

    async def hurried() -> None:
        enter_call(Call("m", "r", time.monotonic() + 0.2))
        with pytest.raises(Failure) as caught:
            await bench.ask()
        assert caught.value.reason is Reason.DEADLINE_EXCEEDED

    first = asyncio.create_task(hurried())
    await settled(lambda: bench.engine.running == 1)
    second = asyncio.create_task(bench.ask(request_id="r2"))
    await first
    bench.engine.may_go_on.set()
    assert (await second).answers[0].text == "Water flows."


async def test_a_failure_is_told_to_all_and_not_kept(bench: Bench) -> None:
    bench.engine.failure = Failure(Reason.GENERATION_FAILED, "cut")
    bench.engine.may_go_on.clear()
    asking = [asyncio.create_task(bench.ask()) for _ in range(3)]
    await settled(lambda: bench.engine.running == 1)
    bench.engine.may_go_on.set()
    failed = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in failed] == [Failure] * 3
    bench.engine.failure = None
    assert not (await bench.ask()).started.cached


async def test_cached_answers_are_exposed_and_keep_to_their_variant(bench: Bench) -> None:
    # The variants set the temperature; what the request says would not be cached.
    for request_id, user in (("r1", "a"), ("r2", "a"), ("r3", "b")):
        answer = await bench.ask(request_id=request_id, user=user, sampling=Sampling(temperature=1.0))
        assert answer.started.assignment is not None
        assert (answer.started.assignment.key, answer.started.assignment.variant) == (f"key of {request_id}", user)
        assert answer.started.cached is (request_id == "r2")
    assert bench.assigner.exposed == [(user, r, "model", "openai") for r, user in (("r1", "a"), ("r2", "a"), ("r3", "b"))]
    assert [one.sampling.temperature for one in bench.engine.asked] == [0.0, 0.0]


async def test_uncached_requests_are_exposed_once(bench: Bench) -> None:
    await bench.ask(user="a", cache=CacheMode.BYPASS)
    assert bench.assigner.exposed == [("a", "r1", "model", "openai")]


async def test_a_model_that_is_not_there_fails_as_without_a_cache(bench: Bench) -> None:
    with pytest.raises(Failure) as caught:
        await bench.ask(model="nowhere")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


async def test_only_new_texts_are_embedded(bench: Bench) -> None:
    first = await bench.cached.embed("vectors", ["a", "bb"])
    second = await bench.cached.embed("vectors", ["ccc", "a", "ccc", "bb"])
    third = await bench.cached.embed("auto", ["bb"])
    assert bench.engine.embedded == [["a", "bb"], ["ccc"]]
    assert [list(vector) for vector in first.embeddings.vectors] == [[1.0, 1.0], [2.0, 1.0]]
    assert [list(vector) for vector in second.embeddings.vectors] == [[3.0, 1.0], [1.0, 1.0], [3.0, 1.0], [2.0, 1.0]]
    assert (first.embeddings.input_tokens, first.embeddings.source) == (20, UsageSource.REPORTED)
    # Shares of a batch: 2 and 3 parts of 20.
    assert (second.embeddings.input_tokens, second.embeddings.source) == (10 + 8 + 10 + 12, UsageSource.ESTIMATED)
    assert third.model.name == "vectors"


@pytest.mark.parametrize("garbage", [b"", b"1234", b"1234\x00", b"1234\x00123", b"1234\x091234"])
async def test_a_vector_that_is_none_is_made_anew(bench: Bench, garbage: bytes) -> None:
    bench.vectors.put({vector_key(embedder("vectors", "openai"), "a"): garbage})
    embedded = await bench.cached.embed("vectors", ["a"])
    assert [list(vector) for vector in embedded.embeddings.vectors] == [[1.0, 1.0]]


async def test_an_answer_that_is_none_is_made_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[bytes, bytes] = {}
    with monkeypatch.context() as patch:
        patch.setattr(bench.answers, "put", kept.update)
        await bench.ask()
    bench.answers.put(dict.fromkeys(kept, b"garbage"))
    assert not (await bench.ask()).started.cached


async def test_vectors_of_a_model_without_a_fingerprint_are_not_kept() -> None:
    engine = PatientEngine(Model("vectors", "openai", (Capability.EMBEDDING,)))
    async with Models([engine], probe_seconds=60) as models:
        bench = Bench(engine, models)
        for _ in range(2):
            await bench.cached.embed("vectors", ["a"])
    assert engine.embedded == [["a"], ["a"]]


async def settled(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a condition of the code under test, which has no event for it
            await asyncio.sleep(0)
