"""Between the protos and the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf import timestamp_pb2
from penstock.assigner import FUSIONS
from penstock.assignment import Arm, RequestType, Unit
from penstock.experiments.v1 import experiment_pb2, optimization_pb2

from services.experiments.convert import variant_to_proto
from services.experiments.optimization.measuring import Case, Objective
from services.experiments.optimization.optimizations import Design, Kind
from services.experiments.optimization.space import IntegerSpan, Space, Span

if TYPE_CHECKING:
    from datetime import datetime

    from services.experiments.optimization.optimizations import Optimization, Trial

_FUSION_NUMBERS: Final = {name: number for number, name in FUSIONS.items()}
_DEFAULTS: Final = {"trials": 20, "finalists": 3, "holdout_share": 0.3}


def design_from_proto(message: optimization_pb2.Optimization) -> Design:
    """What the caller decides; output-only fields are ignored."""
    given: dict[str, Any] = {name: getattr(message, name) for name in _DEFAULTS if message.HasField(name)}  # type: ignore[arg-type]  # the stub knows literals only
    if message.HasField("call_timeout"):
        given["call_seconds"] = message.call_timeout.ToNanoseconds() / 1e9
    return Design(
        optimization=message.optimization,
        kind=Kind(_short(optimization_pb2.OptimizationType.Name(message.type), "OPTIMIZATION_TYPE_")),
        request_type=RequestType(message.request_type),
        space=_space(message.space),
        cases=tuple(Case(one.question, one.reference, tuple(one.relevant)) for one in message.cases),
        objectives=tuple(
            Objective(_short(optimization_pb2.TargetMetric.Name(one), "TARGET_METRIC_")) for one in message.objectives
        ),
        collections=tuple(message.collections),
        seed=message.seed,
        unit=Unit[_short(experiment_pb2.Unit.Name(message.unit or experiment_pb2.UNIT_USER), "UNIT_")],
        **given,
    )


def _short(name: str, prefix: str) -> str:
    return name.removeprefix(prefix)


def _space(message: optimization_pb2.SearchSpace) -> Space:
    spans: dict[str, Any] = {
        name: Span(getattr(message, name).min, getattr(message, name).max)
        for name in ("temperature", "top_p", "min_relevance")
        if message.HasField(name)
    }
    integers: dict[str, Any] = {
        name: IntegerSpan(getattr(message, name).min, getattr(message, name).max)
        for name in ("max_tokens", "top_k")
        if message.HasField(name)
    }
    return Space(
        model=tuple(message.models),
        prompt=tuple(message.prompts),
        fusion=tuple(FUSIONS[one] for one in message.fusions),
        reranker=tuple(message.rerankers),
        **spans,
        **integers,
    )


def optimization_to_proto(optimization: Optimization, *, with_cases: bool = True) -> optimization_pb2.Optimization:
    """A stored optimization."""
    design = optimization.design
    message = optimization_pb2.Optimization(
        optimization=design.optimization,
        type=optimization_pb2.OptimizationType.Value(f"OPTIMIZATION_TYPE_{design.kind}"),
        request_type=experiment_pb2.RequestType.ValueType(design.request_type.value),
        collections=design.collections,
        space=_space_to_proto(design.space),
        cases=[
            optimization_pb2.EvaluationCase(question=one.question, reference=one.reference, relevant=one.relevant)
            for one in (design.cases if with_cases else ())
        ],
        objectives=[optimization_pb2.TargetMetric.Value(f"TARGET_METRIC_{one}") for one in design.objectives],
        trials=design.trials,
        finalists=design.finalists,
        holdout_share=design.holdout_share,
        seed=design.seed,
        unit=experiment_pb2.Unit.Value(f"UNIT_{design.unit.name}"),
        state=optimization_pb2.OptimizationState.Value(f"OPTIMIZATION_STATE_{optimization.state}"),
        finished_count=optimization.finished,
        planned_count=design.planned(),
        pareto_front=[_trial(trial) for trial in optimization.front()],
        finals=[_trial(trial) for trial in optimization.finals],
        winner=optimization.winner,
        experiment=optimization.experiment,
        note=optimization.note,
        create_time=_timestamp(optimization.create_time),
        end_time=_timestamp(optimization.end_time),
    )
    message.call_timeout.FromNanoseconds(round(design.call_seconds * 1e9))
    return message


def _space_to_proto(space: Space) -> optimization_pb2.SearchSpace:
    message = optimization_pb2.SearchSpace(
        models=space.model,
        prompts=space.prompt,
        rerankers=space.reranker,
        fusions=[_FUSION_NUMBERS[one] for one in space.fusion],
    )
    ranges: dict[str, Any] = {**space.spans(), **space.integers()}
    for name, span in ranges.items():
        getattr(message, name).min, getattr(message, name).max = span.low, span.high
        # A range from 0 to 0 is a range, too.
        getattr(message, name).SetInParent()
    return message


def _trial(trial: Trial) -> optimization_pb2.Trial:
    measured = trial.measures
    return optimization_pb2.Trial(
        trial=trial.trial,
        settings=variant_to_proto(Arm(variant=f"trial-{trial.trial}", weight=1.0, **trial.settings.changes())),
        measures=optimization_pb2.Measures(
            response_time=measured.response_time,
            quality_score=measured.quality_score,
            error_rate=measured.error_rate,
            case_count=measured.case_count,
            last_error=measured.last_error,
        ),
        finish_time=_timestamp(trial.finish_time),
    )


def _timestamp(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    if time is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message
