"""A store in this process's memory: for tests and trials; nothing survives the process."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING

from services.experiments.experiments import Experiment, Page, State
from services.experiments.store import Configuration, Exposure, Outcome, OutcomeTally, Tally
from services.experiments.stores.refusals import already_exists, request_id_reused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence


class MemoryStore:
    """Keeps everything in dictionaries."""

    def __init__(self) -> None:
        # Insertion order is the order of creation.
        self._experiments: dict[str, Experiment] = {}
        self._numbers: dict[str, int] = {}
        self._requests: dict[str, str] = {}
        self._exposures: dict[str, Exposure] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._started: dict[str, int] = {}
        self._revision = 1
        self._changed = asyncio.Event()

    async def create(self, experiment: Experiment, request_id: str) -> Experiment:
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
        return experiment

    async def get(self, experiments: Iterable[str]) -> dict[str, Experiment]:
        """See `Store`."""
        return {id_: self._experiments[id_] for id_ in experiments if id_ in self._experiments}

    async def page(self, size: int, before: int | None) -> Page:
        """See `Store`."""
        newest = [one for one in reversed(self._experiments.values()) if before is None or self._numbers[one.id] < before]
        shown = newest[:size]
        return Page(tuple(shown), self._numbers[shown[-1].id] if len(newest) > size else None)

    async def move(self, experiment: str, source: State, target: State) -> bool:
        """See `Store`."""
        found = self._experiments.get(experiment)
        if found is None or found.state is not source:
            return False
        now = datetime.now(UTC)
        self._revision += 1
        if target is State.RUNNING:
            self._experiments[experiment] = replace(found, state=target, start_time=now)
            self._started[experiment] = self._revision
        else:
            self._experiments[experiment] = replace(found, state=target, stop_time=now)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return True

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
        for outcome in outcomes:
            self._outcomes.setdefault(outcome.outcome, outcome)
        return len(self._outcomes) - before

    async def tally(self, experiment: str) -> Tally:
        """See `Store`."""
        exposed = [one for one in self._exposures.values() if one.experiment == experiment]
        counts = Counter(one.variant for one in exposed)
        units = Counter(variant for variant, _ in {(one.variant, one.unit_id) for one in exposed})
        measured: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
        for outcome in self._outcomes.values():
            if outcome.experiment == experiment:
                measured[outcome.variant, outcome.metric].append(outcome)
        return Tally(
            exposures={variant: (count, units[variant]) for variant, count in counts.items()},
            outcomes={key: _tally(outcomes) for key, outcomes in measured.items()},
        )


def _tally(outcomes: list[Outcome]) -> OutcomeTally:
    # The sum of the numbers as people write them: ten times 0.1 is 1.
    total = sum((Fraction(repr(outcome.value)) for outcome in outcomes), Fraction(0))
    return OutcomeTally(len(outcomes), len({outcome.assignment for outcome in outcomes}), float(total))
