"""Who may work now, who waits and who is sent away, so that overload is a clear answer and never a slow death.

There is room for so many requests at once. Each class of priority has a share of it that no other class may take; the rest
goes to the highest class that waits, but first to whoever has waited past the class's patience. A tenant may hold only so
much of the room; what it asks for beyond that waits beside the queues, in nobody's way. Taking and giving back a permit costs
some microseconds, whatever the length of the queues.

Several processes may share the room (see `workers.ledger`): all limits hold over all of them, and their queues are one queue.
Each process serves its own requests; who gives a permit back rings the process whose request is next. One event loop a process.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final, Self

from services.chassis.errors import Failure, Reason
from services.inference.workers.ledger import IN_USE, WAITING, Ledger, Shape
from services.inference.workers.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.inference.workers.turns import Neighbors


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
    """`held` counts permits and places in a line, of this process; `parked` wait for one of them."""

    place: int
    held: int = 0
    parked: OrderedDict[int, _Waiter] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class _Lane:
    """A class at work. `line` holds waiters of this process by id, oldest first."""

    number: int
    limits: Class
    line: OrderedDict[int, _Waiter] = field(default_factory=OrderedDict)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy one class is."""

    in_use: int
    waiting: int


class Ending(StrEnum):
    """How a request's wait for room ended."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    EXPIRED = "expired"
    LEFT = "left"


# How much a finished request counts in the mean time that one takes.
_WEIGHT: Final = 0.05
# Seconds between two looks at which processes are still there, while requests come that find no room.
_REAP_SECONDS: Final = 0.05


class Admission:
    """Hands out permits.

    Args:
        room: How many requests may work at once, at least 1; in all processes that share the ledger together.
        classes: All classes; `classes_for(room)` where not given.
        tenant_room: How many permits one tenant may hold; 0 for no limit. Requests without a tenant have none.
        clock: Gives seconds, the same ones in all processes.
        open_ledger: Opens what is counted in; of this process alone where not given.
        neighbors: The processes that share it; None where there are none.

    Attributes:
        waited: Told how long each request has waited, 0 too, and how that ended: it was ADMITTED; REFUSED, as the queue was
            full; EXPIRED, as it had waited for long enough, or its caller had; or its caller had LEFT.

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
        open_ledger: Callable[[int, str], Ledger] | None = None,
        neighbors: Neighbors | None = None,
    ) -> None:
        classes = classes or classes_for(room)
        reserved = sum(one.reserved for one in classes.values())
        if room < 1 or reserved >= room:
            raise ValueError(f"{reserved} of {room} permits are reserved; at least one must be for all")
        self._room = room
        self._lanes = {priority: _Lane(number, classes[priority]) for number, priority in enumerate(Priority)}
        self._tenant_room = tenant_room
        self._tenants: dict[str, _Tenant] = {}
        self._clock = clock
        self._mean_seconds = 1.0
        self._reaped = 0.0
        self.waited: Callable[[Priority, float, Ending], None] = lambda *_: None
        tenants = _power_of_two(4 * (room + sum(one.queue for one in classes.values()))) if tenant_room else 0
        limits = f"{room} {tenant_room} {sorted(classes.items())}"
        self._ledger = (open_ledger or _private)(tenants, limits)
        self._is_alone = neighbors is None
        self._by_number = list(self._lanes.values())
        self._turns = Turns(self._ledger, [lane.limits for lane in self._by_number], room, clock, neighbors)

    def load(self) -> dict[Priority, Load]:
        """How busy each class is with requests of this process."""
        own = self._ledger.own
        return {priority: Load(own(IN_USE, lane.number), own(WAITING, lane.number)) for priority, lane in self._lanes.items()}

    @property
    def free(self) -> int:
        """Permits that nobody holds."""
        return self._turns.free()

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
        waiter = self._taken_or_lined_up(priority, lane, tenant, now)
        if waiter is None:
            self.waited(priority, 0.0, Ending.ADMITTED)
            return Permit(self, priority, tenant, 0.0, now)
        await self._wait(waiter, lane, most_seconds)
        began = self._clock()
        self.waited(priority, began - now, Ending.ADMITTED)
        return Permit(self, priority, tenant, began - now, began)

    def look(self) -> None:
        """Serves whoever waits here and may go, after something has changed in another process."""
        with self._ledger.turn():
            self._ledger.ask(self._ledger.mine, 0.0)
            if any(party.parked for party in self._tenants.values()):
                self._unpark_all()
            self._hand_out()

    def look_again(self) -> None:
        """As `look`, and first gives back what processes held that are gone; for calling from time to time."""
        if self._is_alone or not self._is_waited_for():
            return
        with self._ledger.turn():
            self._turns.reap()
        self.look()

    def _taken_or_lined_up(self, priority: Priority, lane: _Lane, tenant: str, now: float) -> _Waiter | None:
        """Takes a permit, or gives the place in a queue."""
        ledger = self._ledger
        with ledger.turn():
            party = self._party(tenant)
            if self._goes_first(lane, party):
                self._take(lane)
                if party is not None:
                    self._hold(party, 1)
                return None
            if not self._is_alone and now - self._reaped >= _REAP_SECONDS:
                # What keeps it waiting may be what a process held that is gone.
                self._reaped = now
                if self._turns.reap():
                    self._hand_out()
                    if self._goes_first(lane, party):
                        self._take(lane)
                        if party is not None:
                            self._hold(party, 1)
                        return None
            if ledger.total(WAITING, lane.number) >= lane.limits.queue:
                self._forget(tenant, party)
                self.waited(priority, 0.0, Ending.REFUSED)
                raise self._refusal(priority, f"all {lane.limits.queue} places of its queue are taken")
            waiter = _Waiter(priority, tenant, now, now, asyncio.get_running_loop().create_future())
            ledger.add(WAITING, lane.number, 1)
            self._line_up(waiter, lane, party)
            return waiter

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
                with self._ledger.turn():
                    self._withdraw(waiter, lane)
                    self._hand_out()
            is_late = isinstance(error, TimeoutError)
            self.waited(waiter.priority, self._clock() - waiter.arrived, Ending.EXPIRED if is_late else Ending.LEFT)
            if not is_late:
                raise
            if is_callers:
                raise Failure(
                    Reason.DEADLINE_EXCEEDED, "the time allowed for this call has passed while it waited for room"
                ) from None
            raise self._refusal(waiter.priority, f"it has waited {limit:g} s for its turn") from None

    def _is_waited_for(self) -> bool:
        return any(self._ledger.own(WAITING, lane.number) for lane in self._lanes.values())

    def _goes_first(self, lane: _Lane, party: _Tenant | None) -> bool:
        """Whether a request that has just come may work at once: there is room, and nobody waits for it."""
        if self._turns.line_of(lane.number) is not None or not self._has_room(party):
            return False
        free = self._turns.free()
        # Also where another process has yet to take what is its.
        return self._turns.may_take(lane.number, free, self._turns.kept()) and (
            self._is_alone or self._turns.next(free) is None
        )

    def _party(self, tenant: str) -> _Tenant | None:
        if not tenant or not self._tenant_room:
            return None
        known = self._tenants.get(tenant)
        if known is None:
            known = self._tenants[tenant] = _Tenant(self._ledger.place_of(tenant))
        return known

    def _has_room(self, party: _Tenant | None) -> bool:
        """Whether the tenant may have one more, and none of its own waits for that already."""
        if party is None:
            return True
        return self._ledger.held(party.place) < self._tenant_room and self._turns.parked_first(party.place) is None

    def _forget(self, tenant: str, party: _Tenant | None) -> None:
        if party is not None and not party.held and not party.parked:
            self._tenants.pop(tenant, None)

    def _hold(self, party: _Tenant, change: int) -> None:
        party.held += change
        self._ledger.hold(party.place, change)

    def _line_up(self, waiter: _Waiter, lane: _Lane, party: _Tenant | None) -> None:
        if self._has_room(party):
            if party is not None:
                self._hold(party, 1)
            self._into_line(waiter, lane)
        elif party is not None:
            party.parked[id(waiter)] = waiter
            self._tell_parked(party)

    def _into_line(self, waiter: _Waiter, lane: _Lane) -> None:
        lane.line[id(waiter)] = waiter
        self._tell_head(lane)

    def _tell_head(self, lane: _Lane) -> None:
        first = next(iter(lane.line.values()), None)
        self._ledger.set_head(lane.number, 0.0 if first is None else first.lined_up)

    def _tell_parked(self, party: _Tenant) -> None:
        first = next(iter(party.parked.values()), None)
        self._ledger.set_parked(party.place, 0.0 if first is None else first.arrived)

    def _withdraw(self, waiter: _Waiter, lane: _Lane) -> None:
        """Takes a waiter out of wherever it waits; nothing happens where it waits no more."""
        party = self._tenants.get(waiter.tenant)
        if lane.line.pop(id(waiter), None) is not None:
            self._ledger.add(WAITING, lane.number, -1)
            self._tell_head(lane)
            if party is not None:
                self._give_up_hold(waiter.tenant, party)
        elif party is not None and party.parked.pop(id(waiter), None) is not None:
            self._ledger.add(WAITING, lane.number, -1)
            self._tell_parked(party)
            self._forget(waiter.tenant, party)

    def _give_up_hold(self, tenant: str, party: _Tenant) -> None:
        self._hold(party, -1)
        self._unpark(party)
        self._forget(tenant, party)

    def _unpark(self, party: _Tenant) -> None:
        """Lets the tenant's surplus into the lines, as far as it may; asks another process to where its turn is there."""
        while self._ledger.held(party.place) < self._tenant_room and (row := self._turns.parked_first(party.place)) is not None:
            if row != self._ledger.mine:
                if self._turns.asks(row):
                    return
                continue
            _, waiter = party.parked.popitem(last=False)
            self._tell_parked(party)
            self._hold(party, 1)
            # Its patience counts from here: it was its own tenant that it waited for.
            waiter.lined_up = self._clock()
            self._into_line(waiter, self._lanes[waiter.priority])

    def _unpark_all(self) -> None:
        for party in list(self._tenants.values()):
            if party.parked:
                self._unpark(party)

    def _take(self, lane: _Lane) -> None:
        self._ledger.add(IN_USE, lane.number, 1)

    def _leave(self, permit: Permit, tenant: str) -> None:
        self._mean_seconds += _WEIGHT * (self._clock() - permit.since - self._mean_seconds)
        with self._ledger.turn():
            self._ledger.add(IN_USE, self._lanes[permit.priority].number, -1)
            party = self._tenants.get(tenant)
            if party is not None:
                self._give_up_hold(tenant, party)
            self._hand_out()

    def _hand_out(self) -> None:
        """Serves those who wait, in their order; where the next one waits in another process, that one is asked to go on."""
        while (free := self._turns.free()) > 0 and (following := self._turns.next(free)) is not None:
            row, number = following
            if row != self._ledger.mine:
                if self._turns.asks(row):
                    return
                continue
            lane = self._by_number[number]
            waiter = next(iter(lane.line.values()))
            if waiter.granted.cancelled():
                # Its task has been cancelled, but has not run since.
                self._withdraw(waiter, lane)
                continue
            del lane.line[id(waiter)]
            self._ledger.add(WAITING, lane.number, -1)
            self._tell_head(lane)
            self._take(lane)
            waiter.granted.set_result(None)

    def _refusal(self, priority: Priority, why: str) -> Failure:
        ahead = sum(self._ledger.total(WAITING, lane.number) for one, lane in self._lanes.items() if one <= priority)
        wait = min(60.0, max(1.0, self._mean_seconds * (ahead + 1) / self._room))
        message = (
            f"there is more work than room for requests of priority {priority.name}: {why}; try again in about {wait:.0f} s"
        )
        return Failure(Reason.OVERLOADED, message, metadata={"priority": priority.name}, retry_after=wait)


def _private(tenants: int, limits: str) -> Ledger:
    return Ledger.private(Shape(1, tenants, limits))


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
