"""What is remembered of words, while many ask at the same time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from services.retrieval import rarity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import pytest


class SlowStore:
    """Every term is as rare as its number says; answers once `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked: list[Sequence[int]] = []

    async def rarities(self, collection_uid: UUID, term_ids: Sequence[int]) -> dict[int, float]:  # noqa: ARG002 - one only
        self.asked.append(term_ids)
        await self.gate.wait()
        return {term: float(term) for term in term_ids if term}


async def test_a_term_is_asked_for_once_and_an_unknown_one_is_as_rare_as_the_rarest() -> None:
    store: Any = SlowStore()
    store.gate.set()
    rarities, uid = rarity.Rarities(store), uuid4()
    assert await rarities.of(uid, [1, 2, 0]) == {1: 1.0, 2: 2.0, 0: 2.0}
    assert await rarities.of(uid, [2, 3]) == {2: 2.0, 3: 3.0}
    assert store.asked == [[1, 2, 0], [3]]


async def test_what_others_push_out_meanwhile_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rarity, "_MOST_REMEMBERED", 2)
    store: Any = SlowStore()
    store.gate.set()
    rarities, uid = rarity.Rarities(store), uuid4()
    await rarities.of(uid, [1])
    store.gate.clear()
    others, own = asyncio.create_task(rarities.of(uid, [7, 8, 9])), asyncio.create_task(rarities.of(uid, [1, 2]))
    await asyncio.sleep(0)
    store.gate.set()
    assert await own == {1: 1.0, 2: 2.0}
    assert await others == {7: 7.0, 8: 8.0, 9: 9.0}
