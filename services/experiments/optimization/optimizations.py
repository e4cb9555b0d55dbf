"""Optimizations: what is decided at their creation, and what becomes of them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass, replace
from datetime import datetime  # noqa: TC003 - pydantic reads the store's rows by these types
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from penstock.assignment import RequestType, Settings, Unit

from services.chassis.call import current_call
from services.chassis.errors import Failure, Reason
from services.experiments.optimization.design_check import check
from services.experiments.optimization.measuring import Case, Measures, Objective  # noqa: TC001 - as above
from services.experiments.optimization.pareto import best, front
from services.experiments.optimization.space import Space  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

DEFAULT_PAGE: Final = 50
_WATCH_SECONDS: Final = 0.5


class Kind(StrEnum):
    """What it changes: see the proto's OptimizationType."""

    HYPERPARAMETER_TUNING = "HYPERPARAMETER_TUNING"
    PROMPT = "PROMPT"
    QUANTIZATION = "QUANTIZATION"
    PRUNING = "PRUNING"


class State(StrEnum):
    """Where it is in its life."""

    PENDING = "PENDING"
    SEARCHING = "SEARCHING"
    VALIDATING = "VALIDATING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


@dataclass(frozen=True)
class Design:
    """What whoever creates an optimization decides: see the proto's Optimization."""

    optimization: str
    kind: Kind
    request_type: RequestType
    space: Space
    cases: tuple[Case, ...]
    objectives: tuple[Objective, ...]
    collections: tuple[str, ...] = ()
    trials: int = 20
    finalists: int = 3
    holdout_share: float = 0.3
    seed: int = 0
    call_seconds: float = 60.0
    unit: Unit = Unit.USER

    def search_count(self) -> int:
        """How many settings are tried."""
        return int(min(self.trials, self.space.size()))

    def planned(self) -> int:
        """Most measurements that there will be: the search, the settings in use, and the finalists."""
        return self.search_count() + 1 + min(self.finalists, self.search_count())

    def split(self) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """The questions to search with, and those that are held out: at least one each, by lot from the seed."""
        cases = list(self.cases)
        random.Random(self.seed).shuffle(cases)  # noqa: S311 - no secret
        out = min(len(cases) - 1, max(1, round(self.holdout_share * len(cases))))
        return tuple(cases[out:]), tuple(cases[:out])


@dataclass(frozen=True)
class Caller:
    """On whose behalf it works: as in `services.chassis.call.Call`."""

    tenant: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    scopes: str = ""
    key: str = ""


@dataclass(frozen=True)
class Trial:
    """A setting that was measured. Number 0 are the settings in use."""

    trial: int
    settings: Settings
    measures: Measures
    finish_time: datetime | None = None


