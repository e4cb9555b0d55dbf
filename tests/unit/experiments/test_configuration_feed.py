"""How the configuration reaches its watchers, over the store in memory."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from penstock.assignment import Arm, Unit

from services.chassis.errors import Failure, Reason
from services.experiments.configuration import ConfigurationFeed
from services.experiments.experiments import Design, Experiment, State
from services.experiments.lifecycle import Experiments
from services.experiments.store import Step
from services.experiments.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.experiments.store import Configuration


class FlakyStore(MemoryStore):
    """Does not answer for a number of times."""

    failures = 0

    async def configuration(self) -> Configuration:
        if self.failures:
            self.failures -= 1
            raise Failure(Reason.DATABASE_UNAVAILABLE, "away")
        return await super().configuration()


@asynccontextmanager
async def following(store: MemoryStore) -> AsyncIterator[ConfigurationFeed]:
    feed = ConfigurationFeed(store)
    task = asyncio.create_task(feed.run())
    yield feed
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def run_one(store: MemoryStore, name: str) -> None:
    experiments = Experiments(store)
    await experiments.create(Design(name, "", Unit.USER, (Arm("a", 1), Arm("b", 1))))
    await experiments.start(name)


def ids(configuration: Configuration) -> list[str]:
    return [experiment.id for experiment in configuration.experiments]


async def test_a_slow_watcher_misses_those_in_between_never_the_last() -> None:
    store = MemoryStore()
    async with following(store) as feed, aclosing(feed.watch("slow")) as watch:
        first = await anext(watch)
        for number in range(5):
            await run_one(store, f"e{number}")
            await asyncio.sleep(0)
        revisions = [first.revision]
        while True:
            latest = await asyncio.wait_for(anext(watch), 1)
            revisions.append(latest.revision)
            if len(latest.experiments) == 5:
                break
        assert ids(latest) == [f"e{number}" for number in range(5)]
        assert revisions == sorted(set(revisions))


async def test_draining_ends_every_watch() -> None:
    draining = asyncio.Event()
    async with following(MemoryStore()) as feed:
        ending = asyncio.create_task(feed.end_with(draining))

        async def watch() -> int:
            return len([configuration async for configuration in feed.watch("w")])

        watches = [asyncio.create_task(watch()) for _ in range(3)]
        await asyncio.sleep(0.01)
        draining.set()
        assert await asyncio.wait_for(asyncio.gather(*watches), 1) == [1, 1, 1]
        await ending
        assert await watch() == 0


async def test_a_store_that_is_away_keeps_the_last_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.experiments.configuration._RETRY_SECONDS", 0.01)
    store = FlakyStore()
    async with following(store) as feed, aclosing(feed.watch("w")) as watch:
        assert ids(await anext(watch)) == []
        store.failures = 3
        await run_one(store, "e1")
        assert ids(await asyncio.wait_for(anext(watch), 1)) == ["e1"]
        assert store.failures == 0


async def test_nothing_is_told_twice() -> None:
    store = MemoryStore()
    async with following(store) as feed, aclosing(feed.watch("w")) as watch:
        await anext(watch)
        assert await store.change("missing", lambda found, _: Step(found)) is None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.05)


def test_the_fingerprint_tells_designs_apart() -> None:
    design = Design("e", "h", Unit.USER, (Arm("a", 1), Arm("b", 1)))
    same = Design("e", "h", Unit.USER, (Arm("a", 1), Arm("b", 1)))
    assert design.fingerprint() == same.fingerprint()
    others = [
        Design("e", "h", Unit.REQUEST, (Arm("a", 1), Arm("b", 1))),
        Design("e", "h", Unit.USER, (Arm("b", 1), Arm("a", 1))),
        Design("e", "h", Unit.USER, (Arm("a", 1), Arm("b", 1, temperature=0.0))),
        Design("e", "h2", Unit.USER, (Arm("a", 1), Arm("b", 1))),
    ]
    assert len({design.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_an_experiment_evaluates_as_its_design_says() -> None:
    design = Design("e", "", Unit.USER, (Arm("a", 1), Arm("b", 1, model="m")))
    experiment = Experiment(design, State.RUNNING, 1, "salt", datetime.now(UTC))
    assert {experiment.plan().arm_of(f"u{number}") for number in range(30)} == set(design.variants)
