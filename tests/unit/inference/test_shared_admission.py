"""Several processes that share one room, simulated: each has an `Admission` over the same memory, and may be killed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Failure, Reason
from services.inference.admission import Admission, Class, Priority
from services.inference.workers.ledger import Ledger, Shape, size_of

if TYPE_CHECKING:
    import pytest

    from services.inference.admission import Permit

WORKERS, ROOM, TENANT_ROOM, TENANTS = 3, 6, 3, 256
CLASSES = {
    Priority.SYSTEM: Class(1, 3, 50.0, 2.0),
    Priority.INTERACTIVE: Class(2, 4, 50.0, 4.0),
    Priority.DEFAULT: Class(1, 5, 50.0, 8.0),
    Priority.BULK: Class(0, 6, 50.0, 16.0),
}

WORKER = st.integers(0, WORKERS - 1)
ENTER = st.tuples(st.just("enter"), WORKER, st.sampled_from(Priority), st.sampled_from(["", "a", "b"]))
ENDS = st.tuples(st.sampled_from(["release", "cancel"]), st.integers(0, 30), st.none(), st.none())
RINGS = st.tuples(st.just("ring"), st.integers(0, 5), st.none(), st.none())
PASSES = st.tuples(st.just("pass"), st.integers(0, 20), st.none(), st.none())
KILLS = st.tuples(st.just("kill"), WORKER, st.none(), st.none())


@dataclass
class Request:
    worker: int
    priority: Priority
    tenant: str
    task: asyncio.Task[Permit]


@dataclass
class House:
    """The processes, and the bells that are rung but not yet heard."""

    workers: int = WORKERS
    room: int = ROOM
    tenant_room: int = TENANT_ROOM
    classes: dict[Priority, Class] = field(default_factory=lambda: CLASSES)
    now: float = 100.0
    bells: list[int] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    waiting: list[Request] = field(default_factory=list)
    held: list[tuple[Request, Permit]] = field(default_factory=list)
    ghosts: list[Permit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = bytearray(size_of(Shape(self.workers, TENANTS, "")))
        self.admissions = [self.born(worker) for worker in range(self.workers)]

    def born(self, worker: int) -> Admission:
        def opened(_tenants: int, _limits: str) -> Ledger:
            ledger = Ledger(Shape(self.workers, TENANTS, ""), worker, self.memory)
            ledger.empty(worker)
            return ledger

        return Admission(
            self.room,
            self.classes,
            tenant_room=self.tenant_room,
            clock=lambda: self.now,
            open_ledger=opened,
            neighbors=self,
        )

    def lives(self, row: int) -> bool:
        return row not in self.dead

    def ring(self, row: int) -> bool:
        if row in self.dead:
            return False
        self.bells.append(row)
        return True

    async def enter(self, worker: int, priority: Priority, tenant: str = "") -> Request:
        task = asyncio.create_task(self.admissions[worker].enter(priority, tenant))
        request = Request(worker, priority, tenant, task)
        self.waiting.append(request)
        await self.settle()
        return request

    async def kill(self, worker: int) -> None:
        """The process is gone without a word, and another takes its seat; what it knew is never told."""
        self.dead.add(worker)
        self.ghosts += [permit for request, permit in self.held if request.worker == worker]
        self.held = [one for one in self.held if one[0].worker != worker]
        for request in [one for one in self.waiting if one.worker == worker]:
            self.waiting.remove(request)
            # Of the dead one's memory nothing may reach the ledger any more.
            dead, own = self.admissions[worker], Ledger.private(Shape(self.workers, TENANTS, ""))
            dead._ledger, dead._turns = own, replace(dead._turns, ledger=own)
            request.task.cancel()
        await asyncio.sleep(0)
        self.bells = [row for row in self.bells if row != worker]

    async def hear(self, number: int = 0) -> None:
        if self.bells:
            row = self.bells.pop(number % len(self.bells))
            if row not in self.dead:
                self.admissions[row].look()
        await self.settle()

    async def quiet(self) -> None:
        """All bells are heard, and everyone has looked once more."""
        for _ in range(3):
            self.now += 0.3
            for row in range(self.workers):
                if row not in self.dead:
                    self.admissions[row].look_again()
            while self.bells:
                await self.hear()
            await self.settle()

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        for request in list(self.waiting):
            if not request.task.done():
                continue
            self.waiting.remove(request)
            if request.task.cancelled():
                continue
            failure = request.task.exception()
            if failure is None:
                self.held.append((request, request.task.result()))
            else:
                assert isinstance(failure, Failure)
                assert failure.reason is Reason.OVERLOADED

    def check(self) -> None:
        assert len(self.held) <= ROOM
        in_use = {one: sum(request.priority is one for request, _ in self.held) for one in Priority}
        kept = sum(max(0, CLASSES[one].reserved - in_use[one]) for one in Priority)
        assert ROOM - len(self.held) >= kept, "a share was given away"
        for tenant in "ab":
            assert sum(request.tenant == tenant for request, _ in self.held) <= TENANT_ROOM
        for priority in Priority:
            assert sum(request.priority is priority for request in self.waiting) <= CLASSES[priority].queue

    def check_nobody_waits_in_vain(self) -> None:
        in_use = {one: sum(request.priority is one for request, _ in self.held) for one in Priority}
        kept = {one: max(0, CLASSES[one].reserved - in_use[one]) for one in Priority}
        by_tenant = {tenant: sum(request.tenant == tenant for request, _ in self.held) for tenant in "ab"}
        for request in self.waiting:
            if by_tenant.get(request.tenant, 0) < TENANT_ROOM:
                others = sum(kept.values()) - kept[request.priority]
                lines_up = by_tenant.get(request.tenant, 0) + sum(one.tenant == request.tenant for one in self.waiting)
                assert ROOM - len(self.held) <= others or (request.tenant and lines_up > TENANT_ROOM)

    async def do(self, what: str, first: int, priority: Priority | None, tenant: str | None) -> None:
        if what == "enter":
            assert priority is not None
            if first in self.dead:
                self.admissions[first] = self.born(first)
                self.dead.discard(first)
            await self.enter(first, priority, tenant or "")
        elif what == "release" and self.held:
            request, permit = self.held.pop(first % len(self.held))
            assert request.worker not in self.dead
            permit.release()
        elif what == "cancel" and self.waiting:
            self.waiting[first % len(self.waiting)].task.cancel()
        elif what == "ring":
            await self.hear(first)
        elif what == "pass":
            self.now += first
        elif what == "kill" and first not in self.dead:
            await self.kill(first)
        await self.settle()


@given(st.lists(st.one_of(ENTER, ENTER, ENTER, ENDS, ENDS, RINGS, PASSES, KILLS), max_size=50))
def test_limits_hold_over_all_and_the_dead_hold_nothing(
    steps: list[tuple[str, int, Priority | None, str | None]],
) -> None:
    async def play() -> None:
        house = House()
        for step in steps:
            await house.do(*step)
            house.check()
        await house.quiet()
        house.check()
        house.check_nobody_waits_in_vain()
        while house.held or house.waiting:
            for _, permit in house.held:
                permit.release()
            house.held = []
            await house.settle()
            await house.quiet()
            house.check()
        # A seat that nobody takes again is emptied by whoever finds no room because of it.
        living = next((row for row in range(WORKERS) if row not in house.dead), None)
        if living is not None:
            house.admissions[living]._turns.reap()
            assert house.admissions[living].free == ROOM
            assert not any(house.admissions[living]._ledger.held(place) for place in range(TENANTS))

    asyncio.run(play())


async def test_one_queue_over_all_in_the_order_of_arrival() -> None:
    house = House(room=1, classes={priority: Class(0, 9, 50.0, 60.0) for priority in Priority})
    (first,) = [await house.enter(0, Priority.DEFAULT)]
    later = []
    for worker in (2, 0, 1, 2, 0):
        house.now += 1
        later.append(await house.enter(worker, Priority.DEFAULT))
    order = []
    while house.held:
        request, permit = house.held.pop()
        order.append(request)
        permit.release()
        await house.settle()
        while house.bells:
            await house.hear()
    assert order == [first, *later]


async def test_who_arrives_while_another_process_is_being_asked_waits_behind() -> None:
    house = House(room=1, classes={priority: Class(0, 9, 50.0, 60.0) for priority in Priority})
    await house.enter(0, Priority.DEFAULT)
    waiting = await house.enter(1, Priority.INTERACTIVE)
    house.held.pop()[1].release()
    barging = await house.enter(0, Priority.BULK)
    assert not barging.task.done(), "the permit is the other's, who has not heard of it yet"
    await house.hear()
    assert waiting.task.done()
    house.held.pop()[1].release()
    await house.hear()
    assert barging.task.done()


async def test_a_process_that_hears_nothing_is_passed_over_and_comes_back() -> None:
    house = House(room=1, classes={priority: Class(0, 9, 50.0, 60.0) for priority in Priority})
    await house.enter(0, Priority.DEFAULT)
    deaf = await house.enter(1, Priority.DEFAULT)
    house.now += 1
    patient = await house.enter(2, Priority.DEFAULT)
    house.held.pop()[1].release()
    house.bells.clear()
    house.now += 0.1
    house.admissions[2].look_again()
    await house.settle()
    assert not patient.task.done(), "it may still answer"
    house.now += 0.2
    house.admissions[2].look_again()
    await house.settle()
    assert patient.task.done()
    assert not deaf.task.done()
    house.admissions[1].look()
    house.held.pop()[1].release()
    await house.hear()
    assert deaf.task.done()


async def test_a_tenants_surplus_is_served_in_turn_wherever_it_waits() -> None:
    house = House(room=6, tenant_room=1, classes={priority: Class(0, 9, 50.0, 60.0) for priority in Priority})
    await house.enter(0, Priority.DEFAULT, "a")
    house.now += 1
    elsewhere = await house.enter(1, Priority.DEFAULT, "a")
    house.now += 1
    here = await house.enter(0, Priority.DEFAULT, "a")
    other = await house.enter(2, Priority.DEFAULT, "b")
    assert other.task.done()
    house.held.pop(0)[1].release()
    await house.settle()
    assert not here.task.done(), "the other process's has waited longer"
    await house.hear()
    assert elsewhere.task.done()
    next(permit for request, permit in house.held if request is elsewhere).release()
    await house.hear()
    assert here.task.done()


async def test_what_a_killed_process_held_is_free_for_whoever_finds_no_room() -> None:
    house = House(room=1, classes={priority: Class(0, 9, 50.0, 60.0) for priority in Priority})
    await house.enter(0, Priority.DEFAULT)
    await house.kill(0)
    following = await house.enter(1, Priority.DEFAULT)
    assert following.task.done()


async def test_a_full_queue_is_full_over_all() -> None:
    house = House(room=1, classes={priority: Class(0, 2, 50.0, 60.0) for priority in Priority})
    await house.enter(0, Priority.DEFAULT)
    await house.enter(1, Priority.DEFAULT)
    await house.enter(2, Priority.DEFAULT)
    assert len(house.waiting) == 2
    refused = await house.enter(0, Priority.DEFAULT)
    assert isinstance(refused.task.exception(), Failure)


async def test_tenants_never_share_a_place_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.inference.workers.ledger._PROBES", 8)
    shape = Shape(2, 16, "")
    ledger = Ledger.private(Shape(1, 16, ""))
    places = {}
    for number in range(6):
        places[number] = ledger.place_of(f"tenant {number}")
        ledger.hold(places[number], 1)
    assert len(set(places.values())) == 6
    assert all(ledger.place_of(f"tenant {number}") == place for number, place in places.items())
    for place in places.values():
        ledger.hold(place, -1)
    # What nobody holds any more is another's.
    assert {ledger.place_of(f"later {number}") for number in range(200)} <= set(range(shape.tenants))
