"""Between the protos and the domain."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import timestamp_pb2
from penstock.assigner import FUSIONS, settings_of
from penstock.assignment import Arm, RequestType, Unit
from penstock.audience import Condition, Exclusion, Operator
from penstock.experiments.v1 import assignment_service_pb2, experiment_pb2
from penstock.exposures import ExecutedAttempt, Execution

from services.chassis.errors import invalid_field
from services.experiments.convert_plan import metric_from_proto, metric_to_proto, plan_from_proto, plan_to_proto
from services.experiments.design import combinations
from services.experiments.experiments import Design, Experiment, Factor, Ramp, State
from services.experiments.outcomes import Asked, Measurement
from services.experiments.store import Exposure

if TYPE_CHECKING:
    from penstock.experiments.v1 import assignment_pb2, outcome_pb2

    from services.experiments.experiments import Change, Promotion
    from services.experiments.outcomes import Assigned
    from services.experiments.store import Configuration

_UNITS: Final = {
    experiment_pb2.UNIT_USER: Unit.USER,
    experiment_pb2.UNIT_CONVERSATION: Unit.CONVERSATION,
    experiment_pb2.UNIT_REQUEST: Unit.REQUEST,
}
_UNIT_NUMBERS: Final = {unit: number for number, unit in _UNITS.items()}
STATES: Final = {
    State.DRAFT: experiment_pb2.EXPERIMENT_STATE_DRAFT,
    State.RUNNING: experiment_pb2.EXPERIMENT_STATE_RUNNING,
    State.PAUSED: experiment_pb2.EXPERIMENT_STATE_PAUSED,
    State.STOPPED: experiment_pb2.EXPERIMENT_STATE_STOPPED,
    State.CONCLUDED: experiment_pb2.EXPERIMENT_STATE_CONCLUDED,
}
_FUSION_NUMBERS: Final = {name: number for number, name in FUSIONS.items()}
_EXCLUSIONS: Final = {one: experiment_pb2.Exclusion.Value(f"EXCLUSION_{one.value}") for one in Exclusion}


def design_from_proto(message: experiment_pb2.Experiment) -> Design:
    """What the caller decides; output-only fields are ignored."""
    factors = tuple(Factor(one.factor, tuple(_arm(level) for level in one.levels)) for one in message.factors)
    if factors and message.variants:
        raise invalid_field("experiment.variants", "must be empty beside factors, which make the variants")
    return Design(
        experiment=message.experiment,
        hypothesis=message.hypothesis,
        unit=_UNITS[message.unit],
        variants=combinations(factors) if factors else tuple(_arm(variant) for variant in message.variants),
        metrics=tuple(metric_from_proto(metric) for metric in message.metrics),
        request_types=tuple(RequestType(kind) for kind in message.request_types),
        analysis=plan_from_proto(message.analysis),
        targeting=tuple(Condition(one.attribute, Operator(one.operator), tuple(one.values)) for one in message.targeting),
        layer=message.layer,
        layer_share=message.layer_share if message.HasField("layer_share") else 1.0,
        ramp=_ramp(message.ramp) if message.HasField("ramp") else None,
        factors=factors,
    )


def _ramp(message: experiment_pb2.Ramp) -> Ramp:
    seconds = message.stage_duration.ToNanoseconds() / 1e9 if message.HasField("stage_duration") else None
    return Ramp(tuple(message.stages), seconds)


def _arm(message: experiment_pb2.Variant) -> Arm:
    return Arm(message.variant, message.weight, **settings_of(message))


def variant_to_proto(arm: Arm) -> experiment_pb2.Variant:
    """What a variant changes."""
    message = experiment_pb2.Variant(
        variant=arm.variant, weight=arm.weight, model=arm.model, prompt=arm.prompt, top_k=arm.top_k
    )
    if (arm.temperature, arm.top_p, arm.max_tokens) != (None, None, None):
        message.sampling.CopyFrom(
            experiment_pb2.SamplingOverride(temperature=arm.temperature, top_p=arm.top_p, max_tokens=arm.max_tokens)
        )
    if (arm.fusion, arm.reranker, arm.min_relevance) != (None, None, None):
        message.retrieval.CopyFrom(
            experiment_pb2.RetrievalOverride(
                fusion=_FUSION_NUMBERS.get(arm.fusion or "", experiment_pb2.FUSION_OVERRIDE_UNSPECIFIED),
                reranker=arm.reranker,
                min_relevance=arm.min_relevance,
            )
        )
    if arm.prompt_version is not None:
        message.prompt_version.name, message.prompt_version.version = arm.prompt_version
    return message


def experiment_to_proto(experiment: Experiment) -> experiment_pb2.Experiment:
    """A stored experiment."""
    design = experiment.design
    message = experiment_pb2.Experiment(
        experiment=design.experiment,
        hypothesis=design.hypothesis,
        unit=_UNIT_NUMBERS[design.unit],
        variants=[variant_to_proto(arm) for arm in design.variants],
        metrics=[metric_to_proto(metric) for metric in design.metrics],
        request_types=[experiment_pb2.RequestType.ValueType(kind.value) for kind in design.request_types],
        state=STATES[experiment.state],
        hash_version=experiment.hash_version,
        salt=experiment.salt,
        create_time=_timestamp(experiment.create_time),
        start_time=_timestamp(experiment.start_time),
        stop_time=_timestamp(experiment.stop_time),
        analysis=plan_to_proto(design.analysis),
        targeting=[_condition(one) for one in design.targeting],
        layer=design.layer,
        layer_start=experiment.layer_start,
        traffic=experiment.traffic,
        stage_time=_timestamp(experiment.stage_time),
        factors=[
            experiment_pb2.Factor(factor=one.factor, levels=[variant_to_proto(level) for level in one.levels])
            for one in design.factors
        ],
        paused_variants=experiment.paused,
    )
    if design.layer:
        message.layer_share = design.layer_share
    if design.ramp is not None:
        message.ramp.stages.extend(design.ramp.stages)
        if design.ramp.stage_seconds is not None:
            message.ramp.stage_duration.FromNanoseconds(round(design.ramp.stage_seconds * 1e9))
    if experiment.conclusion is not None:
        decided = experiment.conclusion
        message.conclusion.CopyFrom(
            experiment_pb2.Conclusion(
                winner=decided.winner, why=decided.why, conclude_time=_timestamp(decided.time), who=decided.who
            )
        )
    return message


def _condition(condition: Condition) -> experiment_pb2.Condition:
    operator = experiment_pb2.Operator.ValueType(condition.operator.value)
    return experiment_pb2.Condition(attribute=condition.attribute, operator=operator, values=condition.values)


def promotion_to_proto(promotion: Promotion) -> experiment_pb2.Promotion:
    """A promotion."""
    return experiment_pb2.Promotion(
        promotion=promotion.number,
        experiment=promotion.experiment,
        settings=variant_to_proto(promotion.arm),
        request_types=[experiment_pb2.RequestType.ValueType(kind.value) for kind in promotion.request_types],
        promote_time=_timestamp(promotion.promote_time),
        revert_time=_timestamp(promotion.revert_time),
    )


def _state(state: State | None) -> experiment_pb2.ExperimentState.ValueType:
    return experiment_pb2.EXPERIMENT_STATE_UNSPECIFIED if state is None else STATES[state]


def change_to_proto(change: Change) -> experiment_pb2.ExperimentChange:
    """One noted change."""
    return experiment_pb2.ExperimentChange(
        change=change.number,
        before=_state(change.before),
        after=_state(change.after),
        change_time=_timestamp(change.time),
        who=change.author.who,
        why=change.author.why,
        request_id=change.author.request_id,
        experiment=change.experiment,
        what=change.what,
    )


def configuration_to_proto(configuration: Configuration) -> assignment_service_pb2.WatchConfigurationResponse:
    """All running experiments."""
    return assignment_service_pb2.WatchConfigurationResponse(
        revision=configuration.revision,
        experiments=[experiment_to_proto(experiment) for experiment in configuration.experiments],
        promotions=[promotion_to_proto(promotion) for promotion in configuration.promotions],
        holdout=configuration.holdout,
    )


def assigned_to_proto(assigned: Assigned | Exclusion) -> assignment_service_pb2.AssignResponse:
    """Which variant a unit gets, or why it takes no part."""
    if isinstance(assigned, Exclusion):
        return assignment_service_pb2.AssignResponse(exclusion=_EXCLUSIONS[assigned])
    return assignment_service_pb2.AssignResponse(
        assignment=assigned.key, variant=assigned.arm.variant, treatment=variant_to_proto(assigned.arm)
    )


def asked_from_proto(message: assignment_service_pb2.AssignRequest) -> Asked:
    """Which unit asks for its variant of which experiment."""
    return Asked(message.experiment, message.unit_id, dict(message.attributes))


def exposure_from_proto(index: int, message: assignment_pb2.Exposure) -> Exposure:
    """One exposure of a batch; without a time it has just happened."""
    return Exposure(
        exposure=message.exposure,
        assignment=message.assignment.assignment,
        experiment=message.assignment.experiment,
        variant=message.assignment.variant,
        unit_id=message.unit_id,
        event_time=_time(f"exposures[{index}].event_time", message) or datetime.now(UTC),
        request_id=message.request_id,
        model=message.model,
        engine=message.engine,
        execution=Execution(
            message.model_digest,
            tuple(message.indexes),
            message.cached,
            tuple(
                ExecutedAttempt(one.backend, one.model, one.outcome, one.output_tokens, one.seconds) for one in message.attempts
            ),
        ),
    )


def measurement_from_proto(index: int, message: outcome_pb2.Outcome) -> Measurement:
    """One outcome of a batch."""
    return Measurement(
        outcome=message.outcome,
        assignment=message.assignment,
        metric=message.metric,
        value=message.value,
        event_time=_time(f"outcomes[{index}].event_time", message),
        covariate=message.covariate,
    )


def page_token(mark: int | None, kind: str = "experiments") -> str:
    """Writes where the next page begins."""
    return "" if mark is None else base64.urlsafe_b64encode(f"{kind}:{mark}".encode()).decode()


def page_mark(token: str, kind: str = "experiments") -> int | None:
    """Reads a page token, or refuses one that was not given out for pages of this kind."""
    if not token:
        return None
    try:
        found, _, number = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        found, number = "", ""
    # Longer numbers are none that the store gave out.
    if found != kind or not number.isdecimal() or len(number) > 18:  # noqa: PLR2004 - digits of a bigint
        raise invalid_field("page_token", "is not one that this list gave; leave it empty for the first page")
    return int(number)


def _timestamp(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    if time is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def _time(field: str, message: Any) -> datetime | None:
    if not message.HasField("event_time"):
        return None
    try:
        time: datetime = message.event_time.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise invalid_field(field, "is no time between the years 1 and 9999") from error
    return time
