"""What inference tells Prometheus, under the names of OpenTelemetry's GenAI conventions where these have one.

A request is recorded once, when it is over: nothing is counted a token. Labels name only models that some engine has really
listed, and at most 200 of them, so that no client can fill the memory with series.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, cast

from opentelemetry import trace
from prometheus_client import REGISTRY, Counter, Histogram

from services.chassis.errors import Failure
from services.inference.admission import Priority
from services.inference.engine import Delta
from services.inference.generation import Finished, Started
from services.inference.inference import completed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from prometheus_client import CollectorRegistry

    from services.chassis.errors import Reason
    from services.inference.admission import Ending
    from services.inference.generation import Completed, Embedded, Event, Request
    from services.inference.serving import Streams

_Metric = TypeVar("_Metric", Counter, Histogram)

_CHAT: Final = "chat"
_EMBEDDINGS: Final = "embeddings"
_UNKNOWN: Final = "unknown"
_MOST_MODELS: Final = 200

_OF_A_MODEL: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model")
# Upper bounds, in seconds and tokens, as the conventions advise.
_REQUEST: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_OUTPUT_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS: Final = tuple(4**power for power in range(14))
_QUEUE: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LOAD: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass(slots=True)
class Record:
    """One generation, as far as it has come."""

    request: Request
    arrived: float
    tokens: int = 0
    started: Started | None = None
    finished: Finished | None = None
    failure: Failure | None = None


class Figures:
    """All that inference counts and times.

    Args:
        listed: Names of the models that there are now.
        registry: Where the metrics stand; one `Figures` a registry.
    """

    def __init__(self, listed: Callable[[], Iterable[str]], registry: CollectorRegistry = REGISTRY) -> None:
        self._listed = listed
        self._names: set[str] = set()
        # As many as the metrics themselves hold.
        self._series: dict[tuple[Counter | Histogram, tuple[str, ...]], Counter | Histogram] = {}

        def histogram(name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Seconds from a request's arrival to its end; error_type is empty where it succeeded.",
            (*_OF_A_MODEL, "error_type"),
            _REQUEST,
        )
        self._first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Seconds to the first content, queueing included.",
            _OF_A_MODEL,
            _FIRST_TOKEN,
        )
        self._output_token = histogram(
            "gen_ai_server_time_per_output_token_seconds", "Seconds a token after the first.", _OF_A_MODEL, _OUTPUT_TOKEN
        )
        self._tokens = histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request by type (input, output), as far as they are known. Cached answers use none.",
            (*_OF_A_MODEL, "gen_ai_token_type"),
            _TOKENS,
        )
        self._requests = counter(
            "penstock_inference_requests",
            "Generations that ended, by finish reason; `error` and `cancelled` where there is none.",
            ("gen_ai_provider_name", "gen_ai_response_model", "finish_reason", "cached"),
        )
        self._errors = counter(
            "penstock_inference_errors",
            "Requests that failed, by reason.",
            (*_OF_A_MODEL, "reason"),
        )
        self._attempts = counter(
            "penstock_inference_failed_attempts",
            "Attempts at a backend that failed, also where another one answered.",
            ("gen_ai_provider_name", "gen_ai_response_model", "reason"),
        )
        self._decisions = counter(
            "penstock_inference_routing_decisions",
            "Generations that began whose model was decided here, by the reason and the model chosen.",
            ("reason", "gen_ai_response_model"),
        )
        self._queued = histogram(
            "penstock_inference_queue_seconds",
            "Seconds that a request waited for room, by priority, and how that ended: admitted, refused, expired, left.",
            ("priority", "outcome"),
            _QUEUE,
        )
        self._loads = histogram(
            "penstock_inference_model_load_seconds",
            "Seconds that loading a model into this process took; reason is empty where it succeeded.",
            ("gen_ai_provider_name", "gen_ai_response_model", "reason"),
            _LOAD,
        )

    def _of(self, metric: _Metric, *labels: str) -> _Metric:
        """The series of these labels: finding one here costs a tenth of what it costs in the metric."""
        found = self._series.get((metric, labels))
        if found is None:
            found = self._series[metric, labels] = metric.labels(*labels)
        return cast("_Metric", found)

    def generated(self, record: Record) -> None:
        """Records a generation that is over."""
        started, finished, failure = record.started, record.finished, record.failure
        if failure is None and finished is not None:
            failure = finished.failure
        engine, model = (started.engine, started.model) if started else self._asked(record.request.model, failure)
        labels = (_CHAT, engine, self._name(model))
        if started is not None and started.decision is not None:
            self._of(self._decisions, started.decision.why.value, self._name(started.decision.model)).inc()
        is_cached = started is not None and started.cached
        is_cancelled = failure is None and finished is None
        error = failure.reason.value if failure else "CANCELLED" if is_cancelled else ""
        self._of(self._duration, *labels, error).observe(time.monotonic() - record.arrived)
        self._of(self._requests, engine, labels[2], _ending(record, failure), str(is_cached).lower()).inc()
        if failure is not None:
            self._of(self._errors, *labels, failure.reason.value).inc()
        for attempt in finished.attempts if finished else ():
            if attempt.reason is not None:
                self._of(self._attempts, attempt.engine, self._name(attempt.model), attempt.reason.value).inc()
        if not is_cached:
            self._worked(record, labels)

    def _worked(self, record: Record, labels: tuple[str, str, str]) -> None:
        """What only an engine's own work shows."""
        finished = record.finished
        output = finished.usage.output_tokens if finished and finished.usage.output_tokens else record.tokens
        if output:
            self._of(self._tokens, *labels, "output").observe(output)
        if finished is None:
            return
        if finished.usage.input_tokens:
            self._of(self._tokens, *labels, "input").observe(finished.usage.input_tokens)
        timings = finished.timings
        if timings.first_token is not None:
            self._of(self._first_token, *labels).observe(timings.first_token)
            if output > 1:
                self._of(self._output_token, *labels).observe((timings.total - timings.first_token) / (output - 1))

    def embedded(self, asked: str, embedded: Embedded | None, failure: Failure | None, seconds: float) -> None:
        """Records an embedding that is over; cancelled where there is neither a result nor a failure."""
        engine, model = (embedded.model.engine, embedded.model.name) if embedded else self._asked(asked, failure)
        labels = (_EMBEDDINGS, engine, self._name(model))
        error = failure.reason.value if failure else "" if embedded else "CANCELLED"
        self._of(self._duration, *labels, error).observe(seconds)
        if failure is not None:
            self._of(self._errors, *labels, failure.reason.value).inc()
        if embedded is not None and embedded.embeddings.input_tokens:
            self._of(self._tokens, *labels, "input").observe(embedded.embeddings.input_tokens)

    def waited(self, priority: Priority, seconds: float, ending: Ending) -> None:
        """Records a request's wait for room, as `Admission.waited`."""
        self._of(self._queued, priority.name.lower(), ending.value).observe(seconds)

    def loaded(self, engine: str, model: str, seconds: float, reason: Reason | None = None) -> None:
        """Records the loading of a model, or its failure."""
        self._of(self._loads, engine, self._name(model), reason.value if reason else "").observe(seconds)

    def _asked(self, model: str, failure: Failure | None) -> tuple[str, str]:
        """Whose failure it is, where nothing has started: what the failure names, or what was asked for."""
        metadata = failure.metadata if failure else {}
        engine = metadata.get("engine", "")
        return engine, metadata.get("model", "") or model or "auto"

    def _name(self, model: str) -> str:
        """The model's name, if some engine has listed it."""
        if model in self._names or model == "auto":
            return model
        if len(self._names) < _MOST_MODELS and model in self._listed():
            self._names.add(model)
            return model
        return _UNKNOWN


