"""Between the protos and the domain: metrics, and how an experiment is analysed."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from google.protobuf import duration_pb2
from penstock.experiments.v1 import experiment_pb2

from services.experiments.analysis import Boundary, Correction, Direction, Kind, Method, Metric, Plan, Role

_DIRECTIONS: Final = {
    Direction.INCREASE: experiment_pb2.DIRECTION_INCREASE,
    Direction.DECREASE: experiment_pb2.DIRECTION_DECREASE,
}
_KINDS: Final = {
    Kind.MEAN: experiment_pb2.METRIC_KIND_MEAN,
    Kind.PROPORTION: experiment_pb2.METRIC_KIND_PROPORTION,
    Kind.RATIO: experiment_pb2.METRIC_KIND_RATIO,
}
ROLES: Final = {
    Role.PRIMARY: experiment_pb2.METRIC_ROLE_PRIMARY,
    Role.SECONDARY: experiment_pb2.METRIC_ROLE_SECONDARY,
    Role.GUARDRAIL: experiment_pb2.METRIC_ROLE_GUARDRAIL,
}
METHODS: Final = {
    Method.FIXED_HORIZON: experiment_pb2.ANALYSIS_METHOD_FIXED_HORIZON,
    Method.GROUP_SEQUENTIAL: experiment_pb2.ANALYSIS_METHOD_GROUP_SEQUENTIAL,
    Method.ALWAYS_VALID: experiment_pb2.ANALYSIS_METHOD_ALWAYS_VALID,
}
_BOUNDARIES: Final = {
    Boundary.O_BRIEN_FLEMING: experiment_pb2.BOUNDARY_O_BRIEN_FLEMING,
    Boundary.POCOCK: experiment_pb2.BOUNDARY_POCOCK,
    Boundary.O_BRIEN_FLEMING_SPENDING: experiment_pb2.BOUNDARY_O_BRIEN_FLEMING_SPENDING,
    Boundary.POCOCK_SPENDING: experiment_pb2.BOUNDARY_POCOCK_SPENDING,
}
_CORRECTIONS: Final = {
    Correction.HOLM: experiment_pb2.CORRECTION_HOLM,
    Correction.BENJAMINI_HOCHBERG: experiment_pb2.CORRECTION_BENJAMINI_HOCHBERG,
}
_KIND_OF: Final = {number: kind for kind, number in _KINDS.items()}
_ROLE_OF: Final = {number: role for role, number in ROLES.items()}
_METHOD_OF: Final = {number: method for method, number in METHODS.items()}
_BOUNDARY_OF: Final = {number: boundary for boundary, number in _BOUNDARIES.items()}
_CORRECTION_OF: Final = {number: correction for correction, number in _CORRECTIONS.items()}


def metric_from_proto(message: experiment_pb2.Metric) -> Metric:
    """What is measured, with the defaults that the proto states."""
    less = message.direction == experiment_pb2.DIRECTION_DECREASE
    return Metric(
        metric=message.metric,
        direction=Direction.DECREASE if less else Direction.INCREASE,
        kind=_KIND_OF.get(message.kind, Kind.MEAN),
        role=_ROLE_OF.get(message.role, Role.SECONDARY),
        minimal_effect=message.minimal_effect if message.HasField("minimal_effect") else None,
    )


def metric_to_proto(metric: Metric) -> experiment_pb2.Metric:
    """What is measured."""
    return experiment_pb2.Metric(
        metric=metric.metric,
        direction=_DIRECTIONS[metric.direction],
        kind=_KINDS[metric.kind],
        role=ROLES[metric.role],
        minimal_effect=metric.minimal_effect,
    )


def plan_from_proto(message: experiment_pb2.AnalysisPlan) -> Plan:
    """How an experiment is analysed, with the defaults that the proto states."""
    default = Plan()
    return Plan(
        method=_METHOD_OF.get(message.method),
        significance=message.significance if message.HasField("significance") else default.significance,
        duration=message.duration.ToTimedelta().total_seconds() if message.HasField("duration") else None,
        looks=message.looks or default.looks,
        boundary=_BOUNDARY_OF.get(message.boundary, default.boundary),
        correction=_CORRECTION_OF.get(message.correction, default.correction),
    )


def plan_to_proto(plan: Plan) -> experiment_pb2.AnalysisPlan:
    """How an experiment is analysed, with the method that its defaults come to."""
    message = experiment_pb2.AnalysisPlan(
        method=METHODS[plan.effective_method],
        significance=plan.significance,
        looks=plan.looks,
        boundary=_BOUNDARIES[plan.boundary],
        correction=_CORRECTIONS[plan.correction],
    )
    if plan.duration is not None:
        duration = duration_pb2.Duration()
        duration.FromTimedelta(timedelta(seconds=plan.duration))
        message.duration.CopyFrom(duration)
    return message
