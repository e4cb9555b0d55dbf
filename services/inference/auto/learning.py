"""Takes in what becomes of routed requests, and learns from it now and then, off the way of requests.

Records are buffered and written every second: a process that is killed loses those of its last second. Feedback is written
before it is acknowledged. Of the processes that share the records one at a time fits; all take over what it has found.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, Self
from uuid import uuid4

from services.chassis.errors import Failure, Reason
from services.inference.auto.fitting import Fitted, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from services.inference.auto.records import Feedback, Outcome, Record, Records
    from services.inference.policy import Policy, Routing

_log = logging.getLogger(__name__)

# Records that wait to be written; more of them within a second are left out, and counted.
_MOST_WAITING: Final = 4096
# Share of new records and rewards from which fitting again is worth while, and how many at least.
_WORTH: Final = 0.05
_LEAST: Final = 20
# Fewer than that are taken in after so many seconds.
_PATIENCE: Final = 60.0
# Fitting takes at most this share of the time.
_DUTY: Final = 0.05
_LEASE_SECONDS: Final = 60.0


class Learning:
    """Keeps fits of the aliases that are routed by what is recorded.

    Args:
        records: Where everything is kept.
        policy: Gives the policy in force.
        seconds: How often to write, and to look for something new.
    """

    def __init__(self, records: Records, policy: Callable[[], Policy], seconds: float = 1.0) -> None:
        self._records = records
        self._policy = policy
        self._seconds = seconds
        self._waiting: list[Record] = []
        self._given: list[tuple[Feedback, asyncio.Future[bool]]] = []
        self._fits: dict[str, Fitted] = {}
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._giving: asyncio.Task[None] | None = None
        self._rest_until = 0.0
        self._is_away = False
        self.dropped = 0
        self.written = 0

    async def __aenter__(self) -> Self:
        """Reads what has been learned, and goes on learning."""
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Writes what waits, and stops."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._giving is not None:
            await self._giving
        try:
            await self._write()
        except Failure:
            _log.warning("%d records of routing are lost: their file cannot be written", len(self._waiting))
        await self._records.close()

    def fitted(self, alias: str) -> Fitted | None:
        """The fit in force; None where nothing has been learned."""
        return self._fits.get(alias)

    def fits(self) -> Mapping[str, Fitted]:
        """All of them, by alias. Never changed in place, for it may be read from another thread."""
        return self._fits

    def record(self, record: Record) -> None:
        """Takes in what became of a request. Waits for nothing."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(record)
        else:
            self.dropped += 1

    async def feedback(self, feedback: Feedback) -> bool:
        """Takes in feedback, durably once this returns; tells whether its request is known. Raises DATABASE_UNAVAILABLE."""
        known: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._given.append((feedback, known))
        if self._giving is None or self._giving.done():
            self._giving = asyncio.create_task(self._write_feedback())
        return await known

    async def standings(self, name: str = "") -> list[Standing]:
        """How an alias with routing stands, or all of them. Raises ALIAS_NOT_FOUND, DATABASE_UNAVAILABLE."""
        routed = _routed(self._policy())
        if name:
            routed = {name: _named(name, routed)}
        # Another process may have fitted a moment ago.
        self._fits = await self._records.fits()
        changes = await self._records.changes()
        return [self._standing(one, routing, changes) for one, routing in routed.items()]

    async def calibrate(self, name: str) -> Standing:
        """Fits an alias now. Raises ALIAS_NOT_FOUND, DATABASE_UNAVAILABLE."""
        routing = _named(name, _routed(self._policy()))
        async with self._turn:
            await self._write()
            changes = await self._records.changes()
            self._fits = await self._records.fits()
            known = self._fits.get(name)
            if known is None or known.changes != changes or known.good != routing.good:
                await self._fit(name, routing)
        return self._standing(name, routing, changes)

    async def _go_on(self) -> None:
        while True:
            try:
                await self._step()
                self._is_away = False
            except Failure as failure:
                if not self._is_away:
                    _log.warning("routing learns nothing for now: %s", failure.message)
                self._is_away = True
            except Exception:  # noqa: BLE001 - a defect must not end learning for good, nor silently
                _log.exception("routing cannot learn, by a defect")
                self._rest_until = time.monotonic() + _PATIENCE
            await asyncio.sleep(self._seconds)

    async def _step(self) -> None:
        routed = _routed(self._policy())
        if not routed and not self._waiting:
            return
        async with self._turn:
            await self._write()
            changes = await self._records.changes()
            if not changes:
                return
            self._fits = await self._records.fits()
            due = {name: routing for name, routing in routed.items() if self._is_due(name, routing, changes)}
            if not due or time.monotonic() < self._rest_until or not await self._records.lease(_LEASE_SECONDS):
                return
            for name, routing in due.items():
                await self._fit(name, routing)

    def _is_due(self, name: str, routing: Routing, changes: int) -> bool:
        known = self._fits.get(name)
        if known is None or known.good != routing.good:
            return True
        new = changes - known.changes
        return new >= max(_LEAST, _WORTH * known.records) or (new > 0 and time.time() - known.time > _PATIENCE)

    async def _fit(self, name: str, routing: Routing) -> None:
        began = time.monotonic()
        changes = await self._records.changes()
        outcomes = await self._records.outcomes(name)
        fitted = await asyncio.to_thread(fit, outcomes, routing, changes)
        await self._records.keep(name, fitted)
        self._fits = {**self._fits, name: fitted}
        took = time.monotonic() - began
        self._rest_until = time.monotonic() + took / _DUTY
        _log.debug("routing of %s has been fitted to %d records in %.2f s", name, len(outcomes), took)

    async def _write(self) -> None:
        waiting = self._waiting
        if waiting:
            self._waiting = []
            try:
                await self._records.add(waiting)
            except BaseException:
                self._waiting = (waiting + self._waiting)[:_MOST_WAITING]
                raise
            self.written += len(waiting)

    async def _write_feedback(self) -> None:
        """Writes what has gathered, in one transaction; then what has gathered meanwhile."""
        while self._given:
            given, self._given = self._given, []
            try:
                known = await self._records.add_feedback([one for one, _ in given])
            except Exception as error:  # noqa: BLE001 - goes to each of those who wait for it
                for _, future in given:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), one in zip(given, known, strict=True):
                if not future.done():
                    future.set_result(one)

    def _standing(self, name: str, routing: Routing, changes: int) -> Standing:
        fitted = self._fits.get(name)
        alias = self._policy().aliases.get(name)
        models = tuple(one.model for one in alias.models) if alias else ()
        newer = changes - (fitted.changes if fitted else 0)
        return Standing(name, fitted, newer, models, routing.target, routing.outcomes)


def fit(outcomes: Sequence[Outcome], routing: Routing, changes: int) -> Fitted:
    """Learns from all outcomes of an alias."""
    # numpy takes memory that a suite without routing by records need not pay.
    from services.inference.auto import bandit, calibration  # noqa: PLC0415 - brings numpy

    judged = calibration.Judged(outcomes)
    return Fitted(
        revision=uuid4().hex[:12],
        time=time.time(),
        changes=changes,
        records=len(outcomes),
        good=routing.good,
        calibration=calibration.calibrate(outcomes, judged, routing.good),
        lesson=bandit.learn(outcomes, judged, routing.outcomes),
    )


def _routed(policy: Policy) -> dict[str, Routing]:
    return {name: alias.routing for name, alias in policy.aliases.items() if alias.routing is not None}


def _named(name: str, routed: Mapping[str, Routing]) -> Routing:
    if name not in routed:
        message = f"alias: the policy has no {name!r} with `routing`; GetPolicy tells its aliases"
        raise Failure(Reason.ALIAS_NOT_FOUND, message, metadata={"alias": name})
    return routed[name]
