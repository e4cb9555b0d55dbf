"""A store in this process's memory: for tests and trials; nothing survives the process."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING

from services.experiments.analysis import Evidence, Moments
from services.experiments.experiments import NOBODY, Author, Change, Experiment, Page, State
from services.experiments.store import MOST_SQUARED, Configuration, Exposure, Outcome, OutcomeTally, Tally
from services.experiments.stores.refusals import already_exists, request_id_reused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Sequence


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
        self._changes: dict[str, list[Change]] = {}
        self._change = 0
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

    async def move(self, experiment: str, sources: Collection[State], target: State, author: Author = NOBODY) -> bool:
        """See `Store`."""
        found = self._experiments.get(experiment)
        if found is None or found.state not in sources:
            return False
        now = datetime.now(UTC)
        self._revision += 1
        if target is State.RUNNING:
            self._started.setdefault(experiment, self._revision)
        self._experiments[experiment] = replace(
            found,
            state=target,
            start_time=found.start_time or (now if target is State.RUNNING else None),
            stop_time=now if target is State.STOPPED else None,
        )
        self._note(experiment, found.state, target, author)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return True

    def _note(self, experiment: str, before: State | None, after: State, author: Author) -> None:
        self._change += 1
        change = Change(self._change, before, after, datetime.now(UTC), author)
        self._changes.setdefault(experiment, []).append(change)

    async def list_changes(self, experiment: str, size: int, after: int) -> tuple[Change, ...]:
        """See `Store`."""
        return tuple(change for change in self._changes.get(experiment, ()) if change.number > after)[:size]

    async def configuration(self) -> Configuration:
        """See `Store`."""
        running = [one for one in self._experiments.values() if one.state is State.RUNNING]
        return Configuration(self._revision, tuple(sorted(running, key=lambda one: self._started[one.id])))

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
        own = [one for one in self._outcomes.values() if one.experiment == experiment]
        measured = _by_metric(own)
        seen = {} if look is None else _by_metric(one for one in own if self._recorded[one.outcome] <= look)
        return Tally(
            exposures={variant: (count, units[variant]) for variant, count in counts.items()},
            outcomes={key: _tally(outcomes) for key, outcomes in measured.items()},
            evidence=Evidence({key: _moments(outcomes) for key, outcomes in measured.items()}),
            seen=Evidence({key: _moments(outcomes) for key, outcomes in seen.items()}),
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
