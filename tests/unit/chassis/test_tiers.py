from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from services.chassis.cache.tiers import Lookups, Tiers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shelf:
    """A shared store in a dictionary."""

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.items.get(key) for key in keys]

    def put(self, items: Mapping[bytes, bytes], seconds: float) -> None:
        assert seconds == 60
        self.items.update(items)


async def test_what_is_kept_is_found_until_it_is_old() -> None:
    clock = Clock()
    tiers = Tiers("responses", 1_000_000, 60, clock=clock)
    assert await tiers.get(b"k") is None
    tiers.put({b"k": b"value"})
    clock.now += 59
    assert await tiers.get(b"k") == b"value"
    clock.now += 1
    assert await tiers.get(b"k") is None
    assert tiers.lookups == Lookups(memory=1, missed=2)


async def test_another_process_finds_it_in_the_shared_store_and_it_grows_no_younger_there() -> None:
    clock, shelf = Clock(), Shelf()
    Tiers("responses", 1_000_000, 60, shelf, clock).put({b"k": b"value"})
    other = Tiers("responses", 1_000_000, 60, shelf, clock)
    clock.now += 30
    assert await other.get(b"k") == b"value"
    assert await other.get(b"k") == b"value"
    assert other.lookups == Lookups(memory=1, shared=1)
    clock.now += 30
    assert await other.get(b"k") is None


async def test_caches_of_other_kinds_do_not_meet_in_the_shared_store() -> None:
    shelf = Shelf()
    Tiers("responses", 1_000_000, 60, shelf).put({b"k": b"value"})
    assert await Tiers("embeddings", 1_000_000, 60, shelf).get(b"k") is None


async def test_garbage_in_the_shared_store_is_nothing() -> None:
    shelf = Shelf()
    shelf.items[b"penstock:responses:k"] = b"?"
    assert await Tiers("responses", 1_000_000, 60, shelf).get(b"k") is None


async def test_values_come_in_the_order_of_their_keys() -> None:
    tiers = Tiers("embeddings", 1_000_000, 60)
    tiers.put({b"a": b"1", b"b": b"2"})
    assert await tiers.get_all([b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.integers(0, 30_000)), max_size=60))
async def test_memory_stays_within_its_limit_whatever_is_put_in(items: list[tuple[bytes, int]]) -> None:
    tiers = Tiers("responses", 40_000, 60)
    for key, size in items:
        tiers.put({key: bytes(size)})
        assert tiers.used_bytes <= 40_000


async def test_what_is_asked_for_again_and_again_stays_and_one_giant_pushes_nobody_out() -> None:
    tiers = Tiers("responses", 16_000, 60)
    tiers.put({b"hot": bytes(1592)})
    for _ in range(5):
        assert await tiers.get(b"hot") is not None
    tiers.put({b"giant": bytes(15_000)})
    assert await tiers.get(b"giant") is None
    for number in range(100):
        tiers.put({b"%d" % number: bytes(1592)})
    assert tiers.used_bytes <= 16_000
    assert await tiers.get(b"hot") is not None


async def test_what_becomes_hot_comes_in_though_the_memory_is_full() -> None:
    tiers = Tiers("responses", 16_000, 60)
    for number in range(20):
        tiers.put({b"%d" % number: bytes(1592)})
    for _ in range(5):
        await tiers.get(b"new")
        tiers.put({b"new": bytes(1592)})
        assert tiers.used_bytes <= 16_000
    assert await tiers.get(b"new") is not None
