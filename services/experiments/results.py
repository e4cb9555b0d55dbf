"""What an experiment has shown so far: exact counts and plain means, and beside them what they say."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from services.chassis.errors import Failure, Reason
from services.experiments.analysis import Analysis, Method, Question, Uncomputable
from services.experiments.experiments import Experiment, State, existing
from services.experiments.store import OutcomeTally

if TYPE_CHECKING:
    from services.experiments.analyst import Analyst
    from services.experiments.store import Store, Tally

_log = logging.getLogger(__name__)


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
    """An experiment, one result per variant in its order, and what they show; the counts stand without an analysis."""

    experiment: Experiment
    variants: tuple[VariantResult, ...]
    analysis: Analysis | Uncomputable


async def results(store: Store, analyst: Analyst, experiment: str) -> Results:
    """Counts and analyses everything recorded so far, or raises EXPERIMENT_NOT_FOUND."""
    found = await existing(store, experiment)
    now = datetime.now(UTC)
    look, time = _latest_look(found, now)
    tally = await store.tally(experiment, time)
    variants = tuple(_variant(found, arm.variant, tally) for arm in found.design.variants)
    if found.state is State.DRAFT:
        return Results(found, variants, Uncomputable.NOT_STARTED)
    try:
        analysis: Analysis | Uncomputable = await analyst.ask(_question(found, tally, look, now))
    except Failure as failure:
        if failure.reason is not Reason.ANALYSIS_UNAVAILABLE:
            raise
        _log.warning("results without analysis: %s", failure.message)
        analysis = Uncomputable.ANALYSIS_FAILED
    return Results(found, variants, analysis)


def _ran(experiment: Experiment, now: datetime) -> float:
    """Seconds since it was first started, pauses included, until it was stopped: looks are at set times."""
    if experiment.start_time is None:
        return 0.0
    return max(((experiment.stop_time or now) - experiment.start_time).total_seconds(), 0.0)


def _latest_look(experiment: Experiment, now: datetime) -> tuple[int, datetime | None]:
    """Number and time of the latest planned look that has passed; 0 and None where there is none."""
    plan = experiment.design.analysis
    if plan.effective_method is not Method.GROUP_SEQUENTIAL or plan.duration is None or experiment.start_time is None:
        return 0, None
    look = plan.look_at(_ran(experiment, now))
    return look, experiment.start_time + timedelta(seconds=plan.duration * look / plan.looks) if look else None


def _question(experiment: Experiment, tally: Tally, look: int, now: datetime) -> Question:
    design = experiment.design
    over = design.analysis.duration is not None and _ran(experiment, now) >= design.analysis.duration
    return Question(
        weights={arm.variant: arm.weight for arm in design.variants},
        exposed={variant: units for variant, (_, units) in tally.exposures.items()},
        metrics=design.metrics,
        plan=design.analysis,
        evidence=tally.evidence,
        look=look,
        seen=tally.seen,
        finished=over or experiment.state in (State.STOPPED, State.CONCLUDED),
    )


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
