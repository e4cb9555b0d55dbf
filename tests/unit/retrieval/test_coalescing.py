"""Requests at the same time become one, and nobody waits while nothing is under way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from services.retrieval.caching.coalescing import Coalescer

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


class Source:
    def __init__(self) -> None:
        self.fetched: list[list[str]] = []
        self.gate = asyncio.Event()

    async def fetch(self, _group: Hashable, keys: Sequence[str]) -> dict[str, str]:
        self.fetched.append(list(keys))
        await self.gate.wait()
        if "bad" in keys:
            raise ValueError("bad")
        return {key: key.upper() for key in keys if key != "none"}


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_goes_at_once_and_the_others_together() -> None:
    source = Source()
    together: Coalescer[str, str] = Coalescer(source.fetch, most=8)
    tasks = [asyncio.create_task(together.get("g", [key])) for key in "abca"]
    await settle()
    assert source.fetched == [["a"]]
    source.gate.set()
    found = await asyncio.gather(*tasks)
    assert source.fetched == [["a"], ["b", "c", "a"]], "a second `a` sees nothing older than itself"
    assert [one[key] for one, key in zip(found, "abca", strict=True)] == ["A", "B", "C", "A"]


async def test_batches_are_bounded_and_groups_apart() -> None:
    source = Source()
    together: Coalescer[str, str] = Coalescer(source.fetch, most=2)
    tasks = [asyncio.create_task(together.get("g", [key])) for key in "abcde"]
    tasks.append(asyncio.create_task(together.get("h", ["x"])))
    await settle()
    source.gate.set()
    await asyncio.gather(*tasks)
    assert sorted(map(len, source.fetched)) == [1, 1, 2, 2]
    assert ["x"] in source.fetched


async def test_a_failure_reaches_those_of_its_batch_alone() -> None:
    source = Source()
    together: Coalescer[str, str] = Coalescer(source.fetch, most=2)
    tasks = [asyncio.create_task(together.get("g", [key])) for key in ("a", "bad", "b", "c")]
    await settle()
    source.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, ValueError) for one in found] == [False, True, True, False]
    assert await together.get("g", ["again"]) == {"again": "AGAIN"}


async def test_who_leaves_takes_nothing_away_from_the_others() -> None:
    source = Source()
    together: Coalescer[str, str] = Coalescer(source.fetch, most=8)
    leaving, staying = (asyncio.create_task(together.get("g", [key])) for key in "ab")
    await settle()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    source.gate.set()
    assert (await staying)["b"] == "B"
