from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Generation, Message, ModelState, Passage, Role
from services.inference.models import Models
from services.inference.policy import Alias, Policy, WeightedModel
from services.inference.routing import Router, affinity_of
from tests.unit.inference.scripted_engine import ScriptedEngine, embedder, extractor, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.inference.backends import Backend
    from services.inference.routing import Route


WITH_PASSAGES = Generation("", (Message(Role.USER, "What is it?"),), (Passage("It is water."),))


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    engines = [
        *(ScriptedEngine("openai", writer("model", "openai")) for _ in range(3)),
        ScriptedEngine("ollama", writer("small", "ollama"), embedder("vectors", "ollama")),
        ScriptedEngine("extractive", extractor()),
    ]
    async with Models(engines, probe_seconds=60) as models:
        yield models


def names(route: Route) -> list[str]:
    return [step[0].found.model.name for step in route.steps]


def chosen(router: Router, replicas: tuple[Backend, ...], affinity: str = "") -> Backend:
    backend = router.choose(replicas, affinity)
    assert backend is not None
    return backend


async def test_a_name_goes_to_its_replicas_and_to_nothing_else(models: Models) -> None:
    route = Router(models).route("model")
    assert [[one.name for one in step] for step in route.steps] == [["openai", "openai#2", "openai#3"]]
    assert [one.model.name for one in models.listed()] == ["extractive", "small", "vectors", "model"]


async def test_auto_goes_through_the_engines_in_order(models: Models) -> None:
    assert names(Router(models).route("auto")) == names(Router(models).route("")) == ["model", "small"]
    assert names(Router(models).route("auto", generation=WITH_PASSAGES)) == ["model", "small", "extractive"]


async def test_an_alias_goes_through_its_chain_and_leaves_out_what_is_away(models: Models) -> None:
    policy = Policy({"fast": Alias((WeightedModel("gone"), WeightedModel("small")), ("vectors", "extractive", "model"))})
    router = Router(models, policy=lambda: policy)
    route = router.route("fast", key="k")
    assert names(route) == ["small", "extractive", "model"]
    assert (route.alias, route.defaults) == ("fast", policy.aliases["fast"])
    assert router.route("small").defaults is None


async def test_an_alias_may_take_the_name_of_a_model_or_auto(models: Models) -> None:
    policy = Policy({name: Alias((WeightedModel("small"),), ("model",)) for name in ("auto", "small")})
    router = Router(models, policy=lambda: policy)
    assert names(router.route("")) == names(router.route("auto")) == names(router.route("small")) == ["small", "model"]


async def test_what_nobody_serves_is_not_found(models: Models) -> None:
    router = Router(models, policy=lambda: Policy({"a": Alias((WeightedModel("gone"),))}))
    for name in ("gone", "a"):
        with pytest.raises(Failure) as caught:
            router.route(name)
        assert caught.value.reason is Reason.MODEL_NOT_FOUND
        assert caught.value.metadata == {"model": name}
    with pytest.raises(Failure) as caught:
        router.route("vectors")
    assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING


async def test_of_two_drawn_the_one_with_the_shorter_wait_is_taken(models: Models) -> None:
    router = Router(models)
    (replicas,) = router.route("model").steps
    busy, slow, quick = replicas
    for one, seconds in ((busy, 1.0), (slow, 4.0), (quick, 1.0)):
        one.mean_seconds, one.measured = seconds, time.monotonic()
    for _ in range(2):
        busy.enter()
    # Waits: busy 3 x 1, slow 1 x 4, quick 1 x 1. Any two contain one of the better ones.
    taken = Counter(chosen(router, replicas).name for _ in range(300))
    assert taken["openai#3"] > taken["openai"] > 0
    assert "openai#2" not in taken


async def test_a_backend_that_was_slow_once_gets_another_chance(models: Models) -> None:
    router = Router(models)
    replicas = router.route("model").steps[0][:2]
    replicas[0].mean_seconds, replicas[0].measured = 100.0, time.monotonic()
    replicas[1].mean_seconds, replicas[1].measured = 1.0, time.monotonic()
    assert {chosen(router, replicas).name for _ in range(50)} == {"openai#2"}
    replicas[0].measured -= 10
    assert {chosen(router, replicas).name for _ in range(50)} == {"openai", "openai#2"}


