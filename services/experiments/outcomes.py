"""Exposures and outcomes: held to the experiments they belong to, counted once, acknowledged when durable."""

from __future__ import annotations

import math
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from penstock.assignment import AssignmentKey, assignment_key, parse_assignment_key
from penstock.audience import Exclusion, held_out

from services.chassis.errors import Failure, Reason, invalid_field
from services.experiments.experiments import Experiment, State, check_text, existing, wrong_state
from services.experiments.store import Exposure, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from penstock.assignment import Arm, Plan
    from penstock.exposures import Execution

    from services.experiments.store import Store

# Sums of as many outcomes as any table holds stay finite below it.
MOST_VALUE: Final = 1e290
_KNOWN: Final = 1000
_MOST_EXECUTED: Final = 32
_MOST: Final = {"exposure": 128, "unit_id": 256, "request_id": 256, "model": 256, "engine": 64}


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many of a batch were new, and how many had been recorded before."""

    recorded: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """An outcome, or a covariate, as its reporter names it. `event_time` None means now."""

    outcome: str
    assignment: str
    metric: str
    value: float
    event_time: datetime | None = None
    covariate: bool = False


@dataclass(frozen=True, slots=True)
class Assigned:
    """The key of an assignment, the variant it stands for, and the experiment."""

    key: str
    arm: Arm
    experiment: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Which unit, with which attributes, asks for its variant of which experiment."""

    experiment: str
    unit_id: str
    attributes: Mapping[str, str]


