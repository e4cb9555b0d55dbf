"""Between decisions, what has been learned, and their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf import timestamp_pb2
from penstock.inference.v1 import routing_pb2

from services.inference.auto.decision import Why

if TYPE_CHECKING:
    from services.inference.auto.decision import Decision, Option
    from services.inference.auto.features import Features
    from services.inference.auto.fitting import Fitted, Standing, Value

_REASONS: Final = {
    Why.ASSIGNED: routing_pb2.ROUTING_REASON_ASSIGNED,
    Why.WEIGHT: routing_pb2.ROUTING_REASON_WEIGHT,
    Why.ENGINE_ORDER: routing_pb2.ROUTING_REASON_ENGINE_ORDER,
    Why.ONLY_ABLE: routing_pb2.ROUTING_REASON_ONLY_ABLE,
    Why.NONE_ABLE: routing_pb2.ROUTING_REASON_NONE_ABLE,
    Why.UNCALIBRATED: routing_pb2.ROUTING_REASON_UNCALIBRATED,
    Why.GOOD_ENOUGH: routing_pb2.ROUTING_REASON_GOOD_ENOUGH,
    Why.BEST_EXPECTED: routing_pb2.ROUTING_REASON_BEST_EXPECTED,
    Why.EXPLORED: routing_pb2.ROUTING_REASON_EXPLORED,
    Why.LEARNED: routing_pb2.ROUTING_REASON_LEARNED,
    Why.HOLDOUT: routing_pb2.ROUTING_REASON_HOLDOUT,
}


def decision_message(decision: Decision | None) -> routing_pb2.RoutingDecision | None:
    """Writes a decision."""
    if decision is None:
        return None
    return routing_pb2.RoutingDecision(
        reason=_REASONS[decision.why],
        model=decision.model,
        propensity=decision.propensity,
        score=decision.score,
        features=None if decision.features is None else _features(decision.features),
        options=map(_option, decision.options),
        fit=decision.fit,
    )


def _features(features: Features) -> routing_pb2.RequestFeatures:
    return routing_pb2.RequestFeatures(
        question_tokens=features.question_tokens,
        total_tokens=features.total_tokens,
        turns=features.turns,
        questions=features.questions,
        steps=features.steps,
        reasons=features.reasons,
        has_code=features.has_code,
        has_maths=features.has_maths,
        tools=features.tools,
        has_output=features.has_output,
        passages=features.passages,
        images=features.images,
        cyrillic=features.cyrillic,
        han=features.han,
        max_tokens=features.max_tokens,
    )


def _option(option: Option) -> routing_pb2.RoutingOption:
    return routing_pb2.RoutingOption(
        model=option.model, propensity=option.propensity, expected=option.expected, cost=option.cost
    )


def state_message(standing: Standing) -> routing_pb2.RoutingState:
    """Writes how an alias stands."""
    fitted = standing.fitted
    if fitted is None:
        return routing_pb2.RoutingState(
            alias=standing.alias,
            newer=standing.newer,
            models=[routing_pb2.RoutedModel(model=model) for model in standing.models],
        )
    calibration, lesson = fitted.calibration, fitted.lesson
    return routing_pb2.RoutingState(
        alias=standing.alias,
        fit=fitted.revision,
        fit_time=_timestamp(fitted.time),
        records=fitted.records,
        newer=standing.newer,
        models=[_model(standing, fitted, model) for model in standing.models],
        feature_weights=calibration.weights[1:] if calibration else (),
        brier=calibration.brier if calibration else None,
        brier_of_means=calibration.brier_of_means if calibration else None,
        best_static=lesson.static if lesson else "",
        learned=_estimate(lesson.learned) if lesson else None,
        holdout=_estimate(lesson.holdout) if lesson else None,
    )


def _model(standing: Standing, fitted: Fitted, model: str) -> routing_pb2.RoutedModel:
    curve = fitted.calibration.curves.get(model) if fitted.calibration else None
    is_enough = curve is not None and standing.target is not None and curve.outcomes >= standing.least
    return routing_pb2.RoutedModel(
        model=model,
        outcomes=curve.outcomes if curve else 0.0,
        good=curve.good if curve else None,
        threshold=curve.threshold(standing.target) if is_enough and curve and standing.target else None,
        value=_estimate(fitted.lesson.values.get(model)) if fitted.lesson else None,
    )


def _estimate(value: Value | None) -> routing_pb2.RewardEstimate | None:
    return None if value is None else routing_pb2.RewardEstimate(rewards=value.rewards, mean=value.mean, error=value.error)


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromNanoseconds(int(seconds * 1e9))
    return timestamp
