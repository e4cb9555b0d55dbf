"""What the service does by itself: a variant that breaches a guardrail is paused, and clean ramps go on.

Guardrails are looked at once an interval, so only intervals that hold however often one looks may decide. Any process of the
service may act: each act is a step that looks again at what is stored, and does nothing where another one was first.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure
from services.experiments.analysis import Analysis, Direction, Role, SampleRatio, Uncomputable
from services.experiments.experiments import Author, Experiment, State
from services.experiments.lifecycle import pause
from services.experiments.results import results
from services.experiments.store import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.experiments.analysis import Comparison, Metric
    from services.experiments.analyst import Analyst
    from services.experiments.store import Store

_log = logging.getLogger(__name__)

WHO: Final = "penstock"


@dataclass(frozen=True, slots=True)
class Breach:
    """A variant that is worse than the control on a guardrail, and in which words to say so."""

    variant: str
    why: str


def breaches(experiment: Experiment, analysis: Analysis) -> list[Breach]:
    """The variants to pause: those whose interval at all times lies beyond what the guardrail allows, the first reason each."""
    metrics = {metric.metric: metric for metric in experiment.design.metrics if metric.role is Role.GUARDRAIL}
    found: dict[str, Breach] = {}
    for comparison in analysis.comparisons:
        metric = metrics.get(comparison.metric)
        if metric is None or comparison.variant in experiment.paused or not _is_worse(metric, comparison):
            continue
        found.setdefault(comparison.variant, Breach(comparison.variant, _words(metric, comparison)))
    return list(found.values())


def _is_worse(metric: Metric, comparison: Comparison) -> bool:
    if comparison.anytime is None:
        return False
    interval, tolerated = comparison.anytime.interval, metric.minimal_effect or 0.0
    if metric.direction is Direction.INCREASE:
        return interval.upper < 0 and interval.lower <= -tolerated
    return interval.lower > 0 and interval.upper >= tolerated


def _words(metric: Metric, comparison: Comparison) -> str:
    assert comparison.anytime is not None  # noqa: S101 - a breach has one
    interval = comparison.anytime.interval
    return (
        f"guardrail {metric.metric}: the difference from the control is surely between {interval.lower:.6g} and "
        f"{interval.upper:.6g}, and {metric.direction.lower()} is better"
    )


def is_clean(experiment: Experiment, analysis: Analysis) -> bool:
    """Whether the ramp may go on: a variant is left, the split is to be trusted, every guardrail is measured and holds."""
    if all(arm.variant in experiment.paused for arm in experiment.design.variants[1:]):
        return False
    if isinstance(analysis.sample_ratio, SampleRatio) and analysis.sample_ratio.mismatch:
        return False
    guarded = [one for one in analysis.comparisons if one.role is Role.GUARDRAIL and one.variant not in experiment.paused]
    return all(one.anytime is not None for one in guarded) and not breaches(experiment, analysis)


def advance_when_due(experiment: Experiment, _: Sequence[Experiment]) -> Step:
    """Moves a ramp by itself whose stage has lasted long enough; leaves any other as it is."""
    ramp, now = experiment.design.ramp, datetime.now(UTC)
    if ramp is None or ramp.stage_seconds is None or experiment.state is not State.RUNNING or experiment.stage_time is None:
        return Step(experiment)
    share = ramp.after(experiment.traffic)
    if share is None or now < experiment.stage_time + timedelta(seconds=ramp.stage_seconds):
        return Step(experiment)
    return Step(replace(experiment, traffic=share, stage_time=now), f"traffic {experiment.traffic:g} -> {share:g}")


class Actor:
    """Looks at all running experiments, and acts on what it finds.

    Args:
        store: Where experiments are.
        analyst: Who analyses.
        interval: Seconds between two looks.
    """

    def __init__(self, store: Store, analyst: Analyst, interval: float) -> None:
        self._store = store
        self._analyst = analyst
        self._interval = interval

    async def run(self) -> None:
        """Acts once an interval, until cancelled. What fails is tried again at the next one."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                running = (await self._store.configuration()).experiments
            except Failure as failure:
                _log.warning("no look at the guardrails: %s", failure.message)
                continue
            for experiment in running:
                try:
                    await self.act(experiment)
                except Failure as failure:
                    _log.warning("no act on experiment %s: %s", experiment.id, failure.message)

    async def act(self, experiment: Experiment) -> None:
        """Looks at one running experiment, pauses its variants that breach a guardrail, and moves its ramp where it is due."""
        guarded = any(metric.role is Role.GUARDRAIL for metric in experiment.design.metrics)
        if not guarded and advance_when_due(experiment, ()).experiment == experiment:
            return
        analysis = (await results(self._store, self._analyst, experiment.id)).analysis
        if isinstance(analysis, Uncomputable):
            return
        for breach in breaches(experiment, analysis):
            await self._pause(experiment, breach)
        if is_clean(experiment, analysis):
            author = Author(WHO, "the stage is over and every guardrail holds")
            await self._store.change(experiment.id, advance_when_due, author)

    async def _pause(self, experiment: Experiment, breach: Breach) -> None:
        await self._store.change(experiment.id, lambda found, _: pause(found, breach.variant), Author(WHO, breach.why))
        _log.warning("experiment %s: variant %s is paused: %s", experiment.id, breach.variant, breach.why)
