"""What several workers share on one machine, with real processes where one of them has to die."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.chassis.channels import one_target
from services.inference.admission import Admission, Class, Priority
from services.inference.policy import Alias, Policy, WeightedModel
from services.inference.policy_file import PolicyFile
from services.inference.resilience import Breaker, BreakerLimits, BreakerState
from services.inference.workers.ledger import LedgerError
from services.inference.workers.rooms import Rooms
from services.inference.workers.seats import Seats, SeatTakenError
from services.inference.workers.standings import SharedStanding

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
CLASSES = {priority: Class(0, 20, 20.0, 5.0) for priority in Priority}
# Takes permits for a tenant, lines one request up, says so, and stays until it is killed.
GREEDY = """
import asyncio, pathlib, sys
from services.inference.admission import Class, Priority
from services.inference.workers.rooms import Rooms
from services.inference.workers.seats import Seats

async def main():
    classes = {priority: Class(0, 20, 20.0, 5.0) for priority in Priority}
    async with Seats(pathlib.Path(sys.argv[1]), 1, 2) as seats:
        room = Rooms(seats, 2).open("work", 4, classes, tenant_room=2)
        permits = [await room.enter(Priority.DEFAULT, tenant) for tenant in ("a", "a", "", "")]
        waiting = [asyncio.create_task(room.enter(Priority.DEFAULT)) for _ in range(3)]
        await asyncio.sleep(0)
        print("full", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def greedy(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", GREEDY, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "full\n"
    return process


def opened(seats: Seats) -> Admission:
    return Rooms(seats, 2).open("work", 4, CLASSES, tenant_room=2)


async def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.01)


async def test_a_killed_process_gives_everything_back(tmp_path: Path) -> None:
    with greedy(tmp_path) as other:
        async with Seats(tmp_path, 0, 2) as seats:
            room = opened(seats)
            assert room.free == 0
            waiting = [asyncio.create_task(room.enter(Priority.DEFAULT, tenant)) for tenant in ("a", "a", "", "")]
            await asyncio.sleep(0.3)
            assert not any(task.done() for task in waiting)
            other.kill()
            other.wait(10)
            async with asyncio.timeout(10):
                permits = await asyncio.gather(*waiting)
            assert room.free == 0
            for permit in permits:
                permit.release()
            assert room.free == 4


async def test_a_process_that_ends_well_leaves_nothing_either(tmp_path: Path) -> None:
    async with Seats(tmp_path, 0, 2) as seats:
        room = opened(seats)
        async with Seats(tmp_path, 1, 2) as others:
            await opened(others).enter(Priority.BULK, "a")
            assert room.free == 3
        assert room.free == 4


async def test_who_gives_back_wakes_the_other_process(tmp_path: Path) -> None:
    # So long that nobody looks by himself.
    async with Seats(tmp_path, 0, 2, look_seconds=100) as here, Seats(tmp_path, 1, 2, look_seconds=100) as there:
        one, other = opened(here), opened(there)
        permits = [await one.enter(Priority.DEFAULT) for _ in range(4)]
        waiting = [asyncio.create_task(other.enter(Priority.DEFAULT)) for _ in range(2)]
        await asyncio.sleep(0)
        for permit in permits[:2]:
            permit.release()
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
        assert one.free == other.free == 0


async def test_a_seat_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.inference.workers.seats._TAKE_SECONDS", 0.05)
    async with Seats(tmp_path, 0, 2):
        with pytest.raises(SeatTakenError, match="worker 1 of 2"):
            Seats(tmp_path, 0, 2).take()


async def test_workers_with_other_limits_do_not_share_a_room(tmp_path: Path) -> None:
    async with Seats(tmp_path, 0, 2) as here:
        opened(here)
        async with Seats(tmp_path, 1, 2) as there:
            with pytest.raises(LedgerError, match="other limits"):
                Rooms(there, 2).open("work", 5, CLASSES, tenant_room=2)
    async with Seats(tmp_path, 1, 2) as alone:
        assert Rooms(alone, 2).open("work", 5, CLASSES, tenant_room=2).free == 5


async def test_a_topic_reaches_all_others_and_a_dead_one_does_no_harm(tmp_path: Path) -> None:
    heard: list[str] = []
    async with Seats(tmp_path, 0, 3) as first, Seats(tmp_path, 1, 3) as second:
        second.listen("policy", lambda: heard.append("policy"))
        second.listen("models", lambda: heard.append("models"))
        first.tell("policy")
        first.tell("unheard")
        await until(lambda: heard == ["policy"])
        assert first.lives(1)
        assert not first.lives(2)
        assert not first.ring(2, "policy")
    assert first.mine == 0


async def test_a_breaker_opens_and_closes_for_all(tmp_path: Path) -> None:
    limits = BreakerLimits(in_a_row=2, pause=0.05)
    async with Seats(tmp_path, 0, 2) as here:
        one = Breaker(limits, standing=SharedStanding(here.page("b"), here))
        async with Seats(tmp_path, 1, 2) as there:
            other = Breaker(limits, standing=SharedStanding(there.page("b"), there))
            early = other.enter()
            for _ in range(2):
                one.failed(one.enter())
            assert {one.state, other.state} == {BreakerState.OPEN}
            assert not other.lets_through()
            other.succeeded(early)
            assert not one.lets_through(), "what was asked before tells nothing of now"
            await until(lambda: other.state is BreakerState.HALF_OPEN)
            other.enter()
            assert not one.lets_through(), "one probe at a time, over all"
        # The prober is gone without a word.
        assert one.lets_through()
        one.succeeded(one.enter())
        assert {one.state} == {BreakerState.CLOSED}


async def test_a_policy_is_looked_at_at_once_when_another_process_has_changed_it(tmp_path: Path) -> None:
    told: list[bool] = []
    policy = Policy(aliases={"quick": Alias(models=(WeightedModel("tiny"),))})
    path = tmp_path / "policy.yaml"
    async with (
        PolicyFile(path, seconds=1000, changed=lambda: told.append(True)) as one,
        PolicyFile(path, seconds=1000) as other,
    ):
        changed = await one.update(policy)
        assert told == [True]
        other.look()
        await until(lambda: other.current.revision == changed.revision)
        assert "quick" in other.policy.aliases


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("host:1", "host:1"),
        ("127.0.0.1:1, 127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_several_addresses_are_one_target(given: str, target: str) -> None:
    assert one_target(given) == target
