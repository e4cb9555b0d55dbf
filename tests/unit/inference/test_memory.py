"""Who may stay in memory, by figures that the test sets."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.chassis.errors import Failure, Reason
from services.inference.memory import Memory, size_of, told

MIB = 1 << 20


class Machine:
    """Memory of which tenants take what they were expected to, once they have settled."""

    def __init__(self, total: int) -> None:
        self.free = total

    def __call__(self) -> int:
        return self.free


class Lodger:
    def __init__(self, machine: Machine, name: str, size: int, *, gives_back: bool = True) -> None:
        self.machine = machine
        self.name = name
        self.expected_bytes = size
        self.users = 0
        self.last_used = time.monotonic()
        self.settled = False
        self.left = False
        self.gives_back = gives_back

    def is_settled(self) -> bool:
        return self.settled

    def settle(self) -> None:
        self.settled = True
        self.machine.free -= self.expected_bytes
        self.last_used = time.monotonic()

    async def leave(self) -> None:
        assert not self.users
        assert not self.left
        await asyncio.sleep(0)
        self.left = True
        if self.gives_back:
            self.machine.free += self.expected_bytes


async def moved_in(memory: Memory, machine: Machine, *names: str, size: int = 100) -> list[Lodger]:
    lodgers = [Lodger(machine, name, size) for name in names]
    for lodger in lodgers:
        await memory.admit(lodger)
        lodger.settle()
    return lodgers


async def test_without_limits_all_are_admitted() -> None:
    machine = Machine(0)
    memory = Memory(available=machine)
    await moved_in(memory, machine, "a", "b", size=MIB)
    assert memory.expected_bytes == 2 * MIB


async def test_the_least_recently_used_idle_model_makes_room_and_one_in_use_never() -> None:
    machine = Machine(10_000)
    memory = Memory(most=300, available=machine)
    used, older, newer = await moved_in(memory, machine, "used", "older", "newer")
    used.users = 1
    await moved_in(memory, machine, "next")
    assert (used.left, older.left, newer.left) == (False, True, False)
    newer.users = 1
    (latest,) = await moved_in(memory, machine, "latest")
    assert not used.left
    assert not newer.left
    assert memory.expected_bytes == 300
    assert not latest.left


async def test_min_memory_stays_available() -> None:
    machine = Machine(350)
    memory = Memory(least=100, available=machine)
    first, second = await moved_in(memory, machine, "first", "second")
    await moved_in(memory, machine, "third")
    assert (first.left, second.left) == (True, False)
    assert machine.free >= 100


async def test_what_is_promised_to_a_model_that_still_loads_is_not_given_away_twice() -> None:
    machine = Machine(250)
    memory = Memory(least=100, available=machine)
    loading = Lodger(machine, "loading", 100)
    await memory.admit(loading)
    with pytest.raises(Failure) as caught:
        await memory.admit(Lodger(machine, "other", 100))
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert caught.value.retry_after is not None
    loading.settle()
    await memory.admit(Lodger(machine, "other", 100))
    assert loading.left


async def test_a_refusal_tells_the_figures_and_unloads_nothing() -> None:
    machine = Machine(1000 * MIB)
    memory = Memory(least=100 * MIB, most=300 * MIB, available=machine)
    (idle,) = await moved_in(memory, machine, "idle", size=100 * MIB)
    with pytest.raises(Failure) as caught:
        await memory.admit(Lodger(machine, "huge", 301 * MIB))
    failure = caught.value
    assert failure.reason is Reason.OUT_OF_MEMORY
    assert failure.retry_after is None  # it will never fit
    assert failure.metadata == {
        "model": "huge",
        "needed_bytes": str(301 * MIB),
        "available_bytes": str(900 * MIB),
        "min_bytes": str(100 * MIB),
        "max_bytes": str(300 * MIB),
        "in_use_bytes": "0",
    }
    for part in ("301 MiB", "900 MiB", "100 MiB", "300 MiB", "MIN_MEMORY", "MAX_MEMORY"):
        assert part in failure.message
    assert not idle.left


async def test_a_refusal_for_what_is_in_use_says_when_to_come_back() -> None:
    machine = Machine(1000)
    memory = Memory(most=150, available=machine)
    (used,) = await moved_in(memory, machine, "used")
    used.users = 1
    with pytest.raises(Failure) as caught:
        await memory.admit(Lodger(machine, "next", 100))
    assert caught.value.retry_after is not None
    assert caught.value.metadata["in_use_bytes"] == "100"


async def test_a_model_that_gives_nothing_back_does_not_make_it_spin() -> None:
    machine = Machine(300)
    memory = Memory(least=100, available=machine)
    for name in ("a", "b"):
        lodger = Lodger(machine, name, 100, gives_back=False)
        await memory.admit(lodger)
        lodger.settle()
    with pytest.raises(Failure) as caught:
        await asyncio.wait_for(memory.admit(Lodger(machine, "c", 150)), 2)
    assert caught.value.reason is Reason.OUT_OF_MEMORY


async def test_memory_that_becomes_tight_is_relieved_by_idle_models() -> None:
    machine = Machine(500)
    async with Memory(least=100, available=machine, watch_seconds=0.01) as memory:
        used, older, newer = await moved_in(memory, machine, "used", "older", "newer")
        used.users = 1
        machine.free -= 150  # something else took it
        async with asyncio.timeout(5):
            while not older.left:  # noqa: ASYNC110 - it is watched, not told
                await asyncio.sleep(0.005)
        assert (used.left, newer.left) == (False, False)


async def test_optimizing_unloads_what_has_been_idle_for_long_enough() -> None:
    machine = Machine(1000)
    memory = Memory(available=machine)
    used, older, newer = await moved_in(memory, machine, "used", "older", "newer")
    used.users = 1
    older.last_used -= 60
    assert await memory.unload_idle(30) == ["older"]
    assert await memory.unload_idle() == ["newer"]
    assert not used.left
    assert newer.left


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1024", 1024), ("2GiB", 2 << 30), ("1.5 MiB", 3 << 19), ("500MB", 500_000_000), ("7b", 7), (" 1 kb ", 1000)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "2 gigs", "-1", "1e9", "2GiBs"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="2GiB"):
        size_of(text)


@given(st.integers(0, 1 << 50))
@example(1_046_900)
def test_a_size_that_is_told_can_be_read_back(size: int) -> None:
    assert size_of(told(size)) == pytest.approx(size, rel=0.006)