@dataclass(frozen=True)
class Optimization:
    """A stored optimization. Times are aware and in UTC.

    Attributes:
        uid: Its number in the store.
        design: What was decided at its creation.
        caller: On whose behalf it works.
        state: Where it is in its life.
        create_time: When it was created.
        end_time: When it ended.
        trials: What was tried, in that order.
        finals: What was measured on the questions held out.
        winner: Number of the trial that won.
        experiment: Id of the experiment in DRAFT.
        note: Why it waits, failed, or ended without a winner.
        finished: How many measurements are kept.
    """

    uid: int
    design: Design
    caller: Caller
    state: State
    create_time: datetime
    end_time: datetime | None = None
    trials: tuple[Trial, ...] = ()
    finals: tuple[Trial, ...] = ()
    winner: int | None = None
    experiment: str = ""
    note: str = ""
    finished: int = 0

    def losses(self, trial: Trial) -> tuple[float, ...]:
        """Of a trial whose objectives are all known."""
        found = trial.measures.losses(self.design.objectives)
        if found is None:
            raise ValueError(f"an objective of trial {trial.trial} is unknown")
        return found

    def comparable(self) -> list[Trial]:
        """The trials whose objectives are all known."""
        return [trial for trial in self.trials if trial.measures.losses(self.design.objectives) is not None]

    def front(self) -> list[Trial]:
        """The Pareto front so far."""
        return front(self.comparable(), self.losses)

    def finalists(self) -> list[Trial]:
        """Those to measure again."""
        return best(self.comparable(), self.losses, self.design.finalists)

    def draft(self) -> Optimization:
        """As it was when it was created."""
        return replace(
            self, state=State.PENDING, end_time=None, trials=(), finals=(), winner=None, experiment="", note="", finished=0
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Some optimizations, newest first, and where the next page begins; None after the last."""

    optimizations: tuple[Optimization, ...]
    next_before: int | None


class Records(Protocol):
    """Keeps optimizations. Each method raises Failure(DATABASE_UNAVAILABLE)."""

    async def create(self, design: Design, caller: Caller, request_id: str, fingerprint: str) -> Optimization:
        """Stores it, or returns the earlier one that the same request made.

        Raises:
            Failure: OPTIMIZATION_ALREADY_EXISTS, REQUEST_ID_REUSED.
        """
        ...

    async def get(self, tenant: str, optimization: str) -> Optimization | None:
        """One of the tenant's."""
        ...

    async def page(self, tenant: str, size: int, before: int | None) -> Page:
        """The tenant's, newest first, without their trials."""
        ...

    async def cancel(self, tenant: str, optimization: str) -> None:
        """Ends one that has not ended."""
        ...


class Reach(Protocol):
    """Knows which live services can be asked."""

    def check(self, request_type: RequestType) -> None:
        """Raises Failure(OPTIMIZATION_UNSUPPORTED) where those for such calls cannot."""
        ...


class Optimizations:
    """Creates optimizations and tells how they go on; workers do the work.

    Args:
        records: Keeps them.
        reach: Knows which live services can be asked.
        wake: Called when there is something to do.
        is_draining: Whether the process is about to stop.
    """

    def __init__(self, records: Records, reach: Reach, wake: Callable[[], None], is_draining: Callable[[], bool]) -> None:
        self._records = records
        self._reach = reach
        self._wake = wake
        self._is_draining = is_draining

    async def create(self, design: Design, request_id: str = "") -> Optimization:
        """Stores a new one, or returns the earlier one where `request_id` was used for the same before.

        Raises:
            Failure: INVALID_FIELD with all that is wrong, OPTIMIZATION_UNSUPPORTED, PERMISSION_DENIED,
                OPTIMIZATION_ALREADY_EXISTS, REQUEST_ID_REUSED.
        """
        check(design, request_id)
        self._reach.check(design.request_type)
        call = current_call()
        caller = Caller(call.tenant, call.user, call.groups, call.scopes, call.key)
        _check_scopes(design, caller)
        made = await self._records.create(design, caller, request_id, hashlib.sha256(repr(design).encode()).hexdigest())
        self._wake()
        return made.draft()

    async def get(self, optimization: str) -> Optimization:
        """One of the caller's tenant. Raises Failure(OPTIMIZATION_NOT_FOUND)."""
        found = await self._records.get(current_call().tenant, optimization)
        if found is None:
            raise Failure(
                Reason.OPTIMIZATION_NOT_FOUND,
                f"there is no optimization {optimization!r}; ListOptimizations names those there are",
                metadata={"optimization": optimization},
            )
        return found

    async def page(self, size: int, before: int | None) -> Page:
        """Up to `size` of the caller's tenant, newest first, without their trials; size 0 means 50."""
        return await self._records.page(current_call().tenant, size or DEFAULT_PAGE, before)

    async def watch(self, optimization: str) -> AsyncGenerator[Optimization, None]:
        """Each time that it has changed, until it has ended. Raises Failure(OPTIMIZATION_NOT_FOUND, SHUTTING_DOWN)."""
        last = None
        while True:
            now = await self.get(optimization)
            if now != last:
                yield now
                last = now
            if now.state in ENDED:
                return
            if self._is_draining():
                raise Failure(Reason.SHUTTING_DOWN, "the server is shutting down; watch again", retry_after=1)
            await asyncio.sleep(_WATCH_SECONDS)

    async def cancel(self, optimization: str) -> Optimization:
        """Ends one; one that has ended stays as it is. Raises Failure(OPTIMIZATION_NOT_FOUND)."""
        await self._records.cancel(current_call().tenant, optimization)
        return await self.get(optimization)


def _check_scopes(design: Design, caller: Caller) -> None:
    """Its calls are made in the caller's name, past the gateway: so the key must be good for them, where keys are demanded."""
    needed = "retrieval:read" if design.request_type is RequestType.ANSWER else "inference"
    if caller.scopes and needed not in caller.scopes.split():
        raise Failure(
            Reason.PERMISSION_DENIED,
            f"the key lacks the scope {needed}, which the calls of this optimization ask for",
            metadata={"key": caller.key, "scope": needed},
        )
