"""A store in this process's memory: for tests and trials; nothing survives the process."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING

from services.experiments.analysis import Covariate, Evidence, Moments
from services.experiments.experiments import NOBODY, Author, Change, Experiment, Page, Promotion, State
from services.experiments.store import MOST_SQUARED, Configuration, Exposure, Outcome, OutcomeTally, Tally
from services.experiments.stores.refusals import already_exists, request_id_reused
from services.experiments.stores.wordings import holdout_set, promoted, taken_back

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from services.experiments.store import Step


class MemoryStore:
    """Keeps everything in dictionaries."""

    def __init__(self) -> None:
        # Insertion order is the order of creation.
        self._experiments: dict[str, Experiment] = {}
        self._numbers: dict[str, int] = {}
        self._requests: dict[str, str] = {}
        self._exposures: dict[str, Exposure] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._recorded: dict[str, datetime] = {}
        self._changes: list[Change] = []
        self._promotions: list[Promotion] = []
        self._holdout = 0.0
        self._started: dict[str, int] = {}
        self._revision = 1
        self._changed = asyncio.Event()

    async def create(self, experiment: Experiment, request_id: str, author: Author = NOBODY) -> Experiment:
        """See `Store`."""
        earlier = self._experiments.get(self._requests.get(request_id, ""))
        if request_id and earlier is not None:
            if earlier.design.fingerprint() != experiment.design.fingerprint():
                raise request_id_reused(request_id)
            return earlier
        if experiment.id in self._experiments:
            raise already_exists(experiment.id)
        self._experiments[experiment.id] = experiment
        self._numbers[experiment.id] = len(self._numbers) + 1
        if request_id:
            self._requests[request_id] = experiment.id
        self._note(experiment.id, None, experiment.state, author)
        return experiment

    async def get(self, experiments: Iterable[str]) -> dict[str, Experiment]:
        """See `Store`."""
        return {id_: self._experiments[id_] for id_ in experiments if id_ in self._experiments}

    async def page(self, size: int, before: int | None) -> Page:
        """See `Store`."""
        newest = [one for one in reversed(self._experiments.values()) if before is None or self._numbers[one.id] < before]
        shown = newest[:size]
        return Page(tuple(shown), self._numbers[shown[-1].id] if len(newest) > size else None)

    async def change(
        self, experiment: str, step: Callable[[Experiment, Sequence[Experiment]], Step], author: Author = NOBODY
    ) -> Experiment | None:
        """See `Store`."""
        found = self._experiments.get(experiment)
        if found is None:
            return None
        alive = (State.RUNNING, State.PAUSED)
        taken = step(found, [one for one in self._experiments.values() if one.state in alive and one is not found])
        if taken.experiment == found:
            return found
        self._experiments[experiment] = taken.experiment
        self._note(experiment, found.state, taken.experiment.state, author, taken.what)
        self._revise()
        if taken.experiment.state is State.RUNNING:
            self._started.setdefault(experiment, self._revision)
        return taken.experiment

    def _note(self, experiment: str, before: State | None, after: State | None, author: Author, what: str = "") -> None:
        change = Change(len(self._changes) + 1, before, after, datetime.now(UTC), author, experiment, what)
        self._changes.append(change)

    def _revise(self) -> None:
        self._revision += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def list_changes(self, experiment: str, size: int, after: int) -> tuple[Change, ...]:
        """See `Store`."""
        found = (one for one in self._changes if one.number > after and experiment in ("", one.experiment))
        return tuple(islice(found, size))

    async def promote(self, promotion: Promotion, author: Author = NOBODY) -> Promotion:
        """See `Store`."""
        for one in self._promotions:
            if one.experiment == promotion.experiment and one.revert_time is None:
                return one
        stored = replace(promotion, number=len(self._promotions) + 1)
        self._promotions.append(stored)
        state = self._experiments[promotion.experiment].state
        self._note(promotion.experiment, state, state, author, promoted(stored))
        self._revise()
        return stored

    async def revert(self, promotion: int, author: Author = NOBODY) -> Promotion | None:
        """See `Store`."""
        if not 0 < promotion <= len(self._promotions):
            return None
        found = self._promotions[promotion - 1]
        if found.revert_time is not None:
            return found
        reverted = self._promotions[promotion - 1] = replace(found, revert_time=datetime.now(UTC))
        state = self._experiments[found.experiment].state
        self._note(found.experiment, state, state, author, taken_back(reverted))
        self._revise()
        return reverted

    async def promotions(self, size: int, before: int | None) -> tuple[Promotion, ...]:
        """See `Store`."""
        return tuple(one for one in reversed(self._promotions) if before is None or one.number < before)[:size]

    async def holdout(self) -> float:
        """See `Store`."""
        return self._holdout

    async def set_holdout(self, share: float, author: Author = NOBODY) -> None:
        """See `Store`."""
        if share != self._holdout:
            self._note("", None, None, author, holdout_set(self._holdout, share))
            self._holdout = share
            self._revise()

    async def configuration(self) -> Configuration:
        """See `Store`."""
        running = [one for one in self._experiments.values() if one.state is State.RUNNING]
        holding = tuple(one for one in self._promotions if one.revert_time is None)
        ordered = tuple(sorted(running, key=lambda one: self._started[one.id]))
        return Configuration(self._revision, ordered, holding, self._holdout)

    async def changes(self) -> AsyncGenerator[None]:
        """See `Store`."""
        while True:
            changed = self._changed
            yield
            await changed.wait()

    async def record_exposures(self, exposures: Sequence[Exposure]) -> int:
        """See `Store`."""
        before = len(self._exposures)
        for exposure in exposures:
            self._exposures.setdefault(exposure.exposure, exposure)
        return len(self._exposures) - before

    async def record_outcomes(self, outcomes: Sequence[Outcome]) -> int:
        """See `Store`."""
        before = len(self._outcomes)
        now = datetime.now(UTC)
        for outcome in outcomes:
            self._outcomes.setdefault(outcome.outcome, outcome)
            self._recorded.setdefault(outcome.outcome, now)
        return len(self._outcomes) - before

    async def tally(self, experiment: str, look: datetime | None = None) -> Tally:
        """See `Store`."""
        exposed = [one for one in self._exposures.values() if one.experiment == experiment]
        counts = Counter(one.variant for one in exposed)
        units = Counter(variant for variant, _ in {(one.variant, one.unit_id) for one in exposed})
        every = [one for one in self._outcomes.values() if one.experiment == experiment]
        own = [one for one in every if not one.covariate]
        measured = _by_metric(own)
        fallen = {one.assignment for one in exposed if one.execution.fell_back}
        served = _by_metric(one for one in own if one.assignment not in fallen)
        seen = {} if look is None else _by_metric(one for one in own if self._recorded[one.outcome] <= look)
        return Tally(
            exposures={variant: (count, units[variant]) for variant, count in counts.items()},
            outcomes={key: _tally(outcomes) for key, outcomes in measured.items()},
            evidence=Evidence({key: _moments(outcomes) for key, outcomes in measured.items()}),
            seen=Evidence({key: _moments(outcomes) for key, outcomes in seen.items()}),
            fell_back=Counter(variant for variant, _ in {(o.variant, o.unit_id) for o in exposed if o.execution.fell_back}),
            covariates=_covariates(every),
            served=Evidence({key: _moments(outcomes) for key, outcomes in served.items()}) if fallen else None,
        )


def _by_metric(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    found: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.variant, outcome.metric].append(outcome)
    return found


def _moments(outcomes: Sequence[Outcome]) -> Moments | None:
    """In exact numbers, each rounded once."""
    if max(abs(outcome.value) for outcome in outcomes) > MOST_SQUARED:
        return None
    units: dict[str, list[Fraction]] = defaultdict(list)
    for outcome in outcomes:
        units[outcome.assignment].append(Fraction(repr(outcome.value)))
    totals = [sum(values, Fraction(0)) for values in units.values()]
    counts = [Fraction(len(values)) for values in units.values()]
    means = [total / count for total, count in zip(totals, counts, strict=True)]
    return Moments(
        units=len(units),
        mean=float(_mean(means)),
        squares=_products(means, means),
        total=float(_mean(totals)),
        count=float(_mean(counts)),
        total_squares=_products(totals, totals),
        count_squares=_products(counts, counts),
        products=_products(totals, counts),
        lowest=min(outcome.value for outcome in outcomes),
        highest=max(outcome.value for outcome in outcomes),
    )


def _covariates(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], Covariate]:
    """In exact numbers; units without a covariate have the mean of the units that have one, over all variants."""
    values: dict[str, dict[tuple[str, str], tuple[list[Fraction], list[Fraction]]]] = defaultdict(dict)
    for one in outcomes:
        if abs(one.value) <= MOST_SQUARED:
            sorts = values[one.metric].setdefault((one.variant, one.assignment), ([], []))
            sorts[one.covariate].append(Fraction(repr(one.value)))
    found: dict[tuple[str, str], Covariate] = {}
    for metric, units in values.items():
        pairs = {key: (_mean(after), _mean(before) if before else None) for key, (after, before) in units.items() if after}
        known = [before for _, before in pairs.values() if before is not None]
        if not known:
            continue
        for variant in {variant for variant, _ in pairs}:
            own = [pair for (name, _), pair in pairs.items() if name == variant]
            filled = [_mean(known) if before is None else before for _, before in own]
            after = [one for one, _ in own]
            count = sum(before is not None for _, before in own)
            found[variant, metric] = Covariate(
                len(own), count, float(_mean(filled)), _products(filled, filled), _products(filled, after)
            )
    return found


def _mean(numbers: Sequence[Fraction]) -> Fraction:
    return sum(numbers, Fraction(0)) / len(numbers)


def _products(ones: Sequence[Fraction], others: Sequence[Fraction]) -> float:
    """Sum of products around the means."""
    one, other = _mean(ones), _mean(others)
    return float(sum(((a - one) * (b - other) for a, b in zip(ones, others, strict=True)), Fraction(0)))


def _tally(outcomes: list[Outcome]) -> OutcomeTally:
    # The sum of the numbers as people write them: ten times 0.1 is 1.
    total = sum((Fraction(repr(outcome.value)) for outcome in outcomes), Fraction(0))
    return OutcomeTally(len(outcomes), len({outcome.assignment for outcome in outcomes}), float(total))
