"""Who may work now, who waits and who is sent away, so that overload is a clear answer and never a slow death.

There is room for so many requests at once. Each class of priority has a share of it that no other class may take; the rest
goes to the highest class that waits, but first to whoever has waited past the class's patience. A tenant may hold only so
much of the room; what it asks for beyond that waits beside the queues, in nobody's way. Taking and giving back a permit costs
a few dictionary operations, whatever the length of the queues. One event loop only.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Priority(IntEnum):
    """Classes, the highest first."""

    SYSTEM = 1
    INTERACTIVE = 2
    DEFAULT = 3
    BULK = 4


@dataclass(frozen=True, slots=True)
class Class:
    """How a class is treated.

    Attributes:
        reserved: Permits that no other class may take.
        queue: Most requests that wait.
        queue_seconds: How long one may wait before it is sent away.
        patience: Seconds of waiting after which one goes before all other classes.
    """

    reserved: int
    queue: int
    queue_seconds: float
    patience: float


def classes_for(room: int) -> dict[Priority, Class]:
    """The classes of a service with this much room: a sixteenth, a quarter and a tenth of it are reserved, nothing for bulk."""
    return {
        Priority.SYSTEM: Class(room // 16, 64, 30.0, 5.0),
        Priority.INTERACTIVE: Class(room // 4, 256, 30.0, 5.0),
        Priority.DEFAULT: Class(room // 10, 512, 60.0, 30.0),
        Priority.BULK: Class(0, 1024, 300.0, 120.0),
    }


class Permit:
    """The right to work; given back by `release`, or by leaving its `with` block. Giving it back twice does no harm."""

    __slots__ = ("_admission", "_tenant", "priority", "queued", "since")

    def __init__(self, admission: Admission, priority: Priority, tenant: str, queued: float, since: float) -> None:
        self._admission: Admission | None = admission
        self._tenant = tenant
        self.priority = priority
        self.queued = queued
        self.since = since

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the permit back, and with it the place to the next in line."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._leave(self, self._tenant)  # noqa: SLF001 - two halves of one thing


@dataclass(slots=True, eq=False)
class _Waiter:
    priority: Priority
    tenant: str
    arrived: float
    lined_up: float
    granted: asyncio.Future[None]


@dataclass(slots=True)
class _Tenant:
    """`held` counts permits and places in a line; `parked` wait for one of them."""

    held: int = 0
    parked: OrderedDict[int, _Waiter] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class _Lane:
    """A class at work. `line` holds waiters by id, oldest first; `waiting` also counts those parked at their tenants."""

    limits: Class
    in_use: int = 0
    waiting: int = 0
    line: OrderedDict[int, _Waiter] = field(default_factory=OrderedDict)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy one class is."""

    in_use: int
    waiting: int


# How much a finished request counts in the mean time that one takes.
_WEIGHT: Final = 0.05


