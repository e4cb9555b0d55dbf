"""What is recorded, by one process or by several, and what comes of it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.auto.decision import Why
from services.inference.auto.fitting import Fitted
from services.inference.auto.learning import Learning
from services.inference.auto.records import Ending, Feedback, Record, Source, key_of
from services.inference.auto.sqlite import SqliteRecords
from services.inference.policy import Alias, Policy, Routing, Strategy, WeightedModel
from tests.unit.inference.simulated_traffic import dice, request
from tests.unit.inference.test_models import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ROUTING = Routing(Strategy.COMPLEXITY, target=0.8, outcomes=20)
POLICY = Policy(
    {"auto": Alias((WeightedModel("small"), WeightedModel("large")), routing=ROUTING), "plain": Alias((WeightedModel("x"),))}
)


def record(name: str, model: str = "small", ending: Ending = Ending.WELL, alias: str = "auto") -> Record:
    vector = request(dice(len(name))).vector()
    return Record(key_of("", name), alias, model, Why.EXPLORED, 0.5, vector, ending, 12, time.time())


def feedback(name: str, reward: float, source: Source = Source.USER) -> Feedback:
    return Feedback(key_of("", name), source, reward, time.time())


def size_of(path: Path) -> int:
    return path.stat().st_size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "routing.db"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def learning(stack: AsyncExitStack, path: Path, policy: Policy = POLICY, **limits: int) -> Learning:
    return await stack.enter_async_context(Learning(SqliteRecords(path, **limits), lambda: policy, 0.02))


async def test_feedback_meets_its_request_whichever_comes_first(path: Path) -> None:
    records = SqliteRecords(path)
    assert await records.add_feedback([feedback("early", 0.0), feedback("late", 0.0)]) == [False, False]
    await records.add([record("early"), record("late"), record("none")])
    assert await records.add_feedback([feedback("late", 0.7), feedback("late", 0.9), feedback("nobody", 1.0)]) == [
        True,
        True,
        False,
    ]
    assert [one.reward for one in await records.outcomes("auto")] == [0.0, 0.9, None]
    await records.close()


async def test_a_persons_word_goes_before_a_programs(path: Path) -> None:
    records = SqliteRecords(path)
    await records.add([record("r")])
    await records.add_feedback([feedback("r", 0.2, Source.EVALUATOR)])
    assert [one.reward for one in await records.outcomes("auto")] == [0.2]
    await records.add_feedback([feedback("r", 1.0)])
    await records.add_feedback([feedback("r", 0.3, Source.EVALUATOR)])
    assert [one.reward for one in await records.outcomes("auto")] == [1.0]
    await records.close()


async def test_tenants_cannot_speak_of_each_others_requests(path: Path) -> None:
    records = SqliteRecords(path)
    await records.add([replace(record("r"), key=key_of("one", "r"))])
    assert await records.add_feedback([Feedback(key_of("two", "r"), Source.USER, 0.0, 0.0)]) == [False]
    assert [one.reward for one in await records.outcomes("auto")] == [None]
    await records.close()


async def test_what_comes_back_is_what_was_recorded(path: Path) -> None:
    records = SqliteRecords(path)
    kept = record("r", "large", Ending.CUT)
    await records.add([kept])
    (outcome,) = await records.outcomes("auto")
    assert (outcome.model, outcome.why, outcome.propensity, outcome.ending, outcome.output_tokens) == (
        "large",
        Why.EXPLORED,
        0.5,
        Ending.CUT,
        12,
    )
    assert outcome.vector == kept.vector
    await records.close()


async def test_the_oldest_records_of_a_model_go_and_the_file_stops_growing(path: Path) -> None:
    records = SqliteRecords(path, most_of_a_model=50, most=120)
    sizes = []
    await records.add([record(f"rare{number}", "large") for number in range(10)])
    for part in range(6):
        await records.add([record(f"{part}/{number}") for number in range(500)])
        await records.add_feedback([feedback(f"{part}/{number}", 1.0) for number in range(500)])
        sizes.append(size_of(path))
    outcomes = await records.outcomes("auto")
    # What is seldom asked is not pushed out by what is asked often.
    assert [one.model for one in outcomes].count("large") == 10
    assert [one.model for one in outcomes].count("small") == 50
    assert sizes[-1] <= sizes[2]
    await records.close()
    rows = sqlite3.connect(path)
    assert rows.execute("select count(*) from feedback").fetchone()[0] <= 120
    rows.close()


async def test_it_learns_by_itself_and_knows_it_after_a_restart(path: Path) -> None:
    async with AsyncExitStack() as stack:
        one = await learning(stack, path)
        for number in range(60):
            one.record(record(f"r{number}", "small" if number % 2 else "large"))
        assert await one.feedback(feedback("r0", 1.0)) in {True, False}
        await asyncio.gather(*(one.feedback(feedback(f"r{number}", float(number % 2))) for number in range(1, 60)))
        await until(
            lambda: (fitted := one.fitted("auto")) is not None and fitted.lesson is not None and fitted.lesson.rewards == 60
        )
        revision = (await one.standings("auto"))[0].fitted
    async with AsyncExitStack() as stack:
        again = await learning(stack, path)
        await until(lambda: again.fitted("auto") is not None)
        assert again.fitted("auto") == revision
        (standing,) = await again.standings()
        assert (standing.alias, standing.newer, standing.models) == ("auto", 0, ("small", "large"))


async def test_processes_share_what_they_learn_and_one_at_a_time_fits(stack: AsyncExitStack, path: Path) -> None:
    several = [await learning(stack, path) for _ in range(3)]
    for number in range(90):
        several[number % 3].record(record(f"r{number}"))
    # Feedback may reach another process than the request did.
    await asyncio.gather(*(several[(number + 1) % 3].feedback(feedback(f"r{number}", 1.0)) for number in range(90)))

    def known() -> set[int]:
        return {
            0 if (fitted := one.fitted("auto")) is None or fitted.lesson is None else fitted.lesson.rewards for one in several
        }

    await until(lambda: sum(one.written for one in several) == 90)
    fitted = (await several[0].calibrate("auto")).fitted
    assert fitted is not None
    await until(lambda: known() == {90})
    assert {one.fitted("auto") == fitted for one in several} == {True}
    # Asked again with nothing new, it stays as it is.
    assert (await several[1].calibrate("auto")).fitted == fitted
    leases = [SqliteRecords(path) for _ in range(2)]
    taken = [await one.lease(60.0) for one in leases]
    assert sum(taken) <= 1
    for one in leases:
        await one.close()


async def test_what_the_policy_does_not_route_is_not_found(stack: AsyncExitStack, path: Path) -> None:
    one = await learning(stack, path)
    for name in ("plain", "gone"):
        for call in (one.calibrate, one.standings):
            with pytest.raises(Failure) as caught:
                await call(name)
            assert caught.value.reason is Reason.ALIAS_NOT_FOUND
            assert caught.value.metadata == {"alias": name}


async def test_a_file_that_cannot_be_used_refuses_feedback_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "routing.db").write_bytes(b"no database at all, but quite some bytes of something else" * 100)
    async with AsyncExitStack() as stack:
        one = await learning(stack, tmp_path / "routing.db")
        one.record(record("r"))
        with pytest.raises(Failure) as caught:
            await one.feedback(feedback("r", 1.0))
        assert caught.value.reason is Reason.DATABASE_UNAVAILABLE
        assert one.fitted("auto") is None
        # It is tried again, and found well once it is.
        (tmp_path / "routing.db").unlink()
        await until(lambda: one.written == 1)
        assert await one.feedback(feedback("r", 1.0))


async def test_more_records_than_can_be_written_are_left_out_and_counted(path: Path) -> None:
    one = Learning(SqliteRecords(path), lambda: POLICY)
    for _ in range(5000):
        one.record(record("r"))
    assert one.dropped == 5000 - 4096


async def test_a_fit_of_another_version_is_left_out(path: Path) -> None:
    records = SqliteRecords(path)
    await records.keep("auto", Fitted("old", 1.0, 1, 1, 0.5))
    with sqlite3.connect(path) as rows:
        rows.execute("update fits set revision = 'other', body = ?", (b'{"revision": 7}',))
    rows.close()
    assert await records.fits() == {}
    await records.keep("auto", fitted := Fitted("new", 1.0, 1, 1, 0.5))
    assert await records.fits() == {"auto": fitted}
    await records.close()
