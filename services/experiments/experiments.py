"""Experiments: what is decided at their creation, and what becomes of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from penstock.assignment import Arm, Plan, RequestType, Unit
from penstock.audience import EVERYONE, Audience, Condition

from services.chassis.errors import Failure, Reason, invalid_field
from services.experiments.analysis import Plan as AnalysisPlan

if TYPE_CHECKING:
    from datetime import datetime

    from services.experiments.analysis import Metric
    from services.experiments.store import Store

# What new experiments get; the version of a running one never changes.
HASH_VERSION: Final = 1
DEFAULT_PAGE: Final = 50


class State(StrEnum):
    """Where an experiment is in its life."""

    DRAFT = "DRAFT"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    CONCLUDED = "CONCLUDED"


@dataclass(frozen=True, slots=True)
class Ramp:
    """How traffic grows: ascending shares above 0 to 1, and how many seconds each lasts at least; None: only by hand."""

    stages: tuple[float, ...]
    stage_seconds: float | None = None

    def after(self, traffic: float) -> float | None:
        """The first stage above this share; None at the last."""
        return next((stage for stage in self.stages if stage > traffic), None)


@dataclass(frozen=True, slots=True)
class Factor:
    """One dimension of a factorial design; its first level is the control."""

    factor: str
    levels: tuple[Arm, ...]


@dataclass(frozen=True, slots=True)
class Design:
    """What whoever creates an experiment decides; it never changes afterwards.

    Attributes:
        experiment: Id.
        hypothesis: What one hopes to learn.
        unit: What is randomised.
        variants: 2 to 20, with different ids; the first is the control. With `factors`, all combinations of their levels.
        metrics: Up to 50, with different ids.
        request_types: Which calls take part; empty means all.
        analysis: How it is analysed.
        targeting: Conditions that must all hold.
        layer: Its layer; empty is the common one.
        layer_share: How much of its layer it owns, above 0 to 1.
        ramp: How traffic grows; None: all units from the start.
        factors: The factorial design; empty without one.
    """

    experiment: str
    hypothesis: str
    unit: Unit
    variants: tuple[Arm, ...]
    metrics: tuple[Metric, ...] = ()
    request_types: tuple[RequestType, ...] = ()
    analysis: AnalysisPlan = field(default_factory=AnalysisPlan)
    targeting: tuple[Condition, ...] = ()
    layer: str = ""
    layer_share: float = 1.0
    ramp: Ramp | None = None
    factors: tuple[Factor, ...] = ()

    def fingerprint(self) -> str:
        """Tells a repeated creation from another one under the same key."""
        written = asdict(self)
        # A design without what came later has the fingerprint that it had then.
        for name in ("targeting", "layer", "ramp", "factors"):
            if not written[name]:
                del written[name]
        if not self.layer:
            del written["layer_share"]
        return hashlib.sha256(json.dumps(written, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What was decided: the variant that won, empty for none, why, when and by whom."""

    winner: str
    why: str
    time: datetime
    who: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """A stored experiment. Times are aware and in UTC.

    Attributes:
        design: What was decided at its creation.
        state: Where it is in its life.
        hash_version: Of the assignment.
        salt: Of the assignment.
        create_time: When it was created.
        start_time: When it was first started.
        stop_time: When it was stopped.
        traffic: Share of the units that take part, 0 to 1.
        stage_time: When that share began; None without a ramp or before the start.
        layer_start: Where its slice of the layer begins, 0 to 1.
        paused: Variants that are paused by themselves.
        conclusion: What was decided at its end.
    """

    design: Design
    state: State
    hash_version: int
    salt: str
    create_time: datetime
    start_time: datetime | None = None
    stop_time: datetime | None = None
    traffic: float = 1.0
    stage_time: datetime | None = None
    layer_start: float = 0.0
    paused: tuple[str, ...] = ()
    conclusion: Conclusion | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return self.design.experiment

    def plan(self) -> Plan:
        """Ready to be evaluated."""
        design = self.design
        audience = Audience(design.targeting, design.layer, self.layer_start, design.layer_share, self.traffic)
        return Plan(
            experiment=self.id,
            salt=self.salt,
            hash_version=self.hash_version,
            unit=design.unit,
            arms=design.variants,
            request_types=design.request_types,
            audience=EVERYONE if audience == EVERYONE else audience,
            paused=self.paused,
        )

    def arm(self, variant: str) -> Arm:
        """The variant with this id, or VARIANT_NOT_FOUND."""
        for arm in self.design.variants:
            if arm.variant == variant:
                return arm
        raise Failure(
            Reason.VARIANT_NOT_FOUND,
            f"experiment {self.id!r} has no variant {variant!r}; it has {', '.join(a.variant for a in self.design.variants)}",
            metadata={"experiment": self.id, "variant": variant},
        )

    def draft(self) -> Experiment:
        """As it was when it was created, whatever has become of it since."""
        return replace(
            self,
            state=State.DRAFT,
            start_time=None,
            stop_time=None,
            traffic=first_traffic(self.design),
            stage_time=None,
            layer_start=0.0,
            paused=(),
            conclusion=None,
        )


def first_traffic(design: Design) -> float:
    """The share of the units that a new experiment starts with."""
    return design.ramp.stages[0] if design.ramp else 1.0


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, why, and by which request."""

    who: str = ""
    why: str = ""
    request_id: str = ""


NOBODY: Final = Author()


@dataclass(frozen=True, slots=True)
class Change:
    """One change as it was made.

    Attributes:
        number: Grows with each change.
        before: None for the creation, and for what concerns no experiment.
        after: None for what concerns no experiment.
        time: When.
        author: Who, why, and by which request.
        experiment: Which; empty for what concerns them all.
        what: What was done, where the states do not say it.
    """

    number: int
    before: State | None
    after: State | None
    time: datetime
    author: Author
    experiment: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True)
class Promotion:
    """The settings of a winner as the default. `number` is 0 before it is stored."""

    number: int
    experiment: str
    arm: Arm
    request_types: tuple[RequestType, ...]
    promote_time: datetime
    revert_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some experiments, newest first, and where the next page begins; None after the last."""

    experiments: tuple[Experiment, ...]
    next_before: int | None


def check_text(field: str, text: str) -> None:
    """Refuses what no database text can hold."""
    if "\0" in text:
        raise invalid_field(field, "holds the character U+0000; leave it out")


async def existing(store: Store, experiment: str) -> Experiment:
    """The stored experiment, or EXPERIMENT_NOT_FOUND."""
    check_text("experiment", experiment)
    found = (await store.get([experiment])).get(experiment)
    if found is None:
        raise Failure(
            Reason.EXPERIMENT_NOT_FOUND,
            f"there is no experiment {experiment!r}; ListExperiments names those there are",
            metadata={"experiment": experiment},
        )
    return found


def wrong_state(experiment: Experiment, problem: str) -> Failure:
    """The experiment's state does not allow what was asked; `problem` says what and what to do."""
    return Failure(
        Reason.EXPERIMENT_STATE,
        f"experiment {experiment.id!r} is {experiment.state}: {problem}",
        metadata={"experiment": experiment.id, "state": experiment.state},
    )
