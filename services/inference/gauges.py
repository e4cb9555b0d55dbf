"""How inference stands, read when Prometheus asks: queues, circuit breakers, memory of models, caches.

Of several workers each tells its own share of the queues, of what is under way and of the caches; the sum is the whole.
What models take is told by the process that has them loaded.

Reading happens in the thread that serves /metrics, so it only takes copies of what the event loop keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from services.inference.resilience import BreakerState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from services.chassis.cache.tiers import Tiers
    from services.inference.admission import Admission
    from services.inference.models import Models
    from services.inference.routing import Router

_BREAKER: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Gauges(Collector):
    """Reads the state of inference, as far as this process has it; registers itself."""

    def __init__(
        self,
        models: Models | None = None,
        router: Router | None = None,
        admission: Admission | None = None,
        caches: Sequence[Tiers] = (),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._models = models
        self._router = router
        self._admission = admission
        self._caches = caches
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus gets."""
        if self._admission is not None:
            yield from self._queues(self._admission)
        if self._router is not None:
            yield from self._backends(self._router)
        if self._models is not None:
            yield from self._memory(self._models)
        if self._caches:
            yield from self._lookups()

    def _memory(self, models: Models) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "penstock_inference_model_memory_bytes",
            "Memory that a loaded model takes, as far as its engine tells.",
            labels=("gen_ai_provider_name", "gen_ai_response_model"),
        )
        for listed in models.listed():
            model = listed.model
            if model.residence is not None:
                memory.add_metric((model.engine, model.name), model.residence.memory_bytes)
        yield memory

    def _queues(self, admission: Admission) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("penstock_inference_queue_depth", "Requests that wait for room.", labels=("priority",))
        running = GaugeMetricFamily("penstock_inference_running", "Requests that have room and work.", labels=("priority",))
        for priority, load in admission.load().items():
            waiting.add_metric((priority.name.lower(),), load.waiting)
            running.add_metric((priority.name.lower(),), load.in_use)
        yield waiting
        yield running

    def _lookups(self) -> Iterator[Metric]:
        lookups = CounterMetricFamily(
            "penstock_inference_cache_lookups",
            "Lookups in a cache: memory and redis answered, joined shares what is under way, missed, or bypassed.",
            labels=("cache", "outcome"),
        )
        used = GaugeMetricFamily("penstock_inference_cache_bytes", "Memory that a cache takes.", labels=("cache",))
        for cache in self._caches:
            counts = cache.lookups
            for outcome, count in (
                ("memory", counts.memory),
                ("redis", counts.shared),
                ("joined", counts.joined),
                ("missed", counts.missed),
                ("bypassed", counts.bypassed),
            ):
                lookups.add_metric((cache.kind, outcome), count)
            used.add_metric((cache.kind,), cache.used_bytes)
        yield lookups
        yield used

    def _backends(self, router: Router) -> Iterator[Metric]:
        breaker = GaugeMetricFamily(
            "penstock_inference_breaker_state",
            "Whether requests go to a backend: 0 closed (they do), 1 half open (one may try), 2 open (they don't).",
            labels=("backend", "gen_ai_response_model"),
        )
        in_flight = GaugeMetricFamily(
            "penstock_inference_backend_in_flight",
            "Requests under way at a backend.",
            labels=("backend", "gen_ai_response_model"),
        )
        waiting = GaugeMetricFamily(
            "penstock_inference_backend_queue_depth",
            "Requests that wait for room at an engine that runs only so many at once.",
            labels=("backend", "gen_ai_response_model", "priority"),
        )
        for backend in list(router.backends()):
            labels = (backend.name, backend.found.model.name)
            if backend.admission is not None:
                for priority, load in backend.admission.load().items():
                    waiting.add_metric((*labels, priority.name.lower()), load.waiting)
            breaker.add_metric(labels, _BREAKER[backend.breaker.state])
            in_flight.add_metric(labels, backend.in_flight)
        yield breaker
        yield in_flight
        yield waiting
