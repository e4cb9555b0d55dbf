"""Who does the work: takes optimizations under leases, and tries one setting after the other.

Only finished measurements are kept. A worker that dies leaves its optimization to the next one once the lease is over, which
goes on from what is kept; the measurement that was under way is made again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from penstock.assignment import Settings

from services.chassis.errors import Failure, Reason
from services.experiments.optimization.measuring import HOPELESS, OUTAGES, measure
from services.experiments.optimization.optimizations import State, Trial
from services.experiments.optimization.proposals import Proposal, Proposed
from services.experiments.optimization.space import settings_of, values_of
from services.experiments.optimization.winning import draft_of, winner_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from services.experiments.experiments import Author, Experiment
    from services.experiments.experiments import Design as ExperimentDesign
    from services.experiments.optimization.measuring import Case, Target
    from services.experiments.optimization.optimizations import Optimization

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 2.0
_LONGEST_PAUSE: Final = 5.0
# Renewals within the time of one lease.
_BEATS: Final = 4
_AGAIN_SECONDS: Final = 2.0
_IN_USE: Final = Settings()


@dataclass(frozen=True)
class Job:
    """An optimization under work, as it was when it was taken, and the lease that says so."""

    optimization: Optimization
    lease: UUID


class Jobs(Protocol):
    """The queue. Each method raises Failure(DATABASE_UNAVAILABLE)."""

    async def claim(self) -> Job | None:
        """The next one that nobody works on; None where there is none."""
        ...

    async def renew(self, job: Job) -> bool:
        """Prolongs the lease; False where it is lost, or the optimization has ended."""
        ...

    async def release(self, job: Job, delay: float, note: str) -> None:
        """Gives it back, not to be taken before `delay` seconds have passed."""
        ...

    async def move(self, job: Job, state: State) -> bool:
        """Says where it stands; False where the lease is lost, or it has ended."""
        ...

    async def add(self, job: Job, trial: Trial, *, held_out: bool) -> bool:
        """Keeps a measurement; False, and nothing is kept, where the lease is lost, or it has ended."""
        ...

    async def end(self, job: Job, state: State, note: str, winner: int | None = None, experiment: str = "") -> None:
        """Ends it, unless the lease is lost or it has ended."""
        ...


class Proposer(Protocol):
    """Knows what to try next; the analyst does."""

    async def ask(self, question: Proposal) -> Proposed:
        """The point to try next. Raises Failure(ANALYSIS_UNAVAILABLE)."""
        ...


class Creator(Protocol):
    """Makes experiments; `lifecycle.Experiments` does."""

    async def create(self, design: ExperimentDesign, request_id: str, author: Author) -> Experiment:
        """Stores one in DRAFT, or returns the earlier one of the same request."""
        ...


class Worker:
    """Works on one optimization at a time.

    Args:
        jobs: The queue.
        proposer: Knows what to try next.
        experiments: Makes the winner's experiment.
        target_of: The live services as an optimization asks them.
        lease_seconds: How long a lease of `jobs` holds.
    """

    def __init__(
        self,
        jobs: Jobs,
        proposer: Proposer,
        experiments: Creator,
        target_of: Callable[[Optimization], Target],
        lease_seconds: float,
    ) -> None:
        self._jobs = jobs
        self._proposer = proposer
        self._experiments = experiments
        self._target_of = target_of
        self._beat = lease_seconds / _BEATS
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Says that there is something to do."""
        self._wanted.set()

    async def run(self) -> None:
        """Never returns: cancel it."""
        pause = 0.0
        while True:
            self._wanted.clear()
            try:
                pause = 0.0 if await self.step() else _POLL_SECONDS
            except Failure as failure:
                _log.warning("optimizations wait: %s", failure.message)
                pause = min(max(2 * pause, 0.5), _LONGEST_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()

    async def step(self) -> bool:
        """Works on the next optimization until it ends, waits or is taken away; False where there is none.

        Raises:
            Failure: DATABASE_UNAVAILABLE.
        """
        job = await self._jobs.claim()
        if job is None:
            return False
        # A task of its own, so that the caller's name, which it takes on, is its own too.
        work = asyncio.create_task(self._work(job))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=self._beat)
                if not work.done() and not await self._jobs.renew(job):
                    break
        except asyncio.CancelledError:
            # This process stops: the next one need not wait until the lease is over.
            with suppress(Failure):
                await self._jobs.release(job, 0, "")
            raise
        finally:
            work.cancel()
            await asyncio.wait([work])
        if not work.cancelled():
            work.result()
        return True

    async def _work(self, job: Job) -> None:
        try:
            await self._proceed(job, self._target_of(job.optimization))
        except Failure as failure:
            if failure.reason in HOPELESS:
                await self._jobs.end(job, State.FAILED, failure.message)
            elif failure.reason in OUTAGES or failure.reason is Reason.ANALYSIS_UNAVAILABLE:
                await self._jobs.release(job, _AGAIN_SECONDS, f"waits: {failure.message}")
            else:
                raise
        except Exception:  # noqa: BLE001 - a defect must not hold up other optimizations; it is logged in full
            _log.exception("defect in optimization %s", job.optimization.design.optimization)
            await self._jobs.end(job, State.FAILED, "it met a defect, which the log tells")

    async def _proceed(self, job: Job, target: Target) -> None:
        searched = await self._search(job, target)
        if searched is None:
            return
        finalists = searched.finalists()
        if not finalists:
            last = searched.trials[-1].measures.last_error if searched.trials else ""
            await self._jobs.end(
                job, State.FAILED, f"no setting could be measured in all objectives; the last error was: {last}"
            )
            return
        finals = await self._validate(job, target, searched, finalists)
        if finals is None:
            return
        await self._decide(job, replace(searched, finals=tuple(finals)))

    async def _search(self, job: Job, target: Target) -> Optimization | None:
        """The optimization with all its trials; None where it was taken away."""
        found, design = job.optimization, job.optimization.design
        cases, _ = design.split()
        if not await self._jobs.move(job, State.VALIDATING if found.finals else State.SEARCHING):
            return None
        while len(found.trials) < design.search_count():
            tried = tuple((values_of(one.settings), one.measures.losses(design.objectives)) for one in found.trials)
            proposal = Proposal(design.space, len(design.objectives), tried, design.search_count(), design.seed)
            point = (await self._proposer.ask(proposal)).point
            if point is None:
                break
            trial = await self._measured(target, len(found.trials) + 1, settings_of(point), cases)
            if not await self._jobs.add(job, trial, held_out=False):
                return None
            found = replace(found, trials=(*found.trials, trial))
        return found

    async def _validate(self, job: Job, target: Target, found: Optimization, finalists: list[Trial]) -> list[Trial] | None:
        """The settings in use and the finalists on the questions held out; None where it was taken away."""
        _, cases = found.design.split()
        finals = {final.trial: final for final in found.finals}
        if not await self._jobs.move(job, State.VALIDATING):
            return None
        for number, settings in ((0, _IN_USE), *((one.trial, one.settings) for one in finalists)):
            if number in finals:
                continue
            finals[number] = await self._measured(target, number, settings, cases)
            if not await self._jobs.add(job, finals[number], held_out=True):
                return None
        return [finals[number] for number in (0, *(one.trial for one in finalists))]

    async def _measured(self, target: Target, number: int, settings: Settings, cases: tuple[Case, ...]) -> Trial:
        return Trial(number, settings, await measure(target, settings, cases))

    async def _decide(self, job: Job, found: Optimization) -> None:
        winner, note = winner_of(found)
        if winner is None:
            await self._jobs.end(job, State.SUCCEEDED, note)
            return
        design, author = draft_of(found, winner)
        try:
            made = await self._experiments.create(design, author.request_id, author)
        except Failure as failure:
            if failure.reason in OUTAGES:
                raise
            await self._jobs.end(job, State.FAILED, f"its experiment cannot be made: {failure.message}", winner.trial)
            return
        await self._jobs.end(job, State.SUCCEEDED, note, winner.trial, made.id)
