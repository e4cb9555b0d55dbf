"""What the experiments service keeps, and how it asks for it. Implementations are named after their technology in `stores`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from penstock.exposures import Execution

from services.experiments.analysis import Evidence
from services.experiments.experiments import NOBODY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from services.experiments.analysis import Covariate
    from services.experiments.experiments import Author, Change, Experiment, Page, Promotion


PLAIN: Final = Execution()
# Squares of larger outcomes, summed up, would not fit into a number.
MOST_SQUARED: Final = 1e140


@dataclass(frozen=True, slots=True)
class Configuration:
    """All running experiments, earliest start first, under a revision that grows with each change.

    Attributes:
        revision: Grows with each change.
        experiments: Those that run.
        promotions: Those that hold, earliest first.
        holdout: Share of units that meet no experiment, 0 to 1.
    """

    revision: int
    experiments: tuple[Experiment, ...]
    promotions: tuple[Promotion, ...] = ()
    holdout: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of an experiment, and what was done, where the states do not say it."""

    experiment: Experiment
    what: str = ""


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some changes, oldest first, and after which number the next page begins; None after the last."""

    changes: tuple[Change, ...]
    next_after: int | None


@dataclass(frozen=True, slots=True)
class Exposure:
    """That a unit met its variant. `exposure` is the idempotency key, `execution` what was really executed."""

    exposure: str
    assignment: str
    experiment: str
    variant: str
    unit_id: str
    event_time: datetime
    request_id: str = ""
    model: str = ""
    engine: str = ""
    execution: Execution = PLAIN


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measured value. `outcome` is the idempotency key; experiment and variant are those of the assignment."""

    outcome: str
    assignment: str
    experiment: str
    variant: str
    metric: str
    value: float
    event_time: datetime
    covariate: bool = False


@dataclass(frozen=True, slots=True)
class OutcomeTally:
    """Outcomes of one metric of one variant: how many, from how many units, and their exact sum rounded once."""

    outcomes: int
    units: int
    sum: float


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted for one experiment, at one moment; variants and metrics without any are left out.

    Attributes:
        exposures: By variant: exposures, and different units among them.
        outcomes: By variant and metric.
        evidence: The outcomes between units, for the analysis.
        seen: The same of what had been recorded by the look that was asked for.
        fell_back: By variant: different units of which at least one request fell back to another model, or failed.
        served: The evidence without those units; None where there are none.
        covariates: By variant and metric, those with any.
    """

    exposures: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    outcomes: Mapping[tuple[str, str], OutcomeTally] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    seen: Evidence = field(default_factory=Evidence)
    fell_back: Mapping[str, int] = field(default_factory=dict)
    served: Evidence | None = None
    covariates: Mapping[tuple[str, str], Covariate] = field(default_factory=dict)


class Store(Protocol):
    """Each method that writes returns once the write is durable. A store that does not answer raises DATABASE_UNAVAILABLE."""

    async def create(self, experiment: Experiment, request_id: str, author: Author = NOBODY) -> Experiment:
        """Adds an experiment and notes the change, or returns the one that a request with this id and design added before.

        Raises:
            Failure: EXPERIMENT_ALREADY_EXISTS, or REQUEST_ID_REUSED for another design under the same request id.
        """

    async def get(self, experiments: Iterable[str]) -> dict[str, Experiment]:
        """Those of the named experiments that exist."""

    async def page(self, size: int, before: int | None) -> Page:
        """Up to `size` experiments, newest first, starting after the mark `before`."""

    async def change(
        self, experiment: str, step: Callable[[Experiment, Sequence[Experiment]], Step], author: Author = NOBODY
    ) -> Experiment | None:
        """Carries out one step on an experiment, notes the change, and makes a new revision; None where there is no such one.

        Steps are carried out one after the other, over all processes. A step gets the experiment and all others that run or
        are paused; what it raises is raised, and then, or where it changes nothing, nothing is written. The place among those
        started stays.
        """

    async def list_changes(self, experiment: str, size: int, after: int) -> tuple[Change, ...]:
        """Up to `size` changes, oldest first, those numbered above `after`; of one experiment, or all where it is empty."""

    async def promote(self, promotion: Promotion, author: Author = NOBODY) -> Promotion:
        """Stores a promotion and makes a new revision, or returns the one of the same experiment that holds."""

    async def revert(self, promotion: int, author: Author = NOBODY) -> Promotion | None:
        """Takes back a promotion that holds and makes a new revision; returns it as it is then, None where there is none."""

    async def promotions(self, size: int, before: int | None) -> tuple[Promotion, ...]:
        """Up to `size` promotions, latest first, those numbered below `before`."""

    async def holdout(self) -> float:
        """The share of units that meet no experiment, as of now."""

    async def set_holdout(self, share: float, author: Author = NOBODY) -> None:
        """Sets the share of units that meet no experiment, and makes a new revision where it differs."""

    async def configuration(self) -> Configuration:
        """The configuration as of now."""

    def changes(self) -> AsyncGenerator[None]:
        """Yields whenever the configuration may have changed, by whichever process, and once at first; never ends."""

    async def record_exposures(self, exposures: Sequence[Exposure]) -> int:
        """Adds all exposures whose key is new; returns how many."""

    async def record_outcomes(self, outcomes: Sequence[Outcome]) -> int:
        """Adds all outcomes whose key is new; returns how many."""

    async def tally(self, experiment: str, look: datetime | None = None) -> Tally:
        """Counts what was recorded for one experiment, as of one moment; `seen` is filled where a time of a look is given."""
