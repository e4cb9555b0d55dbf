"""What an experiment has shown so far: exact counts and plain means, and beside them what they say."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure, Reason
from services.experiments.analysis import Analysis, Method, Question, Uncomputable
from services.experiments.experiments import Experiment, State, existing
from services.experiments.store import OutcomeTally

if TYPE_CHECKING:
    from services.experiments.analysis import Comparison
    from services.experiments.analyst import Analyst
    from services.experiments.experiments import Factor
    from services.experiments.store import Store, Tally

_log = logging.getLogger(__name__)
# More than anyone makes; a variant that was paused only after them would be missed.
_MOST_CHANGES: Final = 10_000


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
    """One variant: requests and different units that met it, its metrics in order, and units that fell back."""

    variant: str
    exposures: int
    exposed_units: int
    metrics: tuple[MetricResult, ...]
    fell_back: int = 0


@dataclass(frozen=True, slots=True)
class FactorResult:
    """The main effects of one factor: each level but the first, which is the control, and each metric."""

    factor: str
    control: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """An experiment, one result per variant in its order, and what they show; the counts stand without an analysis.

    Attributes:
        experiment: The experiment.
        variants: The counts.
        analysis: What they show by intention to treat.
        as_served: The comparisons without units that fell back; empty where there are none.
        factors: The main effects of a factorial design.
    """

    experiment: Experiment
    variants: tuple[VariantResult, ...]
    analysis: Analysis | Uncomputable
    as_served: tuple[Comparison, ...] = ()
    factors: tuple[FactorResult, ...] = ()


async def results(store: Store, analyst: Analyst, experiment: str) -> Results:
    """Counts and analyses everything recorded so far, or raises EXPERIMENT_NOT_FOUND."""
    found = await existing(store, experiment)
    now = datetime.now(UTC)
    look, time = _latest_look(found, now)
    tally = await store.tally(experiment, time)
    variants = tuple(_variant(found, arm.variant, tally) for arm in found.design.variants)
    if found.state is State.DRAFT:
        return Results(found, variants, Uncomputable.NOT_STARTED)
    question = _question(found, tally, look, now, await _uneven(store, found))
    try:
        analysis = await analyst.ask(question)
        served = (
            await analyst.ask(replace(question, evidence=tally.served, covariates={})) if tally.served is not None else None
        )
        factors = [await _main_effects(analyst, found, question, factor) for factor in found.design.factors]
    except Failure as failure:
        if failure.reason is not Reason.ANALYSIS_UNAVAILABLE:
            raise
        _log.warning("results without analysis: %s", failure.message)
        return Results(found, variants, Uncomputable.ANALYSIS_FAILED)
    return Results(found, variants, analysis, () if served is None else served.comparisons, tuple(factors))


async def _uneven(store: Store, experiment: Experiment) -> frozenset[str]:
    """Variants that were paused by themselves at some time."""
    names = {f"variant {arm.variant} paused": arm.variant for arm in experiment.design.variants}
    changes = await store.list_changes(experiment.id, _MOST_CHANGES, 0)
    return frozenset(names[change.what] for change in changes if change.what in names)


async def _main_effects(analyst: Analyst, experiment: Experiment, question: Question, factor: Factor) -> FactorResult:
    """Every level holds the same mixture of the others, so that pooled variants compare as single ones do."""
    place = experiment.design.factors.index(factor)
    level_of = {arm.variant: arm.variant.split(".")[place] for arm in experiment.design.variants}
    exposed: Counter[str] = Counter()
    for variant, units in question.exposed.items():
        exposed[level_of[variant]] += units
    pooled = replace(
        question,
        weights={level.variant: level.weight for level in factor.levels},
        exposed=exposed,
        evidence=question.evidence.by_group(level_of),
        seen=question.seen.by_group(level_of),
        uneven=frozenset(level_of[variant] for variant in question.uneven),
        covariates={},
    )
    return FactorResult(factor.factor, factor.levels[0].variant, (await analyst.ask(pooled)).comparisons)


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


def _question(experiment: Experiment, tally: Tally, look: int, now: datetime, uneven: frozenset[str]) -> Question:
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
        uneven=uneven,
        covariates=tally.covariates,
    )


def _variant(experiment: Experiment, variant: str, tally: Tally) -> VariantResult:
    exposures, units = tally.exposures.get(variant, (0, 0))
    metrics = tuple(
        _metric(metric.metric, tally.outcomes.get((variant, metric.metric), OutcomeTally(0, 0, 0.0)))
        for metric in experiment.design.metrics
    )
    return VariantResult(variant, exposures, units, metrics, tally.fell_back.get(variant, 0))


def _metric(metric: str, counted: OutcomeTally) -> MetricResult:
    mean = counted.sum / counted.outcomes if counted.outcomes else None
    return MetricResult(metric, counted.outcomes, counted.units, counted.sum, mean)
