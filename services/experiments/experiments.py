"""Experiments and their life: DRAFT, RUNNING, PAUSED, STOPPED."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from penstock.assignment import Arm, Plan, RequestType, Unit

from services.chassis.errors import Failure, Reason, invalid_field
from services.experiments.analysis import Plan as AnalysisPlan

if TYPE_CHECKING:
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


@dataclass(frozen=True, slots=True)
class Design:
    """What whoever creates an experiment decides; it never changes afterwards.

    Attributes:
        experiment: Id.
        hypothesis: What one hopes to learn.
        unit: What is randomised.
        variants: 2 to 20, with different ids; the first is the control.
        metrics: Up to 50, with different ids.
        request_types: Which calls take part; empty means all.
        analysis: How it is analysed.
    """

    experiment: str
    hypothesis: str
    unit: Unit
    variants: tuple[Arm, ...]
    metrics: tuple[Metric, ...] = ()
    request_types: tuple[RequestType, ...] = ()
    analysis: AnalysisPlan = field(default_factory=AnalysisPlan)

    def fingerprint(self) -> str:
        """Tells a repeated creation from another one under the same key."""
        written = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(written.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Experiment:
    """A stored experiment. Times are aware and in UTC."""

    design: Design
    state: State
    hash_version: int
    salt: str
    create_time: datetime
    start_time: datetime | None = None
    stop_time: datetime | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return self.design.experiment

    def plan(self) -> Plan:
        """Ready to be evaluated."""
        return Plan(
            experiment=self.id,
            salt=self.salt,
            hash_version=self.hash_version,
            unit=self.design.unit,
            arms=self.design.variants,
            request_types=self.design.request_types,
        )


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, why, and by which request."""

    who: str = ""
    why: str = ""
    request_id: str = ""


NOBODY: Final = Author()


@dataclass(frozen=True, slots=True)
class Change:
    """One change as it was made. `before` is None for the creation; `number` grows with each change of any experiment."""

    number: int
    before: State | None
    after: State
    time: datetime
    author: Author


@dataclass(frozen=True, slots=True)
class Page:
    """Some experiments, newest first, and where the next page begins; None after the last."""

    experiments: tuple[Experiment, ...]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some changes, oldest first, and after which number the next page begins; None after the last."""

    changes: tuple[Change, ...]
    next_after: int | None


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


class Experiments:
    """Creates experiments and moves them through their life."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, design: Design, request_id: str = "", author: Author = NOBODY) -> Experiment:
        """Stores a new experiment in DRAFT, or returns the earlier one where `request_id` was used for the same before."""
        _check_design(design)
        check_text("request_id", request_id)
        experiment = Experiment(
            design=design,
            state=State.DRAFT,
            hash_version=HASH_VERSION,
            salt=secrets.token_hex(16),
            create_time=datetime.now(UTC),
        )
        stored = await self._store.create(experiment, request_id, author)
        # A repeated call gets the response it got before, whatever has become of the experiment since.
        return replace(stored, state=State.DRAFT, start_time=None, stop_time=None)

    async def get(self, experiment: str) -> Experiment:
        """Returns one experiment, or raises EXPERIMENT_NOT_FOUND."""
        return await existing(self._store, experiment)

    async def page(self, size: int, before: int | None) -> Page:
        """Returns up to `size` experiments, newest first, from the mark of an earlier page on; size 0 means 50."""
        return await self._store.page(size or DEFAULT_PAGE, before)

    async def start(self, experiment: str, author: Author = NOBODY) -> Experiment:
        """Lets it assign, at first or after a pause; a running one stays as it is."""
        sources = (State.DRAFT, State.PAUSED)
        return await self._move(experiment, sources, State.RUNNING, author, "it cannot be started again; create a new one")

    async def pause(self, experiment: str, author: Author = NOBODY) -> Experiment:
        """Lets it assign nothing until it is started again; a paused one stays as it is."""
        return await self._move(experiment, (State.RUNNING,), State.PAUSED, author, "only a running one can be paused")

    async def stop(self, experiment: str, author: Author = NOBODY) -> Experiment:
        """Ends its assigning for good; a stopped one stays as it is."""
        sources = (State.RUNNING, State.PAUSED)
        problem = "only one that was started can be stopped; start it first"
        return await self._move(experiment, sources, State.STOPPED, author, problem)

    async def changes(self, experiment: str, size: int, after: int) -> ChangePage:
        """Up to `size` changes, oldest first, from after the number of an earlier one on; size 0 means 50."""
        await self.get(experiment)
        size = size or DEFAULT_PAGE
        found = await self._store.list_changes(experiment, size + 1, after)
        return ChangePage(found[:size], found[size - 1].number if len(found) > size else None)

    async def _move(
        self, experiment: str, sources: tuple[State, ...], target: State, author: Author, problem: str
    ) -> Experiment:
        check_text("experiment", experiment)
        check_text("why", author.why)
        await self._store.move(experiment, sources, target, author)
        found = await self.get(experiment)
        if found.state is not target:
            raise wrong_state(found, problem)
        return found


def _check_design(design: Design) -> None:
    check_text("experiment.hypothesis", design.hypothesis)
    for index, arm in enumerate(design.variants):
        check_text(f"experiment.variants[{index}].model", arm.model or "")
        check_text(f"experiment.variants[{index}].prompt", arm.prompt or "")
