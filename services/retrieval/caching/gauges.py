"""How the caches do, for /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from services.chassis.cache.tiers import Tiers


class CacheGauges(Collector):
    """Counts lookups by their outcome: the hit ratio is (memory + redis) of all."""

    def __init__(self, caches: Sequence[Tiers], registry: CollectorRegistry = REGISTRY) -> None:
        self._caches = caches
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The counts of now."""
        lookups = CounterMetricFamily(
            "penstock_retrieval_cache_lookups",
            "Lookups in a cache: memory and redis answered, missed, or bypassed.",
            labels=("cache", "outcome"),
        )
        used = GaugeMetricFamily("penstock_retrieval_cache_bytes", "Memory that a cache takes.", labels=("cache",))
        for cache in self._caches:
            counts = cache.lookups
            for outcome, count in (
                ("memory", counts.memory),
                ("redis", counts.shared),
                ("missed", counts.missed),
                ("bypassed", counts.bypassed),
            ):
                lookups.add_metric((cache.kind, outcome), count)
            used.add_metric((cache.kind,), cache.used_bytes)
        yield lookups
        yield used
