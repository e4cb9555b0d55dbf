"""The end of the background work, whatever happens in the same moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from services.retrieval.ingestion.indexer import Indexer
from services.retrieval.ingestion.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from uuid import UUID

    from services.retrieval.ingestion.jobs import Erasure, Expected


class NothingToDo:
    """A queue that is empty."""

    async def claim(self, lease: UUID, most: int) -> int:  # noqa: ARG002 - as the next: there is nothing
        return 0

    async def erase(self, most: int, erase: Callable[[Erasure], Awaitable[None]]) -> int:  # noqa: ARG002 - as above
        return 0

    async def expire(self, most: int) -> int:  # noqa: ARG002 - as above
        return 0

    async def forget(self, days: int, most: int) -> int:  # noqa: ARG002 - as above
        return 0

    async def supersede(self) -> None:
        return

    async def close_ingestions(self) -> int:
        return 0

    async def expected(self) -> list[Expected]:
        return []

    async def analyze_anew(self, analyzer: int, changed_after: Mapping[int, str]) -> int:  # noqa: ARG002 - as above
        return 0


async def test_it_ends_though_it_is_woken_in_the_moment_of_its_end() -> None:
    unused: Any = None
    queue: Any = NothingToDo()
    upkeep = Upkeep(queue, queue, queue, unused, keep_days=1)
    indexer = Indexer(queue, queue, unused, unused, upkeep, wait_seconds=1)
    async with asyncio.timeout(5):
        async with indexer.running():
            await asyncio.sleep(0.05)
            indexer.wake()
