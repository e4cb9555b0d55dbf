"""From evidence to verdicts: each variant against the control, by the experiment's plan."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from services.experiments.analysis import (
    Adjusted,
    Analysis,
    Anytime,
    Comparison,
    Direction,
    Effect,
    Estimate,
    Evidence,
    Interval,
    Look,
    Method,
    Metric,
    Question,
    Role,
    SampleRatio,
    Uncomputable,
    Verdict,
)
from services.experiments.covariates import adjusted
from services.experiments.sequential import anytime, bounds, spent
from services.experiments.statistics import adjust, around, compare, estimate, normal_size, sample_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence


_COMPARED: Final = 2


def analyse(question: Question) -> Analysis:
    """All estimates and comparisons of an experiment."""
    variants = list(question.weights)
    split = _split(question)
    found = {
        (variant, metric.metric): _estimate(question.evidence, variant, metric)
        for variant in variants
        for metric in question.metrics
    }
    compared = [_compared(question, variant, metric) for variant in variants[1:] for metric in question.metrics]
    return Analysis(
        sample_ratio=split,
        estimates={key: one for key, one in found.items() if isinstance(one, Estimate)},
        comparisons=tuple(_conclude(question, split, one) for one in _adjusted(question, compared)),
    )


def _split(question: Question) -> SampleRatio | Uncomputable:
    """Among the variants that were never paused by themselves: those that were have fewer units, as they should."""
    even = {variant: weight for variant, weight in question.weights.items() if variant not in question.uneven}
    if len(even) < _COMPARED:
        return Uncomputable.TOO_FEW_UNITS
    return sample_ratio(list(even.values()), [question.exposed.get(variant, 0) for variant in even])


def _estimate(evidence: Evidence, variant: str, metric: Metric) -> Estimate | Uncomputable:
    key = (variant, metric.metric)
    if key not in evidence.moments:
        return Uncomputable.TOO_FEW_UNITS
    moments = evidence.moments[key]
    return Uncomputable.VALUE_TOO_LARGE if moments is None else estimate(metric.kind, moments)


def _compared(question: Question, variant: str, metric: Metric) -> Comparison:
    """The numbers of one comparison, without correction and verdict."""
    pair = _pair(question, question.evidence, variant, metric)
    significance = question.plan.significance
    effect: Effect | Uncomputable = pair if isinstance(pair, Uncomputable) else compare(*pair, significance)
    method = question.plan.effective_method
    if method is Method.GROUP_SEQUENTIAL and metric.role is not Role.PRIMARY:
        method = Method.ALWAYS_VALID
    always: Anytime | None = None
    if isinstance(effect, Effect) and not isinstance(pair, Uncomputable):
        always = anytime(effect.difference, effect.standard_error, pair[0].units + pair[1].units, significance)
    adjustment = _adjustment(question, variant, metric, effect) if isinstance(effect, Effect) else None
    return Comparison(
        variant=variant,
        metric=metric.metric,
        role=metric.role,
        effect=effect,
        anytime=always,
        look=_look(question, variant, metric) if method is Method.GROUP_SEQUENTIAL else None,
        adjusted_p_value=None,
        decided_by=method,
        verdict=Verdict.INCONCLUSIVE,
        adjusted=adjustment,
    )


def _adjustment(question: Question, variant: str, metric: Metric, effect: Effect) -> Adjusted | Uncomputable | None:
    """The same by covariates; None where one of the arms has none."""
    arms = []
    for name in (next(iter(question.weights)), variant):
        key = (name, metric.metric)
        moments, covariate = question.evidence.moments.get(key), question.covariates.get(key)
        if moments is None or covariate is None:
            return None
        arms.append((moments, covariate))
    return adjusted(metric.kind, arms[0], arms[1], effect, question.plan.significance)


def _pair(question: Question, evidence: Evidence, variant: str, metric: Metric) -> tuple[Estimate, Estimate] | Uncomputable:
    """Estimates of the control and the variant."""
    control = _estimate(evidence, next(iter(question.weights)), metric)
    treated = _estimate(evidence, variant, metric)
    if isinstance(control, Uncomputable):
        return control
    return treated if isinstance(treated, Uncomputable) else (control, treated)


def _look(question: Question, variant: str, metric: Metric) -> Look | Uncomputable:
    """The latest planned look at a primary metric; several primary comparisons share the significance evenly."""
    if question.look == 0:
        return Uncomputable.NO_LOOK_YET
    plan = question.plan
    pair = _pair(question, question.seen, variant, metric)
    if isinstance(pair, Uncomputable):
        return pair
    effect = compare(*pair, plan.significance)
    if isinstance(effect, Uncomputable):
        return effect
    primaries = sum(one.role is Role.PRIMARY for one in question.metrics) * (len(question.weights) - 1)
    limits = bounds(plan.boundary, plan.looks, plan.significance / primaries)[: question.look]
    # By way of the p-value, so that few units count as few.
    statistic = math.copysign(normal_size(effect.p_value), effect.difference)
    return Look(
        look=question.look,
        looks=plan.looks,
        statistic=statistic,
        bound=limits[-1],
        crossed=abs(statistic) >= limits[-1],
        interval=around(effect.difference, limits[-1] * effect.standard_error),
        spent=spent(limits)[-1] * primaries / plan.significance,
    )


def _adjusted(question: Question, compared: Sequence[Comparison]) -> list[Comparison]:
    """Corrects the p-values that decide, among the comparisons of each role but guardrails."""
    result = list(compared)
    for role in (Role.PRIMARY, Role.SECONDARY):
        members = [
            (index, p_value)
            for index, one in enumerate(compared)
            if one.role is role and (p_value := _deciding_p_value(one)) is not None
        ]
        corrected = adjust(question.plan.correction, [p_value for _, p_value in members])
        for (index, _), p_value in zip(members, corrected, strict=True):
            result[index] = replace(result[index], adjusted_p_value=p_value)
    return result


def _deciding_p_value(comparison: Comparison) -> float | None:
    if comparison.decided_by is Method.GROUP_SEQUENTIAL or not isinstance(comparison.effect, Effect):
        return None
    if comparison.decided_by is Method.FIXED_HORIZON or comparison.anytime is None:
        return comparison.effect.p_value
    return comparison.anytime.p_value


def _conclude(question: Question, split: SampleRatio | Uncomputable, comparison: Comparison) -> Comparison:
    """Adds the verdict, or why there is none."""
    metric = next(one for one in question.metrics if one.metric == comparison.metric)
    return replace(comparison, verdict=_verdict(question, split, comparison, metric))


def _verdict(
    question: Question, split: SampleRatio | Uncomputable, comparison: Comparison, metric: Metric
) -> Verdict | Uncomputable:
    if isinstance(split, SampleRatio) and split.mismatch:
        return Uncomputable.SAMPLE_RATIO_MISMATCH
    if comparison.decided_by is Method.GROUP_SEQUENTIAL:
        look = comparison.look
        if not isinstance(look, Look):
            return look or Uncomputable.NO_LOOK_YET
        return _reading(metric, look.interval, decided=look.crossed, upward=look.statistic > 0)
    if isinstance(comparison.effect, Uncomputable) or comparison.anytime is None:
        return comparison.effect if isinstance(comparison.effect, Uncomputable) else Uncomputable.NO_VARIANCE
    if comparison.decided_by is Method.FIXED_HORIZON and not question.finished:
        return Uncomputable.NOT_FINISHED
    fixed = comparison.decided_by is Method.FIXED_HORIZON
    interval = comparison.effect.interval if fixed else comparison.anytime.interval
    p_value = comparison.adjusted_p_value
    if p_value is None:
        p_value = comparison.effect.p_value if fixed else comparison.anytime.p_value
    decided = p_value <= question.plan.significance
    return _reading(metric, interval, decided=decided, upward=comparison.effect.difference > 0)


def _reading(metric: Metric, interval: Interval, *, decided: bool, upward: bool) -> Verdict:
    """What a difference means. One that is real, but surely too small to matter, is called equivalent."""
    matters = metric.minimal_effect
    if matters is not None and -matters < interval.lower and interval.upper < matters:
        return Verdict.EQUIVALENT
    if not decided:
        return Verdict.INCONCLUSIVE
    return Verdict.BETTER if upward is (metric.direction is Direction.INCREASE) else Verdict.WORSE
