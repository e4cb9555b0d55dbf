"""How requests come to the models of an alias that is routed by what they look like, and what is told and recorded of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from penstock.assignment import Treatment
from penstock.inference.v1 import policy_pb2

from services.chassis.cache.tiers import Tiers
from services.chassis.call import Call, enter_call
from services.chassis.errors import Failure, Reason
from services.inference import policy_handlers
from services.inference.auto.chooser import Chooser
from services.inference.auto.decision import Why
from services.inference.auto.records import Ending, Record, key_of
from services.inference.caching import CachedInference
from services.inference.engine import Capability, FinishReason, Generation, Message, Passage, Role
from services.inference.form import Form, Tool
from services.inference.generation import Assignment, Finished, Request, Started
from services.inference.inference import Inference
from services.inference.models import Models
from services.inference.policy import Alias, Policy, Routing, Strategy, WeightedModel, checked
from services.inference.policy_file import parsed, written
from services.inference.resilience import Patience
from services.inference.routing import Router
from services.inference.routing_convert import decision_message
from tests.unit.inference.scripted_engine import ScriptedEngine, extractor, writer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from services.inference.generation import Event

ROUTING = Routing(Strategy.COMPLEXITY, target=0.8, explore=0.0)
CHOICES = (WeightedModel("small"), WeightedModel("handy"), WeightedModel("wide"))
QUESTION = Generation("auto", (Message(Role.USER, "Why does water flow?"),))


class Assigner:
    """Has everyone meet one variant, which may name a model."""

    def __init__(self, model: str | None) -> None:
        self.model = model

    def assign(self, *_: Any, **__: Any) -> Treatment:
        return Treatment("key", "e1", "v1", "u1", model=self.model, temperature=0.5)

    def expose(self, *_: Any, **__: Any) -> None:
        return


class Bench:
    """Three writers and an extractor."""

    def __init__(self, models: Models, engines: dict[str, ScriptedEngine]) -> None:
        self.models = models
        self.engines = engines
        self.recorded: list[Record] = []
        self.policy = Policy({"auto": Alias(CHOICES, routing=ROUTING)})
        self.router = Router(models, policy=lambda: self.policy, chooser=Chooser())
        self.assigner: Any = None

    def inference(self) -> Inference:
        return Inference(
            self.models, self.assigner, router=self.router, patience=Patience(tries=1), record=self.recorded.append
        )

    def route(self, generation: Generation = QUESTION) -> tuple[list[str], Why]:
        route = self.router.route(generation.model, generation=generation)
        assert route.decision is not None
        return [step[0].found.model.name for step in route.steps], route.decision.why


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    small = replace(writer("small", "openai"), context_tokens=100)
    handy = replace(writer("handy", "vllm"), capabilities=(Capability.GENERATION, Capability.TOOLS), context_tokens=200)
    wide = replace(writer("wide", "ollama"), context_tokens=100_000)
    engines = {model.name: ScriptedEngine(model.engine, model) for model in (small, handy, wide, extractor())}
    async with Models(list(engines.values()), probe_seconds=60) as models:
        yield Bench(models, engines)


async def events_of(stream: AsyncGenerator[Event, None]) -> list[Event]:
    return [event async for event in stream]


def asked(**fields: Any) -> Request:
    return Request("r1", "auto", QUESTION.messages, **fields)


async def test_what_a_model_cannot_do_is_a_hard_limit(bench: Bench) -> None:
    assert bench.route() == (["small", "handy", "wide"], Why.UNCALIBRATED)
    tools = replace(QUESTION, form=Form(tools=(Tool("t", "", "{}"),)))
    assert bench.route(tools) == (["handy"], Why.ONLY_ABLE)
    long = replace(QUESTION, messages=(Message(Role.USER, "water " * 400),))
    assert bench.route(long) == (["wide"], Why.ONLY_ABLE)
    answer = replace(QUESTION, max_tokens=150)
    assert bench.route(answer) == (["handy", "wide"], Why.UNCALIBRATED)
    bench.policy = Policy({"auto": Alias((*CHOICES, WeightedModel("extractive")), max_tokens=150, routing=ROUTING)})
    assert bench.route() == (["handy", "wide"], Why.UNCALIBRATED)
    with_passages = replace(QUESTION, passages=(Passage("Water flows."),))
    assert bench.route(with_passages) == (["handy", "wide", "extractive"], Why.UNCALIBRATED)
    both = replace(tools, messages=long.messages)
    assert bench.route(both)[1] is Why.NONE_ABLE


async def test_what_is_away_or_left_alone_is_no_choice(bench: Bench) -> None:
    (step, *_) = bench.router.route("auto", generation=QUESTION).steps
    for _ in range(5):
        lease = step[0].enter()
        lease.failed(Failure(Reason.ENGINE_UNAVAILABLE, "gone"))
    assert bench.route() == (["handy", "wide"], Why.UNCALIBRATED)
    bench.policy = Policy({"auto": Alias((WeightedModel("gone"), WeightedModel("wide")), routing=ROUTING)})
    assert bench.route() == (["wide"], Why.ONLY_ABLE)


async def test_every_way_of_coming_to_a_model_says_so(bench: Bench) -> None:
    assert bench.router.route("wide", generation=QUESTION).decision is None
    bench.policy = Policy({"drawn": Alias((WeightedModel("small", 3), WeightedModel("wide")))})
    decision = bench.router.route("drawn", key="k", generation=QUESTION).decision
    assert decision is not None
    assert decision.why is Why.WEIGHT
    assert {one.model: one.propensity for one in decision.options} == {"small": 0.75, "wide": 0.25}
    assert decision.propensity == {"small": 0.75, "wide": 0.25}[decision.model]
    steps, why = bench.route()
    assert (steps[0], why) == ("small", Why.ENGINE_ORDER)
    assert bench.router.route("auto", generation=QUESTION).decision == bench.router.route("", generation=QUESTION).decision


async def test_a_variant_that_names_the_model_overrides_auto_and_the_decision_says_so(bench: Bench) -> None:
    bench.assigner = Assigner("wide")
    started = (await events_of(bench.inference().stream(asked(user="u"))))[0]
    assert isinstance(started, Started)
    assert started.decision is not None
    assert (started.model, started.decision.why, started.decision.model) == ("wide", Why.ASSIGNED, "wide")
    # A variant that leaves the model to `auto` leaves the choice where it was.
    bench.assigner = Assigner(None)
    started = (await events_of(bench.inference().stream(asked(user="u"))))[0]
    assert isinstance(started, Started)
    assert started.decision is not None
    assert started.decision.why is Why.UNCALIBRATED
    # So it is with what the calling service has assigned.
    handed = Request("r1", "wide", QUESTION.messages, assignment=Assignment("k", "e", "v"))
    started = (await events_of(bench.inference().stream(handed)))[0]
    assert isinstance(started, Started)
    assert started.decision is not None
    assert started.decision.why is Why.ASSIGNED
    assert [one.why for one in bench.recorded] == [Why.UNCALIBRATED]


async def test_what_became_of_it_is_recorded(bench: Bench) -> None:
    enter_call(Call("m", "r1", None, "tenant"))
    events = await events_of(bench.inference().stream(asked()))
    assert isinstance(events[-1], Finished)
    (record,) = bench.recorded
    assert record.key == key_of("tenant", "r1")
    assert (record.alias, record.model, record.why, record.propensity, record.ending) == (
        "auto",
        "small",
        Why.UNCALIBRATED,
        1.0,
        Ending.WELL,
    )
    assert record.output_tokens == 2


async def test_a_model_that_fails_by_itself_is_recorded_as_such_and_the_one_in_its_place_too(bench: Bench) -> None:
    bench.engines["small"].texts, bench.engines["small"].failure = (), Failure(Reason.GENERATION_FAILED, "nonsense")
    events = await events_of(bench.inference().stream(asked()))
    started = events[0]
    assert isinstance(started, Started)
    assert (started.model, started.decision and started.decision.model) == ("handy", "small")
    assert [(one.model, one.ending, one.propensity) for one in bench.recorded] == [
        ("small", Ending.FAILED, 1.0),
        ("handy", Ending.WELL, 0.0),
    ]
    assert bench.recorded[1].key == key_of("", "r1") != bench.recorded[0].key


async def test_a_server_that_is_away_says_nothing_of_its_model(bench: Bench) -> None:
    for engine in bench.engines.values():
        engine.texts, engine.failure = (), Failure(Reason.ENGINE_UNAVAILABLE, "gone")
    with pytest.raises(Failure):
        await events_of(bench.inference().stream(asked()))
    assert {one.ending for one in bench.recorded} == {Ending.UNKNOWN}


@pytest.mark.parametrize(
    ("reason", "ending"),
    [(FinishReason.LENGTH, Ending.CUT), (FinishReason.CONTENT_FILTER, Ending.WITHHELD), (FinishReason.TOOL_CALLS, Ending.WELL)],
)
async def test_how_it_ended_is_recorded(bench: Bench, reason: FinishReason, ending: Ending) -> None:
    bench.engines["small"].finish_reason = reason
    await events_of(bench.inference().stream(asked()))
    assert [one.ending for one in bench.recorded] == [ending]


async def test_one_that_is_left_says_nothing_yet(bench: Bench) -> None:
    stream = bench.inference().stream(asked())
    await anext(stream)
    await stream.aclose()
    assert [one.ending for one in bench.recorded] == [Ending.UNKNOWN]


async def test_the_cache_and_the_engine_see_one_decision(bench: Bench) -> None:
    draws = iter([0.01, 0.9, 0.9, 0.9])
    bench.policy = Policy({"auto": Alias(CHOICES, routing=replace_routing(explore=0.5))})
    bench.router = Router(bench.models, policy=lambda: bench.policy, chooser=Chooser(draw=lambda: next(draws)))
    inner = bench.inference()
    tiers = Tiers("responses", 1_000_000, 60)
    cached = CachedInference(inner, inner, plan=inner.plan, shape=inner.shape, assigner=None, tiers=tiers)
    started = (await events_of(cached.stream(asked())))[0]
    assert isinstance(started, Started)
    assert started.decision is not None
    assert (started.decision.why, started.model) == (Why.EXPLORED, "small")
    assert list(draws) == [0.9, 0.9, 0.9]


async def test_a_decision_is_told_in_full(bench: Bench) -> None:
    decision = bench.router.route("auto", generation=QUESTION).decision
    message = decision_message(decision)
    assert message is not None
    assert message.features.reasons == 1
    assert [(one.model, one.propensity) for one in message.options] == [("small", 1), ("handy", 0), ("wide", 0)]
    assert not message.HasField("score")
    assert not message.options[0].HasField("expected")


def test_a_policy_with_routing_is_read_and_written_and_held_to_its_limits() -> None:
    document = {
        "models": [{"model": "a", "tier": 1, "input_price": 0.1, "output_price": 2.5}, {"model": "b"}],
        "routing": {"strategy": "feedback", "holdout": 0.2, "cost_weight": 3.0},
    }
    policy = checked({"aliases": {"auto": document}})
    assert parsed(written(policy)) == policy
    message = policy_handlers._written(policy)
    assert message.aliases[0].routing.strategy == policy_pb2.STRATEGY_FEEDBACK
    assert policy_handlers._read(message) == policy
    for routing, field in (
        ({"strategy": "complexity"}, "aliases.auto.routing.target"),
        ({"strategy": "magic"}, "aliases[...].routing.strategy"),
        ({"strategy": "feedback", "holdout": 0}, "aliases[...].routing.holdout"),
        ({"strategy": "feedback", "explore": 0.9}, "aliases[...].routing.explore"),
    ):
        with pytest.raises(Failure) as caught:
            checked({"aliases": {"auto": {**document, "routing": routing}}})
        assert caught.value.metadata == {"field": field}


def replace_routing(**fields: Any) -> Routing:
    return Routing(Strategy.COMPLEXITY, **{"target": 0.8, **fields})
