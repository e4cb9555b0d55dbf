"""How learning stands, read when Prometheus asks, in the thread that serves /metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from services.inference.auto.learning import Learning


class LearningGauges(Collector):
    """Reads how learning stands; registers itself."""

    def __init__(self, learning: Learning, registry: CollectorRegistry = REGISTRY) -> None:
        self._learning = learning
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus gets."""
        age = GaugeMetricFamily(
            "penstock_inference_routing_fit_age_seconds",
            "Seconds since an alias was last fitted to its records.",
            labels=("alias",),
        )
        records = GaugeMetricFamily(
            "penstock_inference_routing_fit_records", "Records that the last fit of an alias rests on.", labels=("alias",)
        )
        brier = GaugeMetricFamily(
            "penstock_inference_routing_brier",
            "Mean squared error of what the last fit expected of requests that it had not seen, and of each model's mean.",
            labels=("alias", "expected"),
        )
        now = time.time()
        for alias, fitted in self._learning.fits().items():
            age.add_metric((alias,), max(0.0, now - fitted.time))
            records.add_metric((alias,), fitted.records)
            if fitted.calibration is not None:
                brier.add_metric((alias, "score"), fitted.calibration.brier)
                brier.add_metric((alias, "mean"), fitted.calibration.brier_of_means)
        yield from (age, records, brier)
        kept = CounterMetricFamily(
            "penstock_inference_routing_records",
            "Records of routed requests: written, or dropped because too many came within a second.",
            labels=("outcome",),
        )
        kept.add_metric(("written",), self._learning.written)
        kept.add_metric(("dropped",), self._learning.dropped)
        yield kept
