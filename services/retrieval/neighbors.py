"""Widens passages by the chunks of their document before and after them, or by their section."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.retrieval.store import point_uid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from services.retrieval.ranking import Placed
    from services.retrieval.store import Candidate, Store


class Neighborhood:
    """Knows the neighbors of chunks: ids of points are made of document, edition and place, so they can be told."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def around(
        self, collection_uid: UUID, found: Sequence[Placed], reach: int, *, section: bool = False
    ) -> dict[UUID, tuple[int, str]]:
        """For each chunk where the wider passage starts, and its text.

        Args:
            collection_uid: The index that holds the chunks.
            found: The chunks.
            reach: How many chunks before and after each to add.
            section: Whether to add all of the section that the chunk stands in.

        Raises:
            Failure: STORE_UNAVAILABLE.
            CollectionMissingError: the store does not hold the collection.
        """
        wanted = {one.candidate.uid: _neighbors(one, reach, section=section) for one in found}
        others = {uid for uids in wanted.values() for uid in uids} - wanted.keys()
        chunks = await self._store.fetch(collection_uid, list(others), dense=False) if others else {}
        chunks.update((one.candidate.uid, one.candidate) for one in found)
        return {uid: joined([chunks[one] for one in uids if one in chunks]) for uid, uids in wanted.items()}


def _neighbors(placed: Placed, reach: int, *, section: bool) -> list[UUID]:
    """The ids of the chunk and its neighbors, in the order of the text."""
    candidate, count = placed.candidate, placed.live.chunk_count
    own = candidate.where.ordinal if candidate.where.ordinal >= 0 else _ordinal(candidate, count)
    if own is None:
        return [candidate.uid]
    first, last = own - reach, own + reach
    if section and candidate.where.ordinal >= 0:
        first, last = min(first, candidate.where.section[0]), max(last, candidate.where.section[1])
    return [
        point_uid(candidate.document_uid, candidate.edition, ordinal) for ordinal in range(max(0, first), min(count, last + 1))
    ]


def _ordinal(candidate: Candidate, count: int) -> int | None:
    """The place of a chunk that was written before places were kept: it has the id that is made of it."""
    uids = (point_uid(candidate.document_uid, candidate.edition, ordinal) for ordinal in range(count))
    return next((ordinal for ordinal, uid in enumerate(uids) if uid == candidate.uid), None)


def joined(chunks: Sequence[Candidate]) -> tuple[int, str]:
    """Where chunks that follow one another start, and their text without what they overlap.

    Between chunks there is white space at most; it is made up here, as long as it was.
    """
    start = end = chunks[0].start
    text = ""
    for chunk in chunks:
        gap = chunk.start - end
        if gap > 0:
            text += " " if gap == 1 else "\n" * gap
        text += chunk.text[max(0, -gap) :]
        end = max(end, chunk.end)
    return start, text
