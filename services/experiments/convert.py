"""Between the protos and the domain."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import timestamp_pb2
from penstock.assignment import Arm, RequestType, Unit
from penstock.experiments.v1 import assignment_service_pb2, experiment_pb2

from services.chassis.errors import invalid_field
from services.experiments.convert_plan import metric_from_proto, metric_to_proto, plan_from_proto, plan_to_proto
from services.experiments.experiments import Design, Experiment, State
from services.experiments.outcomes import Measurement
from services.experiments.store import Exposure

if TYPE_CHECKING:
    from penstock.experiments.v1 import assignment_pb2, outcome_pb2

    from services.experiments.experiments import Change
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
}


def design_from_proto(message: experiment_pb2.Experiment) -> Design:
    """What the caller decides; output-only fields are ignored."""
    return Design(
        experiment=message.experiment,
        hypothesis=message.hypothesis,
        unit=_UNITS[message.unit],
        variants=tuple(_arm(variant) for variant in message.variants),
        metrics=tuple(metric_from_proto(metric) for metric in message.metrics),
        request_types=tuple(RequestType(kind) for kind in message.request_types),
        analysis=plan_from_proto(message.analysis),
    )


def _arm(message: experiment_pb2.Variant) -> Arm:
    sampling = message.sampling
    return Arm(
        variant=message.variant,
        weight=message.weight,
        model=_optional(message, "model"),
        prompt=_optional(message, "prompt"),
        temperature=_optional(sampling, "temperature"),
        top_p=_optional(sampling, "top_p"),
        max_tokens=_optional(sampling, "max_tokens"),
        top_k=_optional(message, "top_k"),
    )


def _optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def variant_to_proto(arm: Arm) -> experiment_pb2.Variant:
    """What a variant changes."""
    message = experiment_pb2.Variant(
        variant=arm.variant, weight=arm.weight, model=arm.model, prompt=arm.prompt, top_k=arm.top_k
    )
    if (arm.temperature, arm.top_p, arm.max_tokens) != (None, None, None):
        message.sampling.CopyFrom(
            experiment_pb2.SamplingOverride(temperature=arm.temperature, top_p=arm.top_p, max_tokens=arm.max_tokens)
        )
    return message


def experiment_to_proto(experiment: Experiment) -> experiment_pb2.Experiment:
    """A stored experiment."""
    design = experiment.design
    return experiment_pb2.Experiment(
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
    )


def change_to_proto(change: Change) -> experiment_pb2.ExperimentChange:
    """One noted change."""
    return experiment_pb2.ExperimentChange(
        change=change.number,
        before=experiment_pb2.EXPERIMENT_STATE_UNSPECIFIED if change.before is None else STATES[change.before],
        after=STATES[change.after],
        change_time=_timestamp(change.time),
        who=change.author.who,
        why=change.author.why,
        request_id=change.author.request_id,
    )


def configuration_to_proto(configuration: Configuration) -> assignment_service_pb2.WatchConfigurationResponse:
    """All running experiments."""
    return assignment_service_pb2.WatchConfigurationResponse(
        revision=configuration.revision,
        experiments=[experiment_to_proto(experiment) for experiment in configuration.experiments],
    )


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
    )


def measurement_from_proto(index: int, message: outcome_pb2.Outcome) -> Measurement:
    """One outcome of a batch."""
    return Measurement(
        outcome=message.outcome,
        assignment=message.assignment,
        metric=message.metric,
        value=message.value,
        event_time=_time(f"outcomes[{index}].event_time", message),
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
