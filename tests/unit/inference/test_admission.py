from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Failure, Reason
from services.inference.admission import Admission, Class, Priority, classes_for

if TYPE_CHECKING:
    from services.inference.admission import Permit

ROOM, TENANT_ROOM = 8, 3
CLASSES = {
    Priority.SYSTEM: Class(1, 3, 50.0, 2.0),
    Priority.INTERACTIVE: Class(2, 4, 50.0, 4.0),
    Priority.DEFAULT: Class(1, 5, 50.0, 8.0),
    Priority.BULK: Class(0, 6, 50.0, 16.0),
}

ENTER = st.tuples(st.just("enter"), st.sampled_from(Priority), st.sampled_from(["", "a", "b"]))
ENDS = st.tuples(st.sampled_from(["release", "cancel", "release_then_cancel"]), st.integers(0, 30), st.integers(0, 30))
PASSES = st.tuples(st.just("pass"), st.floats(0, 20), st.none())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """An admission under test, and what its callers know."""

    clock: Clock = field(default_factory=Clock)
    waiting: list[tuple[Priority, str, asyncio.Task[Permit]]] = field(default_factory=list)
    held: list[tuple[Priority, str, Permit]] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.admission = Admission(ROOM, CLASSES, tenant_room=TENANT_ROOM, clock=self.clock)

    async def do(self, what: str, first: object, second: object) -> None:
        if what == "enter":
            assert isinstance(first, Priority)
            assert isinstance(second, str)
            self.waiting.append((first, second, asyncio.create_task(self.admission.enter(first, second))))
        elif what == "pass":
            assert isinstance(first, float)
            self.clock.now += first
        else:
            assert isinstance(first, int)
            assert isinstance(second, int)
            if what.startswith("release") and self.held:
                self.held.pop(first % len(self.held))[2].release()
            if what.endswith("cancel") and self.waiting:
                self.waiting[second % len(self.waiting)][2].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        for one in list(self.waiting):
            priority, tenant, task = one
            if not task.done():
                continue
            self.waiting.remove(one)
            if task.cancelled():
                continue
            failure = task.exception()
            if failure is None:
                self.held.append((priority, tenant, task.result()))
            else:
                assert isinstance(failure, Failure)
                assert failure.reason is Reason.OVERLOADED
                self.refused += 1

    def check(self) -> None:
        load = self.admission.load()
        in_use = {priority: sum(one == priority for one, _, _ in self.held) for priority in Priority}
        waiting = {priority: sum(one == priority for one, _, _ in self.waiting) for priority in Priority}
        assert {priority: one.in_use for priority, one in load.items()} == in_use
        assert {priority: one.waiting for priority, one in load.items()} == waiting
        assert self.admission.free == ROOM - len(self.held) >= 0
        kept = {one: max(0, CLASSES[one].reserved - in_use[one]) for one in Priority}
        assert self.admission.free >= sum(kept.values()), "a share was given away"
        by_tenant = {tenant: sum(one == tenant for _, one, _ in self.held) for tenant in "ab"}
        assert max(by_tenant.values()) <= TENANT_ROOM
        for priority, tenant, _ in self.waiting:
            assert waiting[priority] <= CLASSES[priority].queue
            if by_tenant.get(tenant, 0) < TENANT_ROOM:
                others = sum(kept.values()) - kept[priority]
                first_in_line = self.admission.free <= others
                lined_up = sum(one == tenant for _, one, _ in self.waiting) + by_tenant.get(tenant, 0) > TENANT_ROOM
                assert first_in_line or lined_up, "someone waits though there is room"


@given(st.lists(st.one_of(ENTER, ENTER, ENDS, PASSES), max_size=60))
def test_permits_never_leak_shares_hold_and_nobody_waits_in_vain(steps: list[tuple[str, object, object]]) -> None:
    async def play() -> None:
        desk = Desk()
        for step in steps:
            await desk.do(*step)
            desk.check()
        for _, _, task in desk.waiting:
            task.cancel()
        await desk.settle()
        for _, _, permit in desk.held:
            permit.release()
            permit.release()
        assert desk.admission.free == ROOM
        assert all(one.in_use == one.waiting == 0 for one in desk.admission.load().values())
        assert not desk.admission._tenants

    asyncio.run(play())


@given(st.integers(1, 2000))
def test_the_usual_classes_leave_room_for_all(room: int) -> None:
    Admission(room)
    classes = classes_for(room)
    assert sum(one.reserved for one in classes.values()) < room
    assert classes[Priority.BULK].reserved == 0


def test_shares_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="8 of 8 permits"):
        Admission(8, {priority: Class(2, 1, 1, 1) for priority in Priority})


async def filled(admission: Admission, priority: Priority = Priority.BULK) -> list[Permit]:
    """Takes all that is free for the class."""
    permits: list[Permit] = []
    while admission.free > sum(CLASSES[one].reserved for one in Priority):
        permits.append(await admission.enter(priority))
    return permits


