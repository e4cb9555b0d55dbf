"""How the semantic cache stands, read when Prometheus asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from services.inference.semantic.index import SemanticIndex


class SemanticGauges(Collector):
    """Reads the index; registers itself."""

    def __init__(self, index: SemanticIndex, registry: CollectorRegistry = REGISTRY) -> None:
        self._index = index
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus gets."""
        looks = CounterMetricFamily(
            "penstock_inference_semantic_cache_looks",
            "Looks for the same question in other words, after a miss in the cache: found, missed, or skipped.",
            labels=("outcome",),
        )
        counts = self._index.looks
        for outcome, count in (("found", counts.found), ("missed", counts.missed), ("skipped", counts.skipped)):
            looks.add_metric((outcome,), count)
        yield looks
        yield GaugeMetricFamily(
            "penstock_inference_semantic_cache_bytes",
            "Memory that the questions of the semantic cache take.",
            value=self._index.used_bytes,
        )