class Outcomes:
    """Takes in what came of assignments."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Designs never change, and nothing goes back to DRAFT: what has left it may be kept.
        self._known: OrderedDict[str, Experiment] = OrderedDict()

    async def assign(self, asked: Sequence[Asked], request_id: str) -> list[Assigned | Exclusion]:
        """Assigns units, and records the exposures before it answers. The same request asked twice is one exposure each.

        Raises:
            Failure: EXPERIMENT_NOT_FOUND; EXPERIMENT_STATE unless it runs.
        """
        for one in asked:
            check_text("unit_id", one.unit_id)
            check_text("experiment", one.experiment)
        # From the store itself: a stop that was acknowledged anywhere holds here at once.
        known = await self._store.get({one.experiment for one in asked})
        for one in asked:
            found = known[one.experiment] = known.get(one.experiment) or await existing(self._store, one.experiment)
            if found.state is not State.RUNNING:
                raise wrong_state(found, "it assigns nothing; only a running one does")
        plans = {name: found.plan() for name, found in known.items()}
        holdout = await self._store.holdout()
        assigned = [_assigned(one, plans[one.experiment], holdout) for one in asked]
        exposures = {
            exposure.exposure: exposure
            for one, found in zip(asked, assigned, strict=True)
            if isinstance(found, Assigned)
            for exposure in [_exposure(one, found, request_id)]
        }
        if exposures:
            await self._store.record_exposures(list(exposures.values()))
        return assigned

    async def preview(self, unit_id: str, attributes: Mapping[str, str]) -> list[Assigned]:
        """What a unit would get of each running experiment that it takes part in. Records nothing."""
        check_text("unit_id", unit_id)
        configuration = await self._store.configuration()
        found = (
            _assigned(Asked(experiment.id, unit_id, attributes), experiment.plan(), configuration.holdout)
            for experiment in configuration.experiments
        )
        return [one for one in found if isinstance(one, Assigned)]

    async def existing(self, experiment: str) -> Experiment:
        """One experiment, or EXPERIMENT_NOT_FOUND."""
        return await existing(self._store, experiment)

    async def record_exposures(self, exposures: Sequence[Exposure]) -> Recorded:
        """Records exposures that services logged: all or, on an error, none.

        Raises:
            Failure: ASSIGNMENT_NOT_FOUND where the assignment is not what the experiment gives that unit; INVALID_FIELD.
        """
        for index, exposure in enumerate(exposures):
            _check_exposure(index, exposure)
        known = await self._experiments(exposure.experiment for exposure in exposures)
        for index, exposure in enumerate(exposures):
            found = known.get(exposure.experiment)
            if found is None or not _has_variant(found, exposure.variant):
                raise _unknown_assignment(f"exposures[{index}].assignment", exposure.assignment)
        new = await self._store.record_exposures(exposures)
        return Recorded(new, len(exposures) - new)

    async def record_outcomes(self, measurements: Sequence[Measurement]) -> Recorded:
        """Records outcomes: all or, on an error, none.

        Raises:
            Failure: ASSIGNMENT_NOT_FOUND, METRIC_NOT_FOUND, INVALID_FIELD.
        """
        keys = [_key_of(index, measurement) for index, measurement in enumerate(measurements)]
        known = await self._experiments(key.experiment for key in keys)
        now = datetime.now(UTC)
        outcomes = [
            _outcome(index, measurement, key, known.get(key.experiment), now)
            for index, (measurement, key) in enumerate(zip(measurements, keys, strict=True))
        ]
        new = await self._store.record_outcomes(outcomes)
        return Recorded(new, len(outcomes) - new)

    async def _experiments(self, ids: Iterable[str]) -> dict[str, Experiment]:
        """The experiments of these ids that have assigned at some time."""
        wanted = set(ids)
        missing = wanted - self._known.keys()
        if missing:
            for id_, found in (await self._store.get(missing)).items():
                if found.state is not State.DRAFT:
                    self._known[id_] = found
        result = {id_: self._known[id_] for id_ in wanted if id_ in self._known}
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return result


def _assigned(asked: Asked, plan: Plan, holdout: float) -> Assigned | Exclusion:
    excluded = Exclusion.HOLDOUT if held_out(asked.unit_id, holdout) else plan.exclusion(asked.unit_id, asked.attributes)
    if excluded is not None:
        return excluded
    arm = plan.arm_of(asked.unit_id)
    return Assigned(assignment_key(asked.experiment, arm.variant, asked.unit_id), arm, asked.experiment)


def _exposure(asked: Asked, assigned: Assigned, request_id: str) -> Exposure:
    return Exposure(
        exposure=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{request_id}:{assigned.key}")),
        assignment=assigned.key,
        experiment=asked.experiment,
        variant=assigned.arm.variant,
        unit_id=asked.unit_id,
        event_time=datetime.now(UTC),
        request_id=request_id[: _MOST["request_id"]],
    )


def _check_exposure(index: int, exposure: Exposure) -> None:
    field = f"exposures[{index}]"
    for name, most in _MOST.items():
        text = getattr(exposure, name)
        check_text(f"{field}.{name}", text)
        if len(text) > most:
            raise invalid_field(f"{field}.{name}", f"has {len(text)} characters; the most is {most}")
    _check_execution(field, exposure.execution)
    for name in ("exposure", "unit_id"):
        if not getattr(exposure, name):
            raise invalid_field(f"{field}.{name}", "is empty; it must name something")
    key = parse_assignment_key(exposure.assignment)
    expected = assignment_key(exposure.experiment, exposure.variant, exposure.unit_id)
    if key is None or exposure.assignment != expected:
        raise _unknown_assignment(f"{field}.assignment", exposure.assignment)


def _check_execution(field: str, execution: Execution) -> None:
    for name, count in (("indexes", len(execution.indexes)), ("attempts", len(execution.attempts))):
        if count > _MOST_EXECUTED:
            raise invalid_field(f"{field}.{name}", f"has {count} entries; the most is {_MOST_EXECUTED}")
    texts = [execution.model_digest, *execution.indexes]
    for attempt in execution.attempts:
        texts += [attempt.backend, attempt.model, attempt.outcome]
        if not math.isfinite(attempt.seconds):
            raise invalid_field(f"{field}.attempts", f"took {attempt.seconds} seconds; name a finite number")
    for text in texts:
        check_text(f"{field}.attempts", text)
        if len(text) > _MOST["model"]:
            raise invalid_field(f"{field}.attempts", f"holds {len(text)} characters; the most is {_MOST['model']}")


def _key_of(index: int, measurement: Measurement) -> AssignmentKey:
    field = f"outcomes[{index}]"
    check_text(f"{field}.outcome", measurement.outcome)
    if abs(measurement.value) > MOST_VALUE:
        raise invalid_field(f"{field}.value", f"is {measurement.value:g}; the most, up or down, is {MOST_VALUE:g}")
    key = parse_assignment_key(measurement.assignment)
    if key is None:
        raise _unknown_assignment(f"{field}.assignment", measurement.assignment)
    return key


def _outcome(index: int, measurement: Measurement, key: AssignmentKey, found: Experiment | None, now: datetime) -> Outcome:
    if found is None or not _has_variant(found, key.variant):
        raise _unknown_assignment(f"outcomes[{index}].assignment", measurement.assignment)
    if all(metric.metric != measurement.metric for metric in found.design.metrics):
        field = f"outcomes[{index}].metric"
        raise Failure(
            Reason.METRIC_NOT_FOUND,
            f"{field}: experiment {found.id!r} has no metric {measurement.metric!r}; name one it was created with",
            metadata={"metric": measurement.metric, "experiment": found.id, "field": field},
        )
    return Outcome(
        outcome=measurement.outcome,
        assignment=measurement.assignment,
        experiment=key.experiment,
        variant=key.variant,
        metric=measurement.metric,
        value=measurement.value,
        event_time=measurement.event_time or now,
        covariate=measurement.covariate,
    )


def _has_variant(experiment: Experiment, variant: str) -> bool:
    return any(arm.variant == variant for arm in experiment.design.variants)


def _unknown_assignment(field: str, assignment: str) -> Failure:
    return Failure(
        Reason.ASSIGNMENT_NOT_FOUND,
        f"{field}: no experiment here gave out {assignment!r}; name an assignment as an answer or Assign gave it",
        metadata={"assignment": assignment, "field": field},
    )