async def line_up(admission: Admission, *priorities: Priority, tenant: str = "") -> list[asyncio.Task[Permit]]:
    tasks = [asyncio.create_task(admission.enter(priority, tenant)) for priority in priorities]
    await asyncio.sleep(0)
    return tasks


async def test_a_share_is_kept_for_its_class() -> None:
    admission = Admission(ROOM, CLASSES)
    await filled(admission)
    (bulk,) = await line_up(admission, Priority.BULK)
    permit = await asyncio.wait_for(admission.enter(Priority.INTERACTIVE), 1)
    assert permit.queued == 0
    assert not bulk.done()
    permit.release()
    await asyncio.sleep(0)
    assert not bulk.done(), "what interactive gives back is interactive's"
    bulk.cancel()


async def test_the_highest_class_goes_first_and_a_class_is_served_in_order() -> None:
    clock = Clock()
    admission = Admission(1, {priority: Class(0, 9, 50.0, 60.0) for priority in Priority}, clock=clock)
    permit = await admission.enter(Priority.BULK)
    wanted = (Priority.BULK, Priority.DEFAULT, Priority.DEFAULT, Priority.SYSTEM)
    tasks = await line_up(admission, *wanted)
    order: list[int] = []
    while len(order) < len(tasks):
        clock.now += 1
        permit.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (number,) = [place for place, task in enumerate(tasks) if task.done() and place not in order]
        order.append(number)
        permit = tasks[number].result()
    assert order == [3, 1, 2, 0]
    assert permit.queued == 4


async def test_whoever_has_waited_past_patience_goes_first() -> None:
    clock = Clock()
    admission = Admission(1, {priority: Class(0, 9, 50.0, 5.0 * priority) for priority in Priority}, clock=clock)
    permit = await admission.enter(Priority.DEFAULT)
    (bulk,) = await line_up(admission, Priority.BULK)
    clock.now += 21
    (system,) = await line_up(admission, Priority.SYSTEM)
    permit.release()
    await asyncio.wait([bulk], timeout=1)
    assert bulk.done()
    assert not system.done()
    bulk.result().release()
    (await asyncio.wait_for(system, 1)).release()


async def test_a_full_queue_is_overload_with_a_time_to_come_back() -> None:
    admission = Admission(1, {priority: Class(0, 2, 50.0, 5.0) for priority in Priority})
    permit = await admission.enter(Priority.DEFAULT)
    tasks = await line_up(admission, Priority.DEFAULT, Priority.DEFAULT)
    with pytest.raises(Failure) as caught:
        await admission.enter(Priority.DEFAULT)
    assert caught.value.reason is Reason.OVERLOADED
    assert caught.value.retry_after is not None
    assert 1 <= caught.value.retry_after <= 60
    assert caught.value.metadata == {"priority": "DEFAULT"}
    tasks[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    (again,) = await line_up(admission, Priority.DEFAULT)
    assert not again.done(), "the place of the one who left is free at once"
    permit.release()
    for task in [*tasks[1:], again]:
        (await asyncio.wait_for(task, 1)).release()


async def test_waiting_ends_with_overload_or_with_the_callers_deadline() -> None:
    admission = Admission(1, {priority: Class(0, 9, 0.1, 5.0) for priority in Priority})
    permit = await admission.enter(Priority.BULK)
    with pytest.raises(Failure) as caught:
        await admission.enter(Priority.BULK)
    assert caught.value.reason is Reason.OVERLOADED
    with pytest.raises(Failure) as caught:
        await admission.enter(Priority.BULK, most_seconds=0.01)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    permit.release()
    assert admission.free == 1


async def test_a_tenants_surplus_waits_in_nobodys_way() -> None:
    admission = Admission(4, {priority: Class(0, 9, 50.0, 5.0) for priority in Priority}, tenant_room=2)
    first, second = await admission.enter(Priority.DEFAULT, "a"), await admission.enter(Priority.DEFAULT, "a")
    third, fourth = await line_up(admission, Priority.DEFAULT, Priority.DEFAULT, tenant="a")
    other = await asyncio.wait_for(admission.enter(Priority.DEFAULT, "b"), 1)
    nobodys = await asyncio.wait_for(admission.enter(Priority.DEFAULT), 1)
    assert not third.done()
    first.release()
    (await asyncio.wait_for(third, 1)).release()
    (await asyncio.wait_for(fourth, 1)).release()
    for permit in (second, other, nobodys):
        permit.release()
    assert admission.free == 4


async def test_a_permit_given_in_the_moment_of_leaving_is_handed_on() -> None:
    admission = Admission(1, {priority: Class(0, 9, 50.0, 5.0) for priority in Priority})
    permit = await admission.enter(Priority.DEFAULT)
    leaving, following = await line_up(admission, Priority.DEFAULT, Priority.DEFAULT)
    permit.release()
    leaving.cancel()
    with await asyncio.wait_for(following, 1):
        assert admission.free == 0
    assert leaving.cancelled()
    assert admission.free == 1
