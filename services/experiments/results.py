"""What an experiment has shown so far: counts and plain means, no claim that one variant is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.experiments.experiments import Experiment, existing
from services.experiments.store import OutcomeTally

if TYPE_CHECKING:
    from services.experiments.store import Store, Tally


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One metric of one variant. `mean` is over outcomes, None while there is none."""

    metric: str
    outcomes: int
    units: int
    sum: float
    mean: float | None


@dataclass(frozen=True, slots=True)
class VariantResult:
    """One variant: requests and different units that met it, and its metrics in the experiment's order."""

    variant: str
    exposures: int
    exposed_units: int
    metrics: tuple[MetricResult, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """An experiment, and one result per variant in its order."""

    experiment: Experiment
    variants: tuple[VariantResult, ...]


async def results(store: Store, experiment: str) -> Results:
    """Counts everything recorded so far, or raises EXPERIMENT_NOT_FOUND."""
    found = await existing(store, experiment)
    tally = await store.tally(experiment)
    return Results(found, tuple(_variant(found, arm.variant, tally) for arm in found.design.variants))


def _variant(experiment: Experiment, variant: str, tally: Tally) -> VariantResult:
    exposures, units = tally.exposures.get(variant, (0, 0))
    metrics = tuple(
        _metric(metric.metric, tally.outcomes.get((variant, metric.metric), OutcomeTally(0, 0, 0.0)))
        for metric in experiment.design.metrics
    )
    return VariantResult(variant, exposures, units, metrics)


def _metric(metric: str, counted: OutcomeTally) -> MetricResult:
    mean = counted.sum / counted.outcomes if counted.outcomes else None
    return MetricResult(metric, counted.outcomes, counted.units, counted.sum, mean)