async def test_what_waits_at_the_server_counts(models: Models) -> None:
    first, second, third = models.engines[:3]
    queues = {id(first): 9.0, id(second): 9.0, id(third): 0.0}
    router = Router(models, waiting=lambda engine: queues[id(engine)])
    (replicas,) = router.route("model").steps
    taken = Counter(chosen(router, replicas).name for _ in range(300))
    assert taken["openai#3"] > 150


async def test_load_is_even_without_affinity(models: Models) -> None:
    router = Router(models)
    (replicas,) = router.route("model").steps
    for _ in range(300):
        chosen(router, replicas).enter()
    loads = [one.in_flight for one in replicas]
    assert max(loads) - min(loads) <= 8


async def test_a_session_stays_until_its_home_has_clearly_more_to_do(models: Models) -> None:
    router = Router(models)
    (replicas,) = router.route("model").steps
    home = chosen(router, replicas, "session")
    assert {chosen(router, replicas, "session").name for _ in range(20)} == {home.name}
    homes = Counter(chosen(router, replicas, f"session {number}").name for number in range(300))
    assert min(homes.values()) > 50
    while chosen(router, replicas, "session") is home:
        home.enter()
        assert home.in_flight < 20
    assert home.in_flight > 4


async def test_a_replica_that_is_left_alone_or_out_of_reach_gets_nothing(models: Models) -> None:
    router = Router(models)
    (replicas,) = router.route("model").steps
    failure = Failure(Reason.ENGINE_UNAVAILABLE, "gone")
    for _ in range(5):
        replicas[0].enter().failed(failure)
    assert "openai" not in {chosen(router, replicas, f"{number}").name for number in range(100)}
    for one in replicas[1:]:
        for _ in range(5):
            one.enter().failed(failure)
    assert router.choose(replicas, "") is None
    models._known[1].models = (replace(writer("model", "openai"), state=ModelState.UNREACHABLE),)
    models._index()
    assert [one.name for one in router.route("model").steps[0]] == ["openai", "openai#3"]


async def test_what_a_probe_finds_holds_for_the_next_request(models: Models) -> None:
    router = Router(models)
    engine = models.engines[0]
    assert isinstance(engine, ScriptedEngine)
    first = router.route("model").steps[0]
    assert router.route("model").steps[0] is first
    engine.listed = (replace(writer("model", "openai"), context_tokens=9), writer("new", "openai"))
    await models.refresh(engine)
    assert [one.found.model.context_tokens for one in router.route("model").steps[0]] == [9, 0, 0]
    assert router.route("model").steps[0][0] is first[0]
    assert [one.name for one in router.route("new").steps[0]] == ["openai"]
    engine.listed = ()
    await models.refresh(engine)
    assert [one.name for one in router.route("model").steps[0]] == ["openai#2", "openai#3"]
    with pytest.raises(Failure):
        router.route("new")


def test_what_a_conversation_has_in_common() -> None:
    system, first, second = (Message(Role.SYSTEM, "S"), Message(Role.USER, "Q1"), Message(Role.USER, "Q2"))
    turn = affinity_of("", Generation("m", (system, first)))
    later = affinity_of("", Generation("m", (system, first, Message(Role.ASSISTANT, "A"), second)))
    other = affinity_of("", Generation("m", (system, second)))
    assert turn == later != other
    assert affinity_of("s", Generation("m", (first,))) == "s"


async def test_leases_give_back_once(models: Models) -> None:
    (replicas,) = Router(models).route("small").steps
    lease = replicas[0].enter()
    lease.answered()
    lease.left()
    lease.failed(Failure(Reason.ENGINE_UNAVAILABLE, "x"))
    assert replicas[0].in_flight == 0
    assert replicas[0].breaker._failures_in_a_row == 0
