from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from services.chassis import telemetry
from services.chassis.errors import Failure, Reason
from services.inference.admission import Admission, Class, Priority
from services.inference.engine import Delta, Message, ModelState, Residence, Role
from services.inference.gauges import Gauges
from services.inference.generation import Request, Started
from services.inference.inference import Inference
from services.inference.metrics import Figures, Metered
from services.inference.models import Models
from services.inference.resilience import BreakerLimits, Patience
from services.inference.routing import Router
from tests.unit.inference.scripted_engine import ScriptedEngine, embedder, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.inference.engine import Model

CHAT = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_response_model": "model"}
INPUT, OUTPUT = {"gen_ai_token_type": "input"}, {"gen_ai_token_type": "output"}


class Bench:
    """A measured inference over one engine."""

    def __init__(self, models: Models) -> None:
        self.registry = CollectorRegistry()
        self.router = Router(models, BreakerLimits(in_a_row=1))
        self.admission = Admission(4)
        inference = Inference(models, None, router=self.router, admission=self.admission, patience=Patience(total=1))
        figures = Figures(lambda: (one.model.name for one in models.listed()), self.registry)
        self.admission.waited = figures.waited
        self.metered = Metered(inference, figures)
        Gauges(models, self.router, self.admission, registry=self.registry)

    def read(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine("openai", writer("model", "openai"), embedder("vectors", "openai"))


@pytest.fixture
async def bench(engine: ScriptedEngine) -> AsyncIterator[Bench]:
    async with Models([engine], probe_seconds=60) as models:
        yield Bench(models)


def request(model: str = "model", priority: Priority = Priority.DEFAULT) -> Request:
    return Request("r1", model, (Message(Role.USER, "Hello"),), priority=priority)


async def test_a_generation_is_recorded_once_with_its_tokens_and_times(bench: Bench) -> None:
    await bench.metered.complete(request())
    assert bench.read("gen_ai_server_request_duration_seconds_count", **CHAT, error_type="") == 1
    assert bench.read("gen_ai_server_time_to_first_token_seconds_count", **CHAT) == 1
    assert bench.read("gen_ai_server_time_per_output_token_seconds_count", **CHAT) == 1
    assert bench.read("gen_ai_client_token_usage_sum", **CHAT, **INPUT) == 7
    assert bench.read("gen_ai_client_token_usage_sum", **CHAT, **OUTPUT) == 2
    ended = {"gen_ai_provider_name": "openai", "gen_ai_response_model": "model", "finish_reason": "stop", "cached": "false"}
    assert bench.read("penstock_inference_requests_total", **ended) == 1
    assert bench.read("penstock_inference_queue_seconds_count", priority="default", outcome="admitted") == 1


async def test_an_aborted_generation_counts_the_tokens_that_it_cost(bench: Bench) -> None:
    async with aclosing(bench.metered.stream(request())) as events:
        async for event in events:
            if isinstance(event, Delta):
                break
    assert bench.read("gen_ai_client_token_usage_sum", **CHAT, **OUTPUT) == 1
    assert bench.read("gen_ai_server_request_duration_seconds_count", **CHAT, error_type="CANCELLED") == 1
    ended = {
        "gen_ai_provider_name": "openai",
        "gen_ai_response_model": "model",
        "finish_reason": "cancelled",
        "cached": "false",
    }
    assert bench.read("penstock_inference_requests_total", **ended) == 1


async def test_a_failure_is_counted_by_its_reason_before_and_after_the_first_content(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.failure = Failure(Reason.GENERATION_FAILED, "cut", metadata={"engine": "openai", "model": "model"})
    with pytest.raises(Failure):
        await bench.metered.complete(request())
    assert bench.read("penstock_inference_errors_total", **CHAT, reason="GENERATION_FAILED") == 1
    attempt = {"gen_ai_provider_name": "openai", "gen_ai_response_model": "model", "reason": "GENERATION_FAILED"}
    assert bench.read("penstock_inference_failed_attempts_total", **attempt) == 1
    # The breaker opens at its first failure here.
    assert bench.read("penstock_inference_breaker_state", backend="openai", gen_ai_response_model="model") == 2
    with pytest.raises(Failure):
        await bench.metered.complete(request())
    assert bench.read("penstock_inference_errors_total", **CHAT, reason="ENGINE_UNAVAILABLE") == 1


async def test_names_that_clients_make_up_become_no_series(bench: Bench) -> None:
    for number in range(5):
        with pytest.raises(Failure, match="no engine in reach"):
            await bench.metered.complete(request(f"made-up-{number}"))
    unknown = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "", "gen_ai_response_model": "unknown"}
    assert bench.read("penstock_inference_errors_total", **unknown, reason="MODEL_NOT_FOUND") == 5
    assert "made-up" not in str(list(bench.registry.collect()))


async def test_an_embedding_is_recorded(bench: Bench, engine: ScriptedEngine) -> None:
    await bench.metered.embed("vectors", ["a", "b"])
    labels = {"gen_ai_operation_name": "embeddings", "gen_ai_provider_name": "openai", "gen_ai_response_model": "vectors"}
    assert bench.read("gen_ai_server_request_duration_seconds_count", **labels, error_type="") == 1
    engine.failure = Failure(Reason.ENGINE_OVERLOADED, "busy", metadata={"engine": "openai", "model": "vectors"})
    with pytest.raises(Failure):
        await bench.metered.embed("vectors", ["a"])
    assert bench.read("penstock_inference_errors_total", **labels, reason="ENGINE_OVERLOADED") == 1


async def test_queues_and_memory_are_read_when_they_are_asked_for(bench: Bench, engine: ScriptedEngine) -> None:
    # A quarter of the room, one of four, is kept for the interactive class.
    permits = [await bench.admission.enter(Priority.BULK) for _ in range(3)]
    waiting = asyncio.create_task(bench.admission.enter(Priority.BULK))
    await asyncio.sleep(0)
    assert bench.read("penstock_inference_running", priority="bulk") == 3
    assert bench.read("penstock_inference_queue_depth", priority="bulk") == 1
    permits.pop().release()
    permits.append(await waiting)
    assert bench.read("penstock_inference_queue_depth", priority="bulk") == 0
    for one in permits:
        one.release()
    engine.listed = [resident(engine.listed[0])]
    async with Models([engine], probe_seconds=60) as models:
        registry = CollectorRegistry()
        Gauges(models, bench.router, bench.admission, registry=registry)
        labels = {"gen_ai_provider_name": "openai", "gen_ai_response_model": "model"}
        assert registry.get_sample_value("penstock_inference_model_memory_bytes", labels) == 123.0


async def test_waits_are_told_however_they_end() -> None:
    registry = CollectorRegistry()
    figures = Figures(list, registry)
    admission = Admission(1, {priority: Class(0, 1, 0.05, 5.0) for priority in Priority})
    admission.waited = figures.waited
    permit = await admission.enter(Priority.SYSTEM)
    expiring = asyncio.create_task(admission.enter(Priority.SYSTEM))
    leaving = asyncio.create_task(admission.enter(Priority.BULK))
    await asyncio.sleep(0)
    with pytest.raises(Failure):
        await admission.enter(Priority.SYSTEM)
    leaving.cancel()
    with pytest.raises(Failure):
        await expiring
    permit.release()

    def count(priority: str, outcome: str) -> float | None:
        labels = {"priority": priority, "outcome": outcome}
        return registry.get_sample_value("penstock_inference_queue_seconds_count", labels)

    assert [count("system", outcome) for outcome in ("admitted", "refused", "expired", "left")] == [1, 1, 1, None]
    assert count("bulk", "left") == 1
    labels = {"priority": "system", "outcome": "expired"}
    assert (registry.get_sample_value("penstock_inference_queue_seconds_sum", labels) or 0) >= 0.05


async def test_queues_at_an_engine_with_little_room_are_told() -> None:
    class Narrow(ScriptedEngine):
        room = 1

    registry = CollectorRegistry()
    async with Models([Narrow("narrow", writer("small", "narrow"))], probe_seconds=60) as models:
        router = Router(models)
        Gauges(router=router, registry=registry)
        (backend,) = router.route("small").steps[0]
        assert backend.admission is not None
        permit = await backend.admission.enter(Priority.BULK)
        waiting = asyncio.create_task(backend.admission.enter(Priority.BULK))
        await asyncio.sleep(0)
        labels = {"backend": "narrow", "gen_ai_response_model": "small", "priority": "bulk"}
        assert registry.get_sample_value("penstock_inference_backend_queue_depth", labels) == 1
        permit.release()
        (await waiting).release()
        assert registry.get_sample_value("penstock_inference_backend_queue_depth", labels) == 0


def resident(model: Model) -> Model:
    return type(model)(model.name, model.engine, model.capabilities, ModelState.READY, residence=Residence(memory_bytes=123))


async def test_the_span_of_the_call_tells_the_generation(bench: Bench) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("rpc"):
        assert trace.get_current_span().is_recording()
        events = [event async for event in bench.metered.stream(request("auto"))]
    assert isinstance(events[0], Started)
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    told = {name: span.attributes[name] for name in span.attributes}
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "auto",
        "gen_ai.provider.name": "openai",
        "gen_ai.response.model": "model",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ("stop",),
        "penstock.cached": False,
    }
    provider.shutdown()


class Counts:
    recorded, dropped, refused = 5, 1, 2


def test_exposures_are_told_by_what_became_of_them() -> None:
    registry = CollectorRegistry()
    telemetry.watch_exposures(Counts(), registry)
    told = {outcome: registry.get_sample_value("penstock_exposures_total", {"outcome": outcome}) for outcome in vars(Counts)}
    assert (told["recorded"], told["dropped"], told["refused"]) == (5, 1, 2)