def _ending(record: Record, failure: Failure | None) -> str:
    if failure is not None:
        return "error"
    if record.finished is None or record.finished.finish_reason is None:
        return "cancelled"
    return record.finished.finish_reason.value


class Metered:
    """Inference, measured, and told to the trace."""

    def __init__(self, inner: Streams, figures: Figures) -> None:
        self._inner = inner
        self._figures = figures

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """As `Inference.stream`."""
        record = Record(request, time.monotonic())
        try:
            async with aclosing(self._inner.stream(request)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        record.tokens += event.tokens
                    elif isinstance(event, Started):
                        record.started = event
                    elif isinstance(event, Finished):
                        record.finished = event
                    yield event
        except Failure as failure:
            record.failure = failure
            raise
        finally:
            self._figures.generated(record)
            _tell_trace(record)

    async def complete(self, request: Request) -> Completed:
        """As `Inference.complete`."""
        return await completed(self.stream(request), request.form.alternatives)

    async def embed(self, model: str, inputs: Sequence[str], priority: Priority = Priority.DEFAULT) -> Embedded:
        """As `Inference.embed`."""
        arrived = time.monotonic()
        embedded: Embedded | None = None
        caught: Failure | None = None
        try:
            embedded = await self._inner.embed(model, inputs, priority)
        except Failure as failure:
            caught = failure
            raise
        finally:
            self._figures.embedded(model, embedded, caught, time.monotonic() - arrived)
            span = trace.get_current_span()
            if span.is_recording():
                span.set_attribute("gen_ai.operation.name", _EMBEDDINGS)
                span.set_attribute("gen_ai.request.model", model or "auto")
                if embedded is not None:
                    span.set_attribute("gen_ai.provider.name", embedded.model.engine)
                    span.set_attribute("gen_ai.response.model", embedded.model.name)
                    span.set_attribute("gen_ai.usage.input_tokens", embedded.embeddings.input_tokens or 0)
        return embedded


def _tell_trace(record: Record) -> None:
    """Puts the generation on the span of the call, in the terms of the GenAI conventions."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    request, started, finished = record.request, record.started, record.finished
    span.set_attribute("gen_ai.operation.name", _CHAT)
    span.set_attribute("gen_ai.request.model", request.model or "auto")
    for name, value in (
        ("temperature", request.sampling.temperature),
        ("top_p", request.sampling.top_p),
        ("seed", request.sampling.seed),
        ("max_tokens", request.max_tokens),
    ):
        if value is not None:
            span.set_attribute(f"gen_ai.request.{name}", value)
    if started is not None:
        span.set_attribute("gen_ai.provider.name", started.engine)
        span.set_attribute("gen_ai.response.model", started.model)
        span.set_attribute("penstock.cached", started.cached)
    if finished is not None:
        usage = finished.usage
        if usage.input_tokens is not None:
            span.set_attribute("gen_ai.usage.input_tokens", usage.input_tokens)
        if finished.finish_reason is not None:
            span.set_attribute("gen_ai.response.finish_reasons", (finished.finish_reason.value,))
    output = finished.usage.output_tokens if finished else None
    span.set_attribute("gen_ai.usage.output_tokens", record.tokens if output is None else output)
    failure = record.failure or (finished.failure if finished else None)
    if failure is not None:
        span.set_attribute("error.type", failure.reason.value)
