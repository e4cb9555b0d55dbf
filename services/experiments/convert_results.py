"""Between the protos and the domain: what an experiment has shown, and how large it must be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from penstock.experiments.v1 import result_pb2, result_service_pb2

from services.experiments.analysis import (
    Adjusted,
    Analysis,
    Comparison,
    Effect,
    Interval,
    Look,
    PowerAnswer,
    PowerQuestion,
    SampleRatio,
    Uncomputable,
    Verdict,
)
from services.experiments.convert import STATES
from services.experiments.convert_plan import METHODS, ROLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.experiments.analysis import Estimate
    from services.experiments.results import Results, VariantResult

_MISSING: Final = {one: result_pb2.Uncomputable.Value(f"UNCOMPUTABLE_{one}") for one in Uncomputable}
_VERDICTS: Final = {one: result_pb2.Verdict.Value(f"VERDICT_{one}") for one in Verdict}


def results_to_proto(results: Results) -> result_service_pb2.GetResultsResponse:
    """What an experiment has shown."""
    analysis = results.analysis
    estimates = analysis.estimates if isinstance(analysis, Analysis) else {}
    message = result_service_pb2.GetResultsResponse(
        experiment=results.experiment.id,
        state=STATES[results.experiment.state],
        variants=[_variant_result(variant, estimates) for variant in results.variants],
        control=results.variants[0].variant,
    )
    if isinstance(analysis, Uncomputable):
        message.analysis_missing = _MISSING[analysis]
        return message
    message.sample_ratio.CopyFrom(_sample_ratio(analysis.sample_ratio))
    message.comparisons.extend(_comparison(one) for one in analysis.comparisons)
    message.as_served.extend(_undecided(one) for one in results.as_served)
    for factor in results.factors:
        message.factors.add(
            factor=factor.factor, control=factor.control, comparisons=[_comparison(one) for one in factor.comparisons]
        )
    return message


def _undecided(one: Comparison) -> result_pb2.Comparison:
    """Only the differences: what units that fell back leave behind is no fair comparison."""
    message = _comparison(one)
    for name in ("look", "look_missing", "adjusted_p_value", "decided_by", "verdict", "verdict_missing"):
        message.ClearField(name)
    return message


def _variant_result(variant: VariantResult, estimates: Mapping[tuple[str, str], Estimate]) -> result_pb2.VariantResult:
    message = result_pb2.VariantResult(
        variant=variant.variant,
        exposures=variant.exposures,
        exposed_units=variant.exposed_units,
        fell_back_units=variant.fell_back,
    )
    for metric in variant.metrics:
        result = message.metrics.add(
            metric=metric.metric, outcomes=metric.outcomes, units=metric.units, mean=metric.mean, sum=metric.sum
        )
        found = estimates.get((variant.variant, metric.metric))
        if found is not None:
            result.estimate = found.value
            result.standard_error = math.sqrt(found.variance)
    return message


def _sample_ratio(found: SampleRatio | Uncomputable) -> result_pb2.SampleRatio:
    if isinstance(found, Uncomputable):
        return result_pb2.SampleRatio(missing=_MISSING[found])
    state = result_pb2.SAMPLE_RATIO_STATE_MISMATCH if found.mismatch else result_pb2.SAMPLE_RATIO_STATE_MATCH
    return result_pb2.SampleRatio(state=state, p_value=found.p_value, statistic=found.statistic)


def _comparison(one: Comparison) -> result_pb2.Comparison:
    message = result_pb2.Comparison(
        variant=one.variant,
        metric=one.metric,
        role=ROLES[one.role],
        adjusted_p_value=one.adjusted_p_value,
        decided_by=METHODS[one.decided_by],
    )
    if isinstance(one.effect, Uncomputable):
        message.effect_missing = _MISSING[one.effect]
    else:
        message.effect.CopyFrom(_effect(one.effect))
    if one.anytime is not None:
        message.anytime_interval.CopyFrom(_interval(one.anytime.interval))
        message.anytime_p_value = one.anytime.p_value
    if isinstance(one.look, Uncomputable):
        message.look_missing = _MISSING[one.look]
    elif one.look is not None:
        message.look.CopyFrom(_look(one.look))
    if isinstance(one.adjusted, Uncomputable):
        message.adjusted_missing = _MISSING[one.adjusted]
    elif one.adjusted is not None:
        message.adjusted.CopyFrom(_adjusted(one.adjusted))
    if isinstance(one.verdict, Uncomputable):
        message.verdict_missing = _MISSING[one.verdict]
    else:
        message.verdict = _VERDICTS[one.verdict]
    return message


def _adjusted(one: Adjusted) -> result_pb2.Adjusted:
    return result_pb2.Adjusted(
        effect=_effect(one.effect),
        anytime_interval=_interval(one.anytime.interval),
        slope=one.slope,
        variance_reduction=one.variance_reduction,
        balance_p_value=one.balance_p_value,
        known=one.known,
    )


def _effect(effect: Effect) -> result_pb2.Effect:
    message = result_pb2.Effect(
        difference=effect.difference,
        standard_error=effect.standard_error,
        interval=_interval(effect.interval),
        p_value=effect.p_value,
    )
    if isinstance(effect.relative, Uncomputable):
        message.relative_missing = _MISSING[effect.relative]
    else:
        lift, interval = effect.relative
        message.relative = lift
        message.relative_interval.CopyFrom(_interval(interval))
    return message


def _look(look: Look) -> result_pb2.Look:
    return result_pb2.Look(
        look=look.look,
        looks=look.looks,
        statistic=look.statistic,
        bound=look.bound,
        crossed=look.crossed,
        interval=_interval(look.interval),
        spent=look.spent,
    )


def _interval(interval: Interval) -> result_pb2.Interval:
    return result_pb2.Interval(lower=interval.lower, upper=interval.upper)


def power_question_from_proto(message: result_service_pb2.ComputePowerRequest) -> PowerQuestion:
    """What is asked of the power of an experiment."""
    return PowerQuestion(
        standard_deviation=message.standard_deviation if message.HasField("standard_deviation") else None,
        baseline=message.baseline if message.HasField("baseline") else None,
        minimal_effect=message.minimal_effect if message.HasField("minimal_effect") else None,
        units=message.units if message.HasField("units") else None,
        power=message.power if message.HasField("power") else None,
        significance=message.significance if message.HasField("significance") else 0.05,
        ratio=message.ratio if message.HasField("ratio") else 1.0,
    )


def power_to_proto(question: PowerQuestion, answer: PowerAnswer) -> result_service_pb2.ComputePowerResponse:
    """Units, effect and power."""
    others = answer.units * question.ratio
    return result_service_pb2.ComputePowerResponse(
        units_control=answer.units,
        units_variant=others,
        units=math.ceil(answer.units) + math.ceil(others),
        minimal_effect=answer.minimal_effect,
        power=answer.power,
    )