class Admission:
    """Hands out permits.

    Args:
        room: How many requests may work at once, at least 1.
        classes: All classes; `classes_for(room)` where not given.
        tenant_room: How many permits one tenant may hold; 0 for no limit. Requests without a tenant have none.
        clock: Gives seconds.

    Raises:
        ValueError: The reserved permits leave no room for the rest.
    """

    def __init__(
        self,
        room: int,
        classes: Mapping[Priority, Class] | None = None,
        *,
        tenant_room: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        classes = classes or classes_for(room)
        reserved = sum(one.reserved for one in classes.values())
        if room < 1 or reserved >= room:
            raise ValueError(f"{reserved} of {room} permits are reserved; at least one must be for all")
        self._room = room
        self._lanes = {priority: _Lane(classes[priority]) for priority in Priority}
        self._tenant_room = tenant_room
        self._tenants: dict[str, _Tenant] = {}
        self._clock = clock
        self._free = room
        # Permits that are free, but kept for a class that is not using them at the moment.
        self._kept = reserved
        self._mean_seconds = 1.0

    def load(self) -> dict[Priority, Load]:
        """How busy each class is."""
        return {priority: Load(lane.in_use, lane.waiting) for priority, lane in self._lanes.items()}

    @property
    def free(self) -> int:
        """Permits that nobody holds."""
        return self._free

    async def enter(self, priority: Priority, tenant: str = "", most_seconds: float | None = None) -> Permit:
        """Waits for a permit. Cancelling gives the place in the line up at once.

        Args:
            priority: The request's class.
            tenant: Whose request it is; empty for nobody's.
            most_seconds: How long the caller may wait at all; None leaves it at the class's limit.

        Raises:
            Failure: OVERLOADED, with `retry_after`: the class's queue is full, or the class's time to wait is over;
                DEADLINE_EXCEEDED: the caller's is.
        """
        now = self._clock()
        lane = self._lanes[priority]
        party = self._party(tenant)
        if (party is None or party.held < self._tenant_room) and not lane.line and self._may_take(lane):
            self._take(lane)
            if party is not None:
                party.held += 1
            return Permit(self, priority, tenant, 0.0, now)
        if lane.waiting >= lane.limits.queue:
            self._forget(tenant, party)
            raise self._refusal(priority, f"all {lane.limits.queue} places of its queue are taken")
        waiter = _Waiter(priority, tenant, now, now, asyncio.get_running_loop().create_future())
        lane.waiting += 1
        self._line_up(waiter, lane, party)
        await self._wait(waiter, lane, most_seconds)
        return Permit(self, priority, tenant, self._clock() - now, self._clock())

    async def _wait(self, waiter: _Waiter, lane: _Lane, most_seconds: float | None) -> None:
        limit = lane.limits.queue_seconds
        is_callers = most_seconds is not None and most_seconds < limit
        try:
            async with asyncio.timeout(most_seconds if is_callers else limit):
                await waiter.granted
        except BaseException as error:
            if waiter.granted.done() and not waiter.granted.cancelled():
                # Given in the moment of leaving: hand it on.
                Permit(self, waiter.priority, waiter.tenant, 0.0, self._clock()).release()
            else:
                self._withdraw(waiter, lane)
                self._hand_out()
            if not isinstance(error, TimeoutError):
                raise
            if is_callers:
                raise Failure(
                    Reason.DEADLINE_EXCEEDED, "the time allowed for this call has passed while it waited for room"
                ) from None
            raise self._refusal(waiter.priority, f"it has waited {limit:g} s for its turn") from None

    def _party(self, tenant: str) -> _Tenant | None:
        if not tenant or not self._tenant_room:
            return None
        return self._tenants.setdefault(tenant, _Tenant())

    def _forget(self, tenant: str, party: _Tenant | None) -> None:
        if party is not None and not party.held and not party.parked:
            self._tenants.pop(tenant, None)

    def _line_up(self, waiter: _Waiter, lane: _Lane, party: _Tenant | None) -> None:
        if party is None:
            lane.line[id(waiter)] = waiter
        elif party.held < self._tenant_room:
            party.held += 1
            lane.line[id(waiter)] = waiter
        else:
            party.parked[id(waiter)] = waiter

    def _withdraw(self, waiter: _Waiter, lane: _Lane) -> None:
        """Takes a waiter out of wherever it waits; nothing happens where it waits no more."""
        party = self._tenants.get(waiter.tenant)
        if lane.line.pop(id(waiter), None) is not None:
            lane.waiting -= 1
            if party is not None:
                self._give_up_hold(waiter.tenant, party)
        elif party is not None and party.parked.pop(id(waiter), None) is not None:
            lane.waiting -= 1
            self._forget(waiter.tenant, party)

    def _give_up_hold(self, tenant: str, party: _Tenant) -> None:
        party.held -= 1
        if party.parked:
            _, waiter = party.parked.popitem(last=False)
            party.held += 1
            # Its patience counts from here: it was its own tenant that it waited for.
            waiter.lined_up = self._clock()
            self._lanes[waiter.priority].line[id(waiter)] = waiter
        else:
            self._forget(tenant, party)

    def _may_take(self, lane: _Lane) -> bool:
        return self._free > 0 and (lane.in_use < lane.limits.reserved or self._free > self._kept)

    def _take(self, lane: _Lane) -> None:
        self._free -= 1
        if lane.in_use < lane.limits.reserved:
            self._kept -= 1
        lane.in_use += 1

    def _leave(self, permit: Permit, tenant: str) -> None:
        lane = self._lanes[permit.priority]
        lane.in_use -= 1
        if lane.in_use < lane.limits.reserved:
            self._kept += 1
        self._free += 1
        self._mean_seconds += _WEIGHT * (self._clock() - permit.since - self._mean_seconds)
        party = self._tenants.get(tenant)
        if party is not None:
            self._give_up_hold(tenant, party)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free and (waiter := self._next()) is not None:
            lane = self._lanes[waiter.priority]
            if waiter.granted.cancelled():
                # Its task has been cancelled, but has not run since.
                self._withdraw(waiter, lane)
                continue
            del lane.line[id(waiter)]
            lane.waiting -= 1
            self._take(lane)
            waiter.granted.set_result(None)

    def _next(self) -> _Waiter | None:
        """Who is served next: the longest-waiting of those past their patience, else the first of the highest class."""
        now = self._clock()
        first: _Waiter | None = None
        impatient: _Waiter | None = None
        for lane in self._lanes.values():
            if not lane.line or not self._may_take(lane):
                continue
            waiter = next(iter(lane.line.values()))
            first = first or waiter
            is_impatient = now - waiter.lined_up >= lane.limits.patience
            if is_impatient and (impatient is None or waiter.lined_up < impatient.lined_up):
                impatient = waiter
        return impatient or first

    def _refusal(self, priority: Priority, why: str) -> Failure:
        ahead = sum(lane.waiting for one, lane in self._lanes.items() if one <= priority)
        wait = min(60.0, max(1.0, self._mean_seconds * (ahead + 1) / self._room))
        message = (
            f"there is more work than room for requests of priority {priority.name}: {why}; try again in about {wait:.0f} s"
        )
        return Failure(Reason.OVERLOADED, message, metadata={"priority": priority.name}, retry_after=wait)
